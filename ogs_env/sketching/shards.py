"""Sketching itself: batches of samples to shards of a bundle."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from tqdm import tqdm

from ogs_env.bundle import ROLES
from ogs_env.errors import InputError
from ogs_env.files import whole_file
from ogs_env.sketching.encoding import Encoded
from ogs_env.sketching.gradients import per_sample_gradients, shared_trunk
from ogs_env.sketching.projection import CountSketch
from ogs_env.sketching.proxy import Proxy
from ogs_env.sketching.warmup import Checkpoint

SHARD_ROWS = 64
BATCH_ROWS = 16


@dataclass(frozen=True)
class Row:
    """A sample ready to be sketched.

    Attributes:
        id: The sample's id.
        encoded: Its tokens.
        source: Index into the manifest's sources.
        capability: Index into the manifest's capabilities; -1 for roles without.
    """

    id: str
    encoded: Encoded
    source: int
    capability: int


@dataclass(frozen=True)
class Means:
    """Exact mean start gradients: of the dev samples and of each capability's.

    Attributes:
        stacked: For each layer of B, float32 (1 + capabilities, p).
    """

    stacked: dict[str, torch.Tensor]

    def norms(self) -> torch.Tensor:
        """Return the norm of each mean gradient, (1 + capabilities,)."""
        squares = [layer.square().sum(1) for layer in self.stacked.values()]
        return torch.stack(squares).sum(0).sqrt()


def mean_gradients(
    proxy: Proxy, rows: dict[str, list[Row]], capabilities: int, file: Path
) -> Means:
    """Compute the mean start gradients, or read them where they were kept.

    Args:
        proxy: The proxy with a fresh adapter.
        rows: Samples by role.
        capabilities: How many the anchor has.
        file: Where the means are kept for a run that goes on.
    """
    if file.exists():
        return Means(load_file(file, device=str(proxy.device)))
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

            for batch in _batches(group):
                chosen = [group[row] for row in batch]
                padded = proxy.batch([row.encoded for row in chosen])
                per_sample_gradients(proxy.model, proxy.b, padded, add)
                bar.update(len(chosen))
    save_tensors(file, stacked)
    return Means(stacked)


def write_shards(
    proxy: Proxy,
    rows: dict[str, list[Row]],
    means: Means,
    checkpoints: Sequence[Checkpoint],
    projection: CountSketch,
    folder: Path,
) -> None:
    """Sketch all samples into shards of 64; those that are there already stay.

    Args:
        proxy: The proxy with a fresh adapter.
        rows: Samples by role.
        means: What the exact inner products are taken with.
        checkpoints: Of the warm-up; empty for `start` sketches alone.
        projection: To the sketch's dimensions.
        folder: The bundle's.
    """
    fresh = proxy.state()
    total = sum(len(rows[role]) for role in ROLES)
    with tqdm(total=total, desc="sketches", unit="sample", smoothing=0.1) as bar:
        for role in ROLES:
            for number, begin in enumerate(range(0, len(rows[role]), SHARD_ROWS)):
                part = rows[role][begin : begin + SHARD_ROWS]
                file = folder / f"{role}-{number:05d}.safetensors"
                if file.exists():
                    bar.update(len(part))
                    continue
                shard = _empty_shard(part, means, checkpoints, projection.k)
                for chosen in _batches(part):
                    with shared_trunk(proxy.trunk):
                        batch = proxy.batch([part[row].encoded for row in chosen])
                        _start(proxy, batch, projection, means, shard, chosen)
                        _path(proxy, batch, projection, checkpoints, shard, chosen)
                    proxy.load_state(fresh)
                    bar.update(len(chosen))
                _check_finite(shard, part)
                save_tensors(file, shard)


def _empty_shard(
    part: Sequence[Row], means: Means, checkpoints: Sequence[Checkpoint], k: int
) -> dict[str, torch.Tensor]:
    n = len(part)
    capabilities = len(means.norms()) - 1
    ids = np.array([int(row.id, 16) for row in part], np.uint64)
    shard = {
        "ids": torch.from_numpy(ids),
        "norms": torch.zeros(n),
        "losses": torch.zeros(n),
        "tokens": torch.tensor(
            [row.encoded.response_tokens for row in part], dtype=torch.int32
        ),
        "sources": torch.tensor([row.source for row in part], dtype=torch.int32),
        "capabilities": torch.tensor(
            [row.capability for row in part], dtype=torch.int32
        ),
        "domain_dots": torch.zeros(n),
        "anchor_dots": torch.zeros(n, capabilities),
        "start": torch.zeros(n, k, dtype=torch.float16),
    }
    if checkpoints:
        shard["path"] = torch.zeros(n, len(checkpoints) * k, dtype=torch.float16)
        shard["path_losses"] = torch.zeros(n, len(checkpoints))
    return shard


def _start(
    proxy: Proxy,
    batch: dict[str, torch.Tensor],
    projection: CountSketch,
    means: Means,
    shard: dict[str, torch.Tensor],
    chosen: NDArray[np.int64],
) -> None:
    """Sketch at the untouched model: B's gradients (A's are zero while B is)."""
    n = len(chosen)
    sketches = torch.zeros(projection.k, n, device=proxy.device)
    squares = torch.zeros(n, device=proxy.device)
    dots = torch.zeros(n, len(means.norms()), device=proxy.device)

    def consume(name: str, values: torch.Tensor) -> None:
        flat = values.flatten(1)
        projection.add(sketches, name, flat)
        squares.add_(flat.square().sum(1))
        dots.add_(flat @ means.stacked[name].T)

    losses = per_sample_gradients(proxy.model, proxy.b, batch, consume)
    shard["start"][chosen] = sketches.T.half().cpu()
    shard["losses"][chosen] = losses.cpu()
    shard["norms"][chosen] = squares.sqrt().cpu()
    shard["domain_dots"][chosen] = dots[:, 0].cpu()
    shard["anchor_dots"][chosen] = dots[:, 1:].cpu()


def _path(
    proxy: Proxy,
    batch: dict[str, torch.Tensor],
    projection: CountSketch,
    checkpoints: Sequence[Checkpoint],
    shard: dict[str, torch.Tensor],
    chosen: NDArray[np.int64],
) -> None:
    """Sketch A's and B's gradients at each checkpoint, times sqrt(learning rate).

    The inner product of two such rows is then the sum over checkpoints of learning
    rate times gradient inner product (TracIn, Pruthi et al. 2020, eq. 1; LESS).
    """
    for number, checkpoint in enumerate(checkpoints):
        proxy.load_state(checkpoint.state)
        sketches = torch.zeros(projection.k, len(chosen), device=proxy.device)

        def consume(
            name: str, values: torch.Tensor, out: torch.Tensor = sketches
        ) -> None:
            projection.add(out, name, values.flatten(1))

        layers = {**proxy.a, **proxy.b}
        losses = per_sample_gradients(proxy.model, layers, batch, consume)
        scaled = sketches.T * checkpoint.learning_rate**0.5
        columns = slice(number * projection.k, (number + 1) * projection.k)
        shard["path"][chosen, columns] = scaled.half().cpu()
        shard["path_losses"][chosen, number] = losses.cpu()


def _check_finite(shard: dict[str, torch.Tensor], part: Sequence[Row]) -> None:
    """Refuse what the loader would refuse, while the sample's id is at hand."""
    for name in ("start", "path", "losses"):
        values = shard.get(name, torch.zeros(len(part))).reshape(len(part), -1)
        finite = values.isfinite().all(1)
        if not finite.all():
            row = int((~finite).nonzero()[0])
            raise InputError(
                f"sample {part[row].id}: its {name} is not finite, or too large for "
                "float16; leave the sample out, or try --precision float32"
            )


def _batches(rows: Sequence[Row]) -> list[NDArray[np.int64]]:
    """Row numbers in batches of like length, so that little is padding."""
    lengths = np.array([len(row.encoded.input_ids) for row in rows])
    order = np.argsort(lengths, kind="stable")
    return [order[i : i + BATCH_ROWS] for i in range(0, len(order), BATCH_ROWS)]


def save_tensors(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file, whole or not at all."""
    content = save({name: t.cpu().contiguous() for name, t in tensors.items()})
    with whole_file(file) as temporary:
        temporary.write_bytes(content)
