"""Gradient sketches of a batch of samples, and the mean gradients of dev and anchor."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ogs_env.data.samples import Sample
from ogs_env.lm.adapter import Proxy
from ogs_env.lm.encoding import Encoded
from ogs_env.lm.gradients import adapter_gradients, b_gradients
from ogs_env.lm.trunk import length_batches
from ogs_env.sketching.projection import CountSketch
from ogs_env.sketching.warmup import Checkpoint

TOKENS, CARD_TOKENS = 1024, 8192
"""Most tokens of a batch with padding, on a processor and on a graphics card."""
EPSILON = 1e-8  # AdamW's default
WIDE = 8192
"""Dimensions of the sketches for inner products along the trajectory, which are not
part of the bundle. With 512, noise hides the differences between samples at the first
checkpoint."""


@dataclass(frozen=True)
class Row:
    """An encoded sample with its columns of a bundle.

    Attributes:
        sample: The sample.
        encoded: Its tokens.
        source: Index into the manifest's sources.
        capability: Index into the manifest's capabilities; -1 for roles without them.
        place: Number of its record in the user's file; None if it is the row.
    """

    sample: Sample
    encoded: Encoded
    source: int
    capability: int
    place: int | None = None


def batches(rows: Sequence[Row]) -> list[NDArray[np.int64]]:
    """Return row numbers in batches of similar length, to save padding.

    Tokens bound a batch's memory. Larger batches are faster on a graphics card only.
    """
    most = CARD_TOKENS if torch.cuda.is_available() else TOKENS
    lengths = {number: len(row.encoded.tokens) for number, row in enumerate(rows)}
    parts = length_batches(lengths, list(lengths), most)
    return [np.array(part, dtype=np.int64) for part in parts]


@dataclass(frozen=True)
class MeanGradients:
    """Exact mean gradients: of the dev samples and of each capability's samples.

    Attributes:
        stacked: For each layer of B, float32 (1 + capabilities, p).
    """

    stacked: dict[str, torch.Tensor]

    def norms(self) -> torch.Tensor:
        """Return the norm of each mean gradient, (1 + capabilities,)."""
        # Sorted, because layers read from a file have another order than computed ones.
        layers = [self.stacked[name] for name in sorted(self.stacked)]
        squares = [layer.square().sum(1) for layer in layers]
        return torch.stack(squares).sum(0).sqrt()


def mean_gradients(
    proxy: Proxy, rows: dict[str, list[Row]], capabilities: int
) -> MeanGradients:
    """Compute the mean initial gradients.

    Args:
        proxy: The proxy with a fresh adapter.
        rows: Samples by role.
        capabilities: Number of capabilities of the anchor.
    """
    groups = [rows["dev"]] + [
        [row for row in rows["anchor"] if row.capability == number]
        for number in range(capabilities)
    ]
    stacked = {
        name: torch.zeros(len(groups), layer.weight.numel(), device=proxy.device)
        for name, layer in proxy.b.items()
    }
    total = sum(len(group) for group in groups)
    with tqdm(total=total, desc="mean gradients", unit="sample") as bar:
        for number, group in enumerate(groups):

            def add(
                name: str,
                values: torch.Tensor,
                number: int = number,
                n: int = len(group),
            ) -> None:
                stacked[name][number] += values.sum(0).flatten() / n

            for batch in batches(group):
                tokens = proxy.batch([group[row].encoded for row in batch])
                b_gradients(proxy, tokens, add)
                bar.update(len(batch))
    return MeanGradients(stacked)


class BatchTrajectory:
    """Sketches of one batch along the trajectory.

    Args:
        checkpoints: Those of the warm-up.
        projection: Projects gradients to sketches.
        wide: Projects gradients to wide sketches, for inner products.
        shard: The sketches are written into it if it has a trajectory column.
        rows: The batch's rows in the shard.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        projection: CountSketch,
        wide: CountSketch,
        shard: dict[str, torch.Tensor],
        rows: NDArray[np.int64],
    ) -> None:
        self._checkpoints, self._shard, self._rows = checkpoints, shard, rows
        self._projections = (projection, wide)
        self._wide: list[torch.Tensor] = []

    def at_untouched_model(self, device: torch.device) -> "SketchSums | None":
        """Return the sums for the untouched model, None if it is no checkpoint."""
        for checkpoint in self._checkpoints:
            if checkpoint.step == 0:
                return SketchSums(
                    checkpoint, self._projections, len(self._rows), device
                )
        return None

    def store(self, number: int, sums: "SketchSums") -> None:
        """Store a checkpoint's wide sketches; write its sketches into the shard."""
        narrow, wide = sums.sketches
        self._wide.append(wide.T.cpu())
        if "trajectory" in self._shard:
            k = len(narrow)
            columns = slice(number * k, (number + 1) * k)
            self._shard["trajectory"][self._rows, columns] = narrow.T.half().cpu()

    def sketch_later(self, proxy: Proxy, batch: dict[str, torch.Tensor]) -> None:
        """Sketch A's and B's gradients at all checkpoints after the untouched model."""
        for number, checkpoint in enumerate(self._checkpoints):
            if checkpoint.step:
                sums = sketch_at(checkpoint, proxy, batch, self._projections)
                self.store(number, sums)

    def wide_sketches(self) -> torch.Tensor:
        """Return the wide sketches (n, checkpoints, 8192)."""
        if not self._wide:
            return torch.zeros(len(self._rows), 0, WIDE)
        return torch.stack(self._wide, dim=1)


