"""Sketch samples batch by batch and write the shards of a bundle."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from tqdm import tqdm

from ogs_env.bundle_files import ANSWERS, MEASURED, OFF_DOMAIN
from ogs_env.errors import InputError
from ogs_env.files import whole_file
from ogs_env.lm.adapter import Proxy
from ogs_env.lm.encoding import Encoded
from ogs_env.lm.gradients import per_sample_gradients, shared_trunk
from ogs_env.sketching.projection import CountSketch
from ogs_env.sketching.warmup import Checkpoint

SHARD_ROWS = 256
BATCH_ROWS = 16
EPSILON = 1e-8  # AdamW's default
# Dimensions of the sketches for inner products along the trajectory; they are not
# part of the bundle. With 512, noise hides the differences between samples at the
# first checkpoint.
WIDE = 8192


@dataclass(frozen=True)
class Row:
    """An encoded sample with its columns of a bundle.

    Attributes:
        id: The sample's id.
        encoded: Its tokens.
        source: Index into the manifest's sources.
        capability: Index into the manifest's capabilities; -1 for roles without them.
    """

    id: str
    encoded: Encoded
    source: int
    capability: int


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
    proxy: Proxy, rows: dict[str, list[Row]], capabilities: int, file: Path
) -> MeanGradients:
    """Compute the mean initial gradients, or read them if `file` exists.

    Args:
        proxy: The proxy with a fresh adapter.
        rows: Samples by role.
        capabilities: Number of capabilities of the anchor.
        file: Where they are saved, for a run that is resumed.
    """
    if file.exists():
        return MeanGradients(load_file(file, device=str(proxy.device)))
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
                tokens = proxy.batch([group[row].encoded for row in batch])
                per_sample_gradients(proxy.model, proxy.b, tokens, add)
                bar.update(len(batch))
    save_tensors(file, stacked)
    return MeanGradients(stacked)


def write_shards(
    proxy: Proxy,
    rows: dict[str, list[Row]],
    means: MeanGradients,
    checkpoints: Sequence[Checkpoint],
    projection: CountSketch,
    folder: Path,
    build: Path,
) -> None:
    """Sketch all samples into shards of `SHARD_ROWS`; existing shards are kept.

    Own answers are sketched only at the untouched model.

    Args:
        proxy: The proxy with a fresh adapter.
        rows: Samples by role.
        means: Mean gradients for the exact inner products.
        checkpoints: Those of the warm-up; empty for initial sketches only. With own
            answers the first is the untouched model.
        projection: Projects gradients to sketches.
        folder: The bundle's folder.
        build: Folder of the wide sketches of the measured roles, with which the pool's
            inner products are computed.
    """
    fresh = proxy.state()
    wide = CountSketch(WIDE, projection.seed)
    total = sum(map(len, rows.values()))
    answers = [role for role in ANSWERS if role in rows]
    with tqdm(total=total, desc="sketches", unit="sample", smoothing=0.1) as bar:
        for role in (*MEASURED, *answers, "pool"):
            sketched = checkpoints[:1] if role in answers else checkpoints
            measured = own = None
            if role == "pool" and checkpoints:
                measured = _read_wide(rows, MEASURED, build)
                own = _read_wide(rows, answers, build) if answers else None
            for file, part in _missing(folder, role, rows[role], bar):
                shard = _empty_shard(part, means, projection.k)
                if role not in answers:
                    shard |= _empty_trajectory(len(part), checkpoints, projection.k)
                wide_sketches = torch.zeros(len(part), len(sketched), WIDE)
                for batch in _batches(part):
                    with shared_trunk(proxy.trunk):
                        tokens = proxy.batch([part[row].encoded for row in batch])
                        trajectory = _Trajectory(
                            sketched, projection, wide, shard, batch
                        )
                        _sketch_initial(
                            proxy, tokens, projection, means, trajectory, shard, batch
                        )
                        trajectory.sketch_later(proxy, tokens)
                    proxy.load_state(fresh)
                    wide_sketches[batch] = trajectory.wide_sketches()
                    bar.update(len(batch))
                if measured is not None:
                    shard |= _products(wide_sketches, measured)
                elif sketched:
                    save_tensors(build / file.name, {"wide": wide_sketches})
                if own is not None:
                    columns = _answer_products(wide_sketches, own)
                    _check_finite(columns, part)
                    save_tensors(file.with_name(f"answers-{file.name}"), columns)
                _check_finite(shard, part)
                save_tensors(file, shard)


def write_off_domain(
    proxy: Proxy,
    rows: dict[str, list[Row]],
    checkpoints: Sequence[Checkpoint],
    projection: CountSketch,
    folder: Path,
) -> None:
    """Sketch anchor and pool along the off-domain trajectory, into shards of their own.

    Args:
        proxy: The proxy with a fresh adapter.
        rows: Samples by role.
        checkpoints: Those of the off-domain warm-up, without the untouched model.
        projection: Projects gradients to sketches.
        folder: The bundle's folder; existing shards are kept.
    """
    fresh = proxy.state()
    total = sum(len(rows[role]) for role in OFF_DOMAIN)
    with tqdm(total=total, desc="off_domain", unit="sample", smoothing=0.1) as bar:
        for role in OFF_DOMAIN:
            for file, part in _missing(folder, f"off_domain-{role}", rows[role], bar):
                sketches = torch.zeros(len(part), len(checkpoints), projection.k)
                for batch in _batches(part):
                    with shared_trunk(proxy.trunk):
                        tokens = proxy.batch([part[row].encoded for row in batch])
                        for number, checkpoint in enumerate(checkpoints):
                            sums = _sketch_at(checkpoint, proxy, tokens, [projection])
                            sketches[batch, number] = sums.sketches[0].T.cpu()
                    proxy.load_state(fresh)
                    bar.update(len(batch))
                shard = {"off_domain": sketches.flatten(1).half()}
                _check_finite(shard, part)
                save_tensors(file, shard)


def _missing(
    folder: Path, name: str, rows: Sequence[Row], bar: tqdm
) -> Iterator[tuple[Path, Sequence[Row]]]:
    """Yield file and rows of each shard that does not exist yet."""
    for number, begin in enumerate(range(0, len(rows), SHARD_ROWS)):
        part = rows[begin : begin + SHARD_ROWS]
        file = folder / f"{name}-{number:05d}.safetensors"
        if file.exists():
            bar.update(len(part))
        else:
            yield file, part


def _read_wide(
    rows: Mapping[str, Sequence[Row]], roles: Sequence[str], build: Path
) -> torch.Tensor:
    """Read the wide sketches of roles (n, checkpoints, 8192), role by role."""
    files = [
        build / f"{role}-{number:05d}.safetensors"
        for role in roles
        for number in range(-(-len(rows[role]) // SHARD_ROWS))
    ]
    return torch.cat([load_file(file)["wide"] for file in files])


def _products(pool: torch.Tensor, measured: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the columns of a pool shard that hold inner products.

    Args:
        pool: Wide sketches (n, checkpoints, 8192).
        measured: Those of the measured roles (m, checkpoints, 8192).
    """
    products, units = _in_units(torch.einsum("ick,mck->icm", pool, measured))
    return {"products": products.flatten(1), "product_units": units}


