"""The loss of each sample's response, with little memory and time."""

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear

from ogs_env.lm.encoding import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Positions whose logits are in memory at a time: 64 x 49,152 float32 are 12 MB and
# fit into the processor's cache; the logits of a whole batch take half a gigabyte.
# A GPU needs larger products.
_CHUNK, _GPU_CHUNK = 64, 2048

_plain_heads: "weakref.WeakKeyDictionary[nn.Module, bool]" = weakref.WeakKeyDictionary()


def response_losses(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return each sample's mean cross-entropy over its response tokens.

    Logits are computed at response positions only, because the output layer is a
    third of a small model. A loss does not depend on the other samples of the batch.

    Args:
        model: A causal LM, wrapped by PEFT or not.
        batch: As made by `ogs_env.lm.encoding.collate`.

    Returns:
        float32 (n,), nats per token.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    # The states at position t - 1 predict the token at position t.
    labels = batch["labels"][:, 1:]
    counted = labels != IGNORED
    if has_plain_head(causal):
        head = causal.get_output_embeddings()
        states = causal.base_model(**inputs, use_cache=False)[0]
        losses = _LinearCrossEntropy.apply(
            states[:, :-1][counted], head.weight, head.bias, labels[counted]
        )
    else:
        logits = causal(**inputs, use_cache=False).logits[:, :-1][counted]
        losses = cross_entropy(logits.float(), labels[counted], reduction="none")
    sums = losses.new_zeros(len(labels)).index_add(0, counted.nonzero()[:, 0], losses)
    return sums / counted.sum(1)


class _LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropy of linear(states, weight) with targets, chunk by chunk.

    The gradient with respect to the states, (softmax - onehot) @ weight, is computed
    in the forward pass, while a chunk's logits are in memory. The weights are frozen
    and get no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
    ) -> torch.Tensor:
        losses = states.new_empty(len(states), dtype=torch.float32)
        needs_gradients = ctx.needs_input_grad[0]
        gradients = torch.empty_like(states) if needs_gradients else None
        chunk = _CHUNK if states.device.type == "cpu" else _GPU_CHUNK
        for begin in range(0, len(states), chunk):
            part = slice(begin, begin + chunk)
            logits = linear(states[part], weight, bias).float()
            normaliser = logits.logsumexp(1, keepdim=True)
            target = targets[part, None]
            losses[part] = (normaliser - logits.gather(1, target)).squeeze(1)
            if gradients is not None:
                probabilities = logits.sub_(normaliser).exp_()
                minus_one = probabilities.new_full(target.shape, -1.0)
                probabilities.scatter_add_(1, target, minus_one)
                gradients[part] = probabilities.to(weight.dtype) @ weight
        ctx.gradients = gradients
        return losses

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> tuple[Any, None, None, None]:
        gradients = ctx.gradients
        scaled = (gradients * outer[0][:, None]).to(gradients.dtype)
        return scaled, None, None, None


def has_plain_head(model: "PreTrainedModel") -> bool:
    """Whether logits are the plain output of a frozen linear layer on the last states.

    Some models scale or cap them. The first call for a model tests this with a pass
    over three tokens, so it must come before hooks are set; the result is cached.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.weight.requires_grad:
        return False
    if model not in _plain_heads:
        _plain_heads[model] = _test_plain_head(model, head)
    return _plain_heads[model]


def _test_plain_head(model: "PreTrainedModel", head: nn.Linear) -> bool:
    calls = []
    handle = head.register_forward_hook(
        lambda _, inputs, out: calls.append((*inputs, out))
    )
    ids = torch.tensor([[0, 1, 2]], device=head.weight.device)
    try:
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits
            states = model.base_model(input_ids=ids, use_cache=False)[0]
    finally:
        handle.remove()
    # A soft cap hardly changes small logits, so the head's output must equal the
    # logits exactly; its inputs may differ by the rounding of two passes.
    return (
        [len(call) for call in calls] == [2]
        and torch.allclose(calls[0][0].float(), states.float(), rtol=1e-2, atol=1e-4)
        and torch.equal(calls[0][1].float(), logits.float())
    )
