"""The model that is being trained, as a proxy whose gradients can be sketched."""

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ogs_env.errors import InputError
from ogs_env.lm.adapter import Proxy, adapted_layers, attach_adapter, draw_adapter
from ogs_env.lm.loading import load_model
from ogs_env.lm.losses import has_plain_head

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ogs_env.bundle import Bundle


def current_proxy(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    layers: int,
    rank: int,
    seed: int,
) -> Proxy:
    """Return a proxy of a model at its current weights.

    The proxy has modules of its own, which share the storage of the model's weights.
    So nothing that is done with it reaches the model: gradients, `requires_grad`,
    training mode, hooks and the optimizer's state stay as they are. The model must not
    be trained while the proxy is in use.

    The proxy's adapter is the model's own if it is trained with LoRA, else a fresh one,
    which leaves the output unchanged.

    Args:
        model: A causal LM, with or without an adapter of PEFT.
        tokenizer: Its tokenizer.
        layers: How many decoder layers, counted from the last, carry the sketched
            adapter; all if the model has fewer.
        rank: Rank of a fresh adapter; its alpha is twice that.
        seed: Seed of a fresh adapter.

    Raises:
        InputError: If the model has an adapter without trained LoRA weights in these
            layers, or another kind of adapter, or cannot carry one.
    """
    twin = _twin(model)
    if not has_adapter(model):
        return attach_adapter(
            twin, tokenizer, rank=rank, alpha=2 * rank, layers=layers, seed=seed
        )
    trained = {
        name for name, weight in model.named_parameters() if weight.requires_grad
    }
    return _with_own_adapter(twin, tokenizer, trained, layers)


def has_adapter(model: Any) -> bool:
    """Whether a model is wrapped by PEFT."""
    from peft import PeftModel

    return isinstance(model, PeftModel)


def _twin(model: Any) -> Any:
    """Copy a model's modules, but not its weights, in evaluation mode."""
    shared: dict[int, Any] = {}
    for weight in model.parameters():
        shared[id(weight)] = weight
        if weight.requires_grad:
            values = weight.detach()
            # An adapter is small; a copy of it can be written to.
            values = values.clone() if has_adapter(model) else values
            shared[id(weight)] = nn.Parameter(values, requires_grad=False)
    twin = copy.deepcopy(model, shared)
    for module in twin.modules():
        # Libraries replace `forward` by functions that call the original module.
        module.__dict__.pop("forward", None)
    base = twin.get_base_model() if has_adapter(model) else twin
    # Gradient checkpointing has hooks there that require gradients of the inputs; then
    # a pass would also go back through the frozen layers.
    base.get_input_embeddings()._forward_hooks.clear()
    if base.device.type == "cuda":
        # As for `load_model`: padding and fused kernels.
        base.set_attn_implementation("eager")
    return twin.eval()


def _with_own_adapter(
    twin: Any, tokenizer: "PreTrainedTokenizerBase", trained: set[str], layers: int
) -> Proxy:
    """Return a proxy of a model with a trained adapter.

    Args:
        twin: The model's copy, without trainable weights.
        tokenizer: Its tokenizer.
        trained: Names of the weights that are trained.
        layers: How many decoder layers are sketched.
    """
    base = twin.get_base_model()
    has_plain_head(base)  # cached now, before any hook is set
    trunk, _ = adapted_layers(base, layers)
    below = {id(module) for layer in trunk for module in layer.modules()}
    a: dict[str, nn.Linear] = {}
    b: dict[str, nn.Linear] = {}
    for name, module in twin.named_modules():
        # base_model.model.PATH.lora_A.ADAPTER -> PATH.lora_A
        short = name.removeprefix("base_model.model.").rpartition(".")[0]
        if f"{name}.weight" in trained and id(module) not in below:
            if short.endswith(".lora_A"):
                a[short] = module
            elif short.endswith(".lora_B"):
                b[short] = module
    if not b:
        raise InputError(
            f"layers: the adapter has no trained LoRA weights in the last {layers} "
            "decoder layers; train a LoRA adapter there, or give more layers"
        )
    if any(config.use_dora for config in twin.peft_config.values()):
        raise InputError(
            "use_dora: gradients of a DoRA adapter cannot be sketched; train a plain "
            "LoRA adapter"
        )
    for layer in b.values():
        layer.weight.requires_grad_(True)
    return Proxy(twin, tokenizer, trunk, a, b)


def check_space(
    model: Any, tokenizer: "PreTrainedTokenizerBase", bundle: "Bundle"
) -> None:
    """Check that sketches of a model that is not yet trained are in a bundle's space.

    Args:
        model: The model before its first step.
        tokenizer: Its tokenizer.
        bundle: A bundle made by `ogs sketch`.

    Raises:
        InputError: If the model is not the bundle's proxy, or it has an adapter that
            is not the fresh one that the bundle was sketched with.
    """
    adapter, proxy = bundle.manifest["adapter"], bundle.manifest["proxy"]
    base = model.get_base_model() if has_adapter(model) else model
    untouched, _ = load_model(proxy["id"], base.dtype)
    weights = {
        name.replace(".base_layer.", "."): weight
        for name, weight in base.state_dict().items()
        if ".lora_" not in name
    }
    for name, weight in untouched.state_dict().items():
        same = weights.get(name)
        if same is None or not torch.equal(same.cpu(), weight.cpu()):
            raise InputError(
                f"like: the model is not '{proxy['id']}', which {bundle.path} was "
                "sketched with; train that model, or leave out `like`"
            )
    if not has_adapter(model):
        return
    own = current_proxy(
        model,
        tokenizer,
        layers=adapter["layers"],
        rank=adapter["rank"],
        seed=adapter["seed"],
    )
    _, linear = adapted_layers(untouched, adapter["layers"])
    before = own.state()
    draw_adapter(own, adapter["seed"])
    fresh = own.state()
    scales = {config.lora_alpha for config in model.peft_config.values()}
    is_fresh = (
        set(own.b) == {f"{name}.lora_B" for name in linear}
        and {len(layer.weight) for layer in own.a.values()} == {adapter["rank"]}
        and scales == {adapter["alpha"]}
        and all(torch.equal(before[name], fresh[name]) for name in fresh)
    )
    if not is_fresh:
        raise InputError(
            f"like: the model's adapter is not the one that {bundle.path} was sketched "
            f"with; make it with `attach_adapter(model, tokenizer, "
            f"rank={adapter['rank']}, alpha={adapter['alpha']}, "
            f"layers={adapter['layers']}, seed={adapter['seed']})` of "
            "`ogs_env.lm.adapter`, or train a model without an adapter"
        )
