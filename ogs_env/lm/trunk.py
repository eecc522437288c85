"""Cache the output of the frozen layers below an adapter, sample by sample."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ogs_env.lm.adapter import Proxy
from ogs_env.lm.encoding import Encoded
from ogs_env.lm.gradients import per_sample_gradients
from ogs_env.lm.losses import response_losses


class TrunkStates:
    """Samples with cached output of the trunk, the frozen layers below the adapter.

    The output of the trunk is computed in a sample's first pass and cached: tokens x
    hidden numbers per sample in the model's precision, 150 kB for 130 tokens of
    SmolLM2-135M in bfloat16. Training, losses and gradients then run only the upper
    layers and the head.

    Args:
        proxy: A model with an adapter. If the adapter is on all layers, there is no
            trunk, and all of them run.
        samples: The samples; rows are their positions.
    """

    def __init__(self, proxy: Proxy, samples: Sequence[Encoded]) -> None:
        self.proxy = proxy
        self.samples = samples
        self._states: dict[int, torch.Tensor] = {}
        self._in_tuple = False

    def losses(self, rows: Sequence[int]) -> torch.Tensor:
        """Return each sample's loss (n,), nats per response token.

        Differentiable by the adapter's weights, unless gradients are switched off.
        """
        batch = self._batch(rows)
        with self._cached_trunk(rows, batch):
            return response_losses(self.proxy.model, batch)

    def gradients(
        self,
        rows: Sequence[int],
        modules: Mapping[str, nn.Module],
        consume: Callable[[str, torch.Tensor], None],
    ) -> torch.Tensor:
        """Compute per-sample gradients, as `per_sample_gradients` does."""
        batch = self._batch(rows)
        with self._cached_trunk(rows, batch):
            return per_sample_gradients(self.proxy.model, modules, batch, consume)

    def tokens(self, row: int) -> int:
        """Return the number of tokens of sample `row`."""
        return len(self.samples[row].tokens)

    def _batch(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        return self.proxy.batch([self.samples[row] for row in rows])

    @contextlib.contextmanager
    def _cached_trunk(
        self, rows: Sequence[int], batch: dict[str, torch.Tensor]
    ) -> Iterator[None]:
        """Replace the trunk's layers by the cached states, padded like the batch."""
        trunk = self.proxy.trunk
        if not trunk:
            yield
            return
        if any(row not in self._states for row in rows):
            self._run_trunk(rows, batch)
        first = self._states[rows[0]]
        width = batch["input_ids"].shape[1]
        states = first.new_zeros(len(rows), width, first.shape[1])
        for place, row in enumerate(rows):
            cached = self._states[row]
            states[place, width - len(cached) :] = cached
        output = (states,) if self._in_tuple else states
        try:
            for layer in trunk:
                layer.forward = lambda *_, **__: output
            yield
        finally:
            for layer in trunk:
                del layer.forward

    def _run_trunk(self, rows: Sequence[int], batch: dict[str, torch.Tensor]) -> None:
        """Compute and cache the trunk's output for a batch."""
        outputs: list[Any] = []
        last = self.proxy.trunk[-1]
        handle = last.register_forward_hook(lambda *call: outputs.append(call[2]))
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        causal = self.proxy.model.get_base_model()
        try:
            with torch.no_grad():
                causal.base_model(**inputs, use_cache=False)
        finally:
            handle.remove()
        self._in_tuple = isinstance(outputs[0], tuple)
        states = outputs[0][0] if self._in_tuple else outputs[0]
        for place, row in enumerate(rows):
            self._states[row] = states[place, -self.tokens(row) :].clone()


def length_batches(
    lengths: Mapping[int, int], rows: Sequence[int], most: int
) -> list[list[int]]:
    """Split rows into batches of similar length, to save padding.

    Args:
        lengths: Tokens by row.
        rows: The rows to split.
        most: Maximum number of tokens of a batch, including padding; a longer row is
            a batch of its own.
    """
    batches: list[list[int]] = []
    for row in sorted(rows, key=lambda row: lengths[row]):
        if not batches or (len(batches[-1]) + 1) * lengths[row] > most:
            batches.append([])
        batches[-1].append(row)
    return batches
