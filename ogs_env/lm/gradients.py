"""Exact per-sample gradients of LoRA weights, computed in hooks."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import linear

from ogs_env.errors import InputError
from ogs_env.lm.losses import response_losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ogs_env.lm.adapter import Proxy

# A layer's output, and what receives its gradient.
_Adapted = tuple[torch.Tensor, Callable[[torch.Tensor], None]]


def per_sample_gradients(
    model: "PreTrainedModel",
    modules: Mapping[str, nn.Module],
    batch: dict[str, torch.Tensor],
    consume: Callable[[str, torch.Tensor], None],
) -> torch.Tensor:
    """Pass the gradient of each sample's loss to `consume`, layer by layer.

    For a linear layer with inputs a_t and output gradients b_t at token t, the
    gradient of a sample's loss is the sum over its tokens of b_t a_t^T; padding
    has b_t = 0. One forward and one backward pass suffice for the whole batch, and
    a layer's gradients are freed when `consume` returns, which bounds the memory.

    Args:
        model: A causal LM whose only trainable weights are those of `modules`.
        modules: Linear layers without bias, by name.
        batch: As made by `ogs_env.lm.encoding.collate`.
        consume: Called once per layer with its name and float32 (n, out, in), in
            the order of the backward pass.

    Returns:
        float32 (n,), each sample's loss in nats per response token.

    Raises:
        InputError: If the model does not run each module exactly once on every token
            of the batch, so that gradients cannot be assigned to samples.
    """
    shape = batch["input_ids"].shape

    def adapt(name: str, inputs: torch.Tensor, output: torch.Tensor) -> _Adapted:
        activations = _by_sample(model, name, inputs.detach(), shape)

        def receive(gradient: torch.Tensor) -> None:
            by_sample = _by_sample(model, name, gradient, shape)
            by_sample = by_sample.transpose(1, 2).to(activations.dtype)
            consume(name, torch.bmm(by_sample, activations))

        return output, receive

    try:
        return _pass(model, modules, batch, adapt)
    finally:
        model.zero_grad(set_to_none=True)


def b_gradients(
    proxy: "Proxy",
    batch: dict[str, torch.Tensor],
    consume: Callable[[str, torch.Tensor], None],
) -> torch.Tensor:
    """Pass the gradients of the adapter's B to `consume`, layer by layer.

    With B = 0 the adapter changes neither the model's outputs nor any gradient of its
    states, so the pass runs without it, in less time and memory. Arguments, result and
    errors are those of `per_sample_gradients` with `proxy.b`.

    Args:
        proxy: A proxy.
        batch: As made by `ogs_env.lm.encoding.collate`.
        consume: Called once per layer with its name and float32 (n, out, rank).
    """
    # One value, because reading each waits for a graphics card.
    if torch.stack([layer.weight.any() for layer in proxy.b.values()]).any():
        return per_sample_gradients(proxy.model, proxy.b, batch, consume)
    return _without_weights(proxy, batch, consume, is_fresh=True)


def adapter_gradients(
    proxy: "Proxy",
    batch: dict[str, torch.Tensor],
    consume: Callable[[str, torch.Tensor], None],
) -> torch.Tensor:
    """Pass the gradients of the adapter's A and B to `consume`, layer by layer.

    They are those of `per_sample_gradients` with `proxy.a` and `proxy.b`, in less time
    and memory: autograd needs none of the adapter's weights, whose part is computed in
    the model's precision. Result and errors are the same.

    Args:
        proxy: A proxy of `attach_adapter`: its adapter is LoRA without variants, and
            the model has no other.
        batch: As made by `ogs_env.lm.encoding.collate`.
        consume: Called with the name of a layer of the adapter and float32
            (n, out, rank) for B and (n, rank, in) for A.
    """
    return _without_weights(proxy, batch, consume, is_fresh=False)


def _without_weights(
    proxy: "Proxy",
    batch: dict[str, torch.Tensor],
    consume: Callable[[str, torch.Tensor], None],
    is_fresh: bool,
) -> torch.Tensor:
    """Pass gradients of B, and of A unless B = 0, without autograd of the adapter.

    An adapted layer W with inputs a_t has outputs W a_t + s B A a_t, and with output
    gradients b_t the gradient of B is the sum over tokens of s b_t (A a_t)^T, that of A
    the sum of s B^T b_t a_t^T.
    """
    causal = proxy.model.get_base_model()
    paths = [name.removesuffix(".lora_B") for name in proxy.b]
    layers = {path: causal.get_submodule(path) for path in paths}
    shape = batch["input_ids"].shape

    def adapt(path: str, inputs: torch.Tensor, output: torch.Tensor) -> _Adapted:
        a = proxy.a[f"{path}.lora_A"].weight.detach()
        b = proxy.b[f"{path}.lora_B"].weight.detach()
        [scale] = layers[path].scaling.values()
        if not is_fresh:
            low = linear(linear(inputs, a.to(inputs.dtype)), b.to(inputs.dtype))
            output = output + low * scale
        states = _by_sample(proxy.model, path, inputs.detach(), shape)
        reduced = linear(states.to(a.dtype), a) * scale

        def receive(gradient: torch.Tensor) -> None:
            by_sample = _by_sample(proxy.model, path, gradient, shape).to(b.dtype)
            products = torch.bmm(by_sample.transpose(1, 2), reduced)
            consume(f"{path}.lora_B", products)
            if not is_fresh:
                back = (by_sample @ b * scale).transpose(1, 2)
                consume(f"{path}.lora_A", torch.bmm(back, states.to(a.dtype)))

        return output, receive

    with proxy.model.disable_adapter():
        return _pass(proxy.model, layers, batch, adapt)


def _pass(
    model: Any,
    modules: Mapping[str, nn.Module],
    batch: dict[str, torch.Tensor],
    adapt: Callable[[str, torch.Tensor, torch.Tensor], _Adapted],
) -> torch.Tensor:
    """Run a pass in which `adapt` gets inputs and outputs of modules, by name."""
    handles = []
    missing = set(modules)

    def add_hooks(name: str, module: nn.Module) -> None:
        def forward_hook(
            _: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor
        ) -> torch.Tensor:
            output, receive = adapt(name, inputs[0], output)
            if not output.requires_grad:
                # A copy, because a model may change it in place.
                output = output.requires_grad_().clone()

            def backward_hook(gradient: torch.Tensor) -> None:
                missing.discard(name)
                receive(gradient)

            output.register_hook(backward_hook)
            return output

        handles.append(module.register_forward_hook(forward_hook))

    try:
        for name, module in modules.items():
            add_hooks(name, module)
        losses = response_losses(model, batch)
        # Losses are independent, so the sum's gradients are those of each sample.
        losses.sum().backward()
        if missing:
            raise InputError(
                f"model {_architecture(model)}: the layer {min(missing)} takes no part "
                "in a pass, or not by its own forward; expected a transformer such as "
                "Llama, Qwen or GPT-2"
            )
    finally:
        for handle in handles:
            handle.remove()
    return losses.detach()


def _by_sample(
    model: "PreTrainedModel", name: str, values: torch.Tensor, shape: torch.Size
) -> torch.Tensor:
    """Return a layer's inputs or gradients as (n, tokens, width).

    Some models run a layer on the concatenated tokens of all samples, or insert an
    axis of length 1.
    """
    axes = [length for length in values.shape[:-1] if length != 1]
    by_sample = [length for length in shape if length != 1]
    if axes not in (by_sample, [shape.numel()]):
        raise InputError(
            f"model {_architecture(model)}: the layer {name} does not process each "
            "token of each sample in its place, as with routed experts; expected a "
            "model without such layers, or fewer adapted layers"
        )
    return values.reshape(*shape, values.shape[-1])


def _architecture(model: Any) -> str:
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    return type(causal).__name__


@contextlib.contextmanager
def shared_trunk(trunk: list[nn.Module]) -> Iterator[None]:
    """Run frozen layers only once for several passes over the same batch.

    Within the block, the first pass runs `trunk` as usual and caches the output of
    its last layer; in later passes every trunk layer returns this output. This is
    correct only while the inputs and all weights up to the trunk's end stay the same.

    Args:
        trunk: Consecutive decoder layers, starting with the first; may be empty.
    """
    cache: list[Any] = []
    originals = [layer.forward for layer in trunk]

    def wrap(original: Callable[..., Any], last: bool) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if cache:
                return cache[0]
            output = original(*args, **kwargs)
            if last:
                cache.append(output)
            return output

        return forward

    try:
        for number, layer in enumerate(trunk):
            layer.forward = wrap(originals[number], number == len(trunk) - 1)
        yield
    finally:
        for layer in trunk:
            del layer.forward
