"""The proxy: a causal LM with a LoRA adapter whose gradients are sketched."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ogs_env.data.samples import beginning
from ogs_env.errors import InputError
from ogs_env.lm.encoding import Encoded, collate
from ogs_env.lm.losses import has_plain_head
from ogs_env.seeding import named_generator

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_INPUTS = ("input_ids", "attention_mask", "position_ids")
_EXPECTED = "expected a causal LM such as Llama, Qwen or GPT-2"


@dataclass(frozen=True)
class Proxy:
    """A causal LM with an adapter on its last layers.

    Attributes:
        model: The model, wrapped by PEFT; only the adapter is trainable.
        tokenizer: Its tokenizer.
        trunk: The frozen decoder layers below the adapter.
        a, b: The adapter's linear layers by name: A (rank, in) and B (out, rank).
    """

    model: Any
    tokenizer: "PreTrainedTokenizerBase"
    trunk: list[nn.Module]
    a: dict[str, nn.Linear]
    b: dict[str, nn.Linear]

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return next(self.model.parameters()).device

    def batch(self, samples: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        """Return samples as one padded batch on the model's device."""
        batch = collate(samples, self.tokenizer.pad_token_id)
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def state(self) -> dict[str, torch.Tensor]:
        """Return a copy of the adapter's weights by layer name."""
        layers = {**self.a, **self.b}
        return {
            name: layer.weight.detach().cpu().clone() for name, layer in layers.items()
        }

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Set the adapter's weights to those that `state` returned earlier."""
        with torch.no_grad():
            for name, layer in {**self.a, **self.b}.items():
                layer.weight.copy_(state[name])


def attach_adapter(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    rank: int,
    alpha: int,
    layers: int,
    seed: int,
) -> Proxy:
    """Add a fresh LoRA adapter to the linear layers of the last decoder layers.

    Args:
        model: A causal LM; it is changed in place.
        tokenizer: Its tokenizer.
        rank: Rank of the adapter.
        alpha: The update is scaled by alpha / rank.
        layers: How many decoder layers, counted from the last; all if it has fewer.
        seed: Seed of the adapter; see `draw_adapter`.

    Raises:
        InputError: If the model cannot have an adapter, or its output depends on
            padding.
    """
    from peft import LoraConfig, get_peft_model

    trunk, linear = adapted_layers(model, layers)
    model.requires_grad_(False)
    _check_padding(model)
    has_plain_head(model)  # cached now, before any hook is set
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=linear, lora_dropout=0)
    try:
        with torch.random.fork_rng():  # PEFT draws A from the global generator
            adapted = get_peft_model(model, config)
    except ValueError as error:
        raise InputError(
            f"model {type(model).__name__}: cannot carry a LoRA adapter "
            f"({beginning(str(error), 200)}); {_EXPECTED}"
        ) from None
    a: dict[str, nn.Linear] = {}
    b: dict[str, nn.Linear] = {}
    for name, module in adapted.named_modules():
        # base_model.model.PATH.lora_A.default -> PATH.lora_A
        parts = name.removeprefix("base_model.model.").split(".")
        if parts[-1] == "default" and parts[-2] in ("lora_A", "lora_B"):
            (a if parts[-2] == "lora_A" else b)[".".join(parts[:-1])] = module
    proxy = Proxy(adapted.eval(), tokenizer, trunk, a, b)
    draw_adapter(proxy, seed)
    return proxy


def adapted_layers(
    model: "PreTrainedModel", layers: int
) -> tuple[list[nn.Module], list[str]]:
    """Return the decoder layers below an adapter and the linear layers it adapts.

    Routed experts are not adapted, because each processes only some of the tokens.

    Args:
        model: A causal LM.
        layers: How many decoder layers, counted from the last; all if it has fewer.

    Returns:
        The decoder layers below the adapted ones, and the names of the linear layers
        of the adapted ones.

    Raises:
        InputError: If the model has no list of decoder layers.
    """
    decoder = _decoder_layers(model)
    first = max(0, len(decoder) - layers)
    names = {id(module): name for name, module in model.named_modules()}
    linear = [
        names[id(module)]
        for layer in decoder[first:]
        for module in layer.modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        if "experts" not in names[id(module)].split(".")
    ]
    return list(decoder[:first]), linear


def draw_adapter(proxy: Proxy, seed: int) -> None:
    """Initialise a proxy's adapter: draw A at random, set B to zero.

    A is drawn from U(-1/sqrt(in), 1/sqrt(in)) as in PEFT, but from the seed and the
    layer's name, so that sketches of the same seed are comparable.

    Args:
        proxy: Its adapter is changed in place.
        seed: Seed of A.
    """
    with torch.no_grad():
        for name, module in proxy.a.items():
            weight = torch.empty(module.weight.shape)
            bound = weight.shape[1] ** -0.5
            generator = named_generator(seed, name)
            module.weight.copy_(weight.uniform_(-bound, bound, generator=generator))
        for module in proxy.b.values():
            module.weight.zero_()


def _decoder_layers(model: "PreTrainedModel") -> nn.ModuleList:
    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise InputError(
        f"model {type(model).__name__}: no list of {count} decoder layers found; "
        f"{_EXPECTED}"
    )


def _check_padding(model: "PreTrainedModel") -> None:
    """Check that padding before a sample does not change the model's output.

    It does in models that carry a state from token to token without a mask.
    """
    short, long = Encoded([0, 1, 2], 1, False), Encoded([2, 1, 0] * 3, 1, False)

    def last_logits(samples: Sequence[Encoded]) -> torch.Tensor:
        batch = collate(samples, 0)
        inputs = {name: batch[name].to(model.device) for name in _INPUTS}
        return model(**inputs, use_cache=False).logits[0, -1].float()

    try:
        with torch.no_grad():
            alone, padded = last_logits([short]), last_logits([short, long])
    except TypeError as error:
        raise InputError(
            f"model {type(model).__name__}: does not take {', '.join(_INPUTS)} "
            f"({beginning(str(error), 200)}); {_EXPECTED}"
        ) from None
    # Rounding in bfloat16 is about a hundredth.
    if (alone - padded).norm() > 0.1 * alone.norm():
        raise InputError(
            f"model {type(model).__name__}: padding changes its output, so samples "
            f"of different lengths cannot share a batch; {_EXPECTED}"
        )