def in_adam_metric(scales: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """Return a layer's gradients (n, p) in a checkpoint's Adam metric.

    A gradient is divided by the square root of Adam's denominator, so that the inner
    product of two of them is that of one gradient with Adam's step on the other
    (LESS, Xia et al. 2024, divides one of the two by the whole denominator).
    """
    return gradients / (scales + EPSILON).sqrt()


class SketchSums:
    """Sketches of gradients in a checkpoint's Adam metric, summed over layers."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        projections: Sequence[CountSketch],
        count: int,
        device: torch.device,
    ) -> None:
        self._scales, self._projections = checkpoint.scales, projections
        self.sketches = [torch.zeros(p.k, count, device=device) for p in projections]

    def add(self, name: str, values: torch.Tensor) -> None:
        """Add a layer's gradients (n, out, in)."""
        scaled = in_adam_metric(self._scales[name], values.flatten(1))
        for projection, sketches in zip(self._projections, self.sketches, strict=True):
            projection.add(sketches, name, scaled)


def sketch_at(
    checkpoint: Checkpoint,
    proxy: Proxy,
    batch: dict[str, torch.Tensor],
    projections: Sequence[CountSketch],
) -> SketchSums:
    """Sketch A's and B's gradients at a checkpoint."""
    proxy.load_state(checkpoint.state)
    sums = SketchSums(checkpoint, projections, len(batch["labels"]), proxy.device)
    adapter_gradients(proxy, batch, sums.add)
    return sums


def sketch_initial(
    proxy: Proxy,
    batch: dict[str, torch.Tensor],
    projection: CountSketch,
    means: MeanGradients,
    trajectory: BatchTrajectory,
    shard: dict[str, torch.Tensor],
    rows: NDArray[np.int64],
) -> None:
    """Sketch B's gradients at the untouched model (A's are zero there).

    If the untouched model is a checkpoint of the trajectory, the same pass also gives
    the sketches at this checkpoint.
    """
    n = len(rows)
    sketches = torch.zeros(projection.k, n, device=proxy.device)
    squares = torch.zeros(n, device=proxy.device)
    dots = torch.zeros(n, len(means.norms()), device=proxy.device)
    first = trajectory.at_untouched_model(proxy.device)

    def consume(name: str, values: torch.Tensor) -> None:
        flat = values.flatten(1)
        projection.add(sketches, name, flat)
        squares.add_(flat.square().sum(1))
        dots.add_(flat @ means.stacked[name].T)
        if first is not None:
            first.add(name, values)

    losses = b_gradients(proxy, batch, consume)
    shard["initial"][rows] = sketches.T.half().cpu()
    shard["losses"][rows] = losses.cpu()
    shard["norms"][rows] = squares.sqrt().cpu()
    shard["domain_dots"][rows] = dots[:, 0].cpu()
    shard["anchor_dots"][rows] = dots[:, 1:].cpu()
    if first is not None:
        trajectory.store(0, first)