def _answer_products(
    pool: torch.Tensor, answers: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the columns of inner products with own answers (a, 1, 8192)."""
    products, units = _in_units(pool[:, 0] @ answers[:, 0].T)
    return {"answer_products": products, "answer_units": units}


def _in_units(products: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return products (..., m) as float16 in units of the largest, and the units (...).

    Without units, the products of one-word answers are too large for float16.
    """
    units = products.abs().amax(dim=-1).clamp_min(EPSILON)
    return (products / units[..., None]).half(), units


def _empty_shard(
    part: Sequence[Row], means: MeanGradients, k: int
) -> dict[str, torch.Tensor]:
    n = len(part)
    capabilities = len(means.norms()) - 1
    ids = np.array([int(row.id, 16) for row in part], np.uint64)
    return {
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
        "initial": torch.zeros(n, k, dtype=torch.float16),
    }


def _empty_trajectory(
    n: int, checkpoints: Sequence[Checkpoint], k: int
) -> dict[str, torch.Tensor]:
    """Return a shard's empty trajectory column; no column without checkpoints."""
    if not checkpoints:
        return {}
    return {
        "trajectory": torch.zeros(n, len(checkpoints) * k, dtype=torch.float16),
    }


class _Trajectory:
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

    def at_untouched_model(self, device: torch.device) -> "_SketchSums | None":
        """Return the sums for the untouched model, None if it is no checkpoint."""
        for checkpoint in self._checkpoints:
            if checkpoint.step == 0:
                return _SketchSums(
                    checkpoint, self._projections, len(self._rows), device
                )
        return None

    def store(self, number: int, sums: "_SketchSums") -> None:
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
                sums = _sketch_at(checkpoint, proxy, batch, self._projections)
                self.store(number, sums)

    def wide_sketches(self) -> torch.Tensor:
        """Return the wide sketches (n, checkpoints, 8192)."""
        if not self._wide:
            return torch.zeros(len(self._rows), 0, WIDE)
        return torch.stack(self._wide, dim=1)


class _SketchSums:
    """Sketches of gradients in a checkpoint's Adam metric, summed over layers.

    A gradient is divided by the square root of Adam's denominator, so that the inner
    product of two sketches is that of one gradient with Adam's step on the other
    (LESS, Xia et al. 2024, divides one of the two by the whole denominator).
    """

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
        scaled = values.flatten(1) / (self._scales[name] + EPSILON).sqrt()
        for projection, sketches in zip(self._projections, self.sketches, strict=True):
            projection.add(sketches, name, scaled)


def _sketch_at(
    checkpoint: Checkpoint,
    proxy: Proxy,
    batch: dict[str, torch.Tensor],
    projections: Sequence[CountSketch],
) -> _SketchSums:
    """Sketch A's and B's gradients at a checkpoint."""
    proxy.load_state(checkpoint.state)
    sums = _SketchSums(checkpoint, projections, len(batch["labels"]), proxy.device)
    layers = {**proxy.a, **proxy.b}
    per_sample_gradients(proxy.model, layers, batch, sums.add)
    return sums


def _sketch_initial(
    proxy: Proxy,
    batch: dict[str, torch.Tensor],
    projection: CountSketch,
    means: MeanGradients,
    trajectory: _Trajectory,
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

    losses = per_sample_gradients(proxy.model, proxy.b, batch, consume)
    shard["initial"][rows] = sketches.T.half().cpu()
    shard["losses"][rows] = losses.cpu()
    shard["norms"][rows] = squares.sqrt().cpu()
    shard["domain_dots"][rows] = dots[:, 0].cpu()
    shard["anchor_dots"][rows] = dots[:, 1:].cpu()
    if first is not None:
        trajectory.store(0, first)


def _check_finite(shard: dict[str, torch.Tensor], part: Sequence[Row]) -> None:
    """Check values as the loader does, here with the sample's id for the error line."""
    units = "product_units", "answer_units"
    for name in ("initial", "trajectory", "losses", *units, "off_domain"):
        values = shard.get(name, torch.zeros(len(part))).reshape(len(part), -1)
        finite = values.isfinite().all(1)
        if not finite.all():
            row = int((~finite).nonzero()[0])
            raise InputError(
                f"sample {part[row].id}: its {name} is not finite, or too large for "
                "float16; leave the sample out, or try --precision float32"
            )


def _batches(rows: Sequence[Row]) -> list[NDArray[np.int64]]:
    """Return row numbers in batches of similar length, to save padding."""
    lengths = np.array([len(row.encoded.input_ids) for row in rows])
    order = np.argsort(lengths, kind="stable")
    return [order[i : i + BATCH_ROWS] for i in range(0, len(order), BATCH_ROWS)]


def save_tensors(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file atomically."""
    content = save({name: t.cpu().contiguous() for name, t in tensors.items()})
    with whole_file(file) as temporary:
        temporary.write_bytes(content)
