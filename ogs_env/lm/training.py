"""LoRA training, one optimizer step at a time."""

from collections.abc import Callable, Sequence

import torch

from ogs_env.lm.adapter import Proxy
from ogs_env.lm.passes import add_gradients
from ogs_env.lm.trunk import TrunkStates

BETA = 0.999  # decay of Adam's second moment, torch's default


class AdapterTraining:
    """A training of a proxy's adapter from its present weights.

    AdamW without weight decay; gradients are clipped at norm 1. The loss of a step is
    the mean over the response tokens of its batch, as is usual in fine-tuning: with
    equal weights for samples, one-word answers, whose gradients are ten times as long,
    would determine the direction.

    Args:
        proxy: The model; its adapter changes in place.

    Attributes:
        steps: Number of steps taken.
    """

    def __init__(self, proxy: Proxy) -> None:
        self._layers = {**proxy.a, **proxy.b}
        self._weights = [layer.weight for layer in self._layers.values()]
        self._optimizer = torch.optim.AdamW(
            self._weights, betas=(0.9, BETA), weight_decay=0.0
        )
        self.steps = 0

    def step(
        self,
        texts: TrunkStates,
        batch: Sequence[int],
        learning_rate: float,
        change_gradient: Callable[[], None] | None = None,
    ) -> float:
        """Make an optimizer step on some rows of `texts`.

        Args:
            texts: The samples.
            batch: Their rows.
            learning_rate: Learning rate of this step.
            change_gradient: Called before the gradient is clipped, to change the `grad`
                of the adapter's weights in place.

        Returns:
            The loss before the step, nats per response token.
        """
        self.steps += 1
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        counts = [texts.samples[row].response_tokens for row in batch]
        shares = {
            row: count / sum(counts) for row, count in zip(batch, counts, strict=True)
        }
        losses = add_gradients(texts, batch, shares)
        if change_gradient is not None:
            change_gradient()
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return sum(shares[row] * loss for row, loss in zip(batch, losses, strict=True))

    def scales(self) -> dict[str, torch.Tensor]:
        """Return Adam's denominators, the roots of bias-corrected second moments.

        Returns:
            By layer name float32 (weights,).
        """
        correction = 1 - BETA**self.steps
        return {
            name: (self._optimizer.state[layer.weight]["exp_avg_sq"] / correction)
            .sqrt()
            .flatten()
            for name, layer in self._layers.items()
        }
