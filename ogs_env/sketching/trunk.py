"""What the frozen layers below an adapter make of samples, kept for later passes."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ogs_env.sketching.encoding import Encoded
from ogs_env.sketching.gradients import per_sample_gradients
from ogs_env.sketching.losses import response_losses
from ogs_env.sketching.proxy import Proxy


class TrunkStates:
    """Samples whose passes start at the adapter's first layer.

    The layers below the adapter never change, so what they make of a sample is
    computed once, on its first pass, and kept: tokens x hidden numbers a sample in
    the model's precision, 150 kB for 130 tokens of SmolLM2-135M in bfloat16.
    Training, losses and gradients then cost the upper layers and the head alone.

    Args:
        proxy: A model with an adapter; all its layers are run where the adapter
            reaches down to the first.
        samples: What passes can be asked for, by position.
    """

    def __init__(self, proxy: Proxy, samples: Sequence[Encoded]) -> None:
        self.proxy = proxy
        self.samples = samples
        self._kept: dict[int, torch.Tensor] = {}
        self._in_tuple = False

    def losses(self, rows: Sequence[int]) -> torch.Tensor:
        """Return each sample's loss (n,), nats per response token.

        Differentiable by the adapter's weights, unless gradients are switched off.
        """
        batch = self._batch(rows)
        with self._replayed(rows, batch):
            return response_losses(self.proxy.model, batch)

    def gradients(
        self,
        rows: Sequence[int],
        modules: Mapping[str, nn.Module],
        consume: Callable[[str, torch.Tensor], None],
    ) -> torch.Tensor:
        """Slate out per-sample gradients; as `per_sample_gradients`."""
        batch = self._batch(rows)
        with self._replayed(rows, batch):
            return per_sample_gradients(self.proxy.model, modules, batch, consume)

    def tokens(self, row: int) -> int:
        """Return how many tokens sample `row` has."""
        return len(self.samples[row].input_ids)

    def _batch(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        return self.proxy.batch([self.samples[row] for row in rows])

    @contextlib.contextmanager
    def _replayed(
        self, rows: Sequence[int], batch: dict[str, torch.Tensor]
    ) -> Iterator[None]:
        """Let the trunk's layers return what is kept, in the batch's padding."""
        trunk = self.proxy.trunk
        if not trunk:
            yield
            return
        if any(row not in self._kept for row in rows):
            self._keep(rows, batch)
        first = self._kept[rows[0]]
        width = batch["input_ids"].shape[1]
        states = first.new_zeros(len(rows), width, first.shape[1])
        for place, row in enumerate(rows):
            kept = self._kept[row]
            states[place, width - len(kept) :] = kept
        output = (states,) if self._in_tuple else states
        try:
            for layer in trunk:
                layer.forward = lambda *_, **__: output
            yield
        finally:
            for layer in trunk:
                del layer.forward

    def _keep(self, rows: Sequence[int], batch: dict[str, torch.Tensor]) -> None:
        seen: list[Any] = []
        last = self.proxy.trunk[-1]
        handle = last.register_forward_hook(lambda *call: seen.append(call[2]))
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        causal = self.proxy.model.get_base_model()
        try:
            with torch.no_grad():
                causal.base_model(**inputs, use_cache=False)
        finally:
            handle.remove()
        self._in_tuple = isinstance(seen[0], tuple)
        states = seen[0][0] if self._in_tuple else seen[0]
        for place, row in enumerate(rows):
            self._kept[row] = states[place, -self.tokens(row) :].clone()


def length_batches(
    lengths: Mapping[int, int], rows: Sequence[int], most: int
) -> list[list[int]]:
    """Part rows into batches of like length, so that little is padding.

    Args:
        lengths: Tokens by row.
        rows: Which to part.
        most: Tokens of a batch, padding included; a longer row is a batch alone.
    """
    batches: list[list[int]] = []
    for row in sorted(rows, key=lambda row: lengths[row]):
        if not batches or (len(batches[-1]) + 1) * lengths[row] > most:
            batches.append([])
        batches[-1].append(row)
    return batches
