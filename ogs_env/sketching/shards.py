"""Write the shards of a bundle; a run that is resumed writes the missing ones."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save
from tqdm import tqdm

from ogs_env.bundle_files import ANSWERS, MEASURED
from ogs_env.errors import InputError
from ogs_env.files import whole_file
from ogs_env.lm.adapter import Proxy
from ogs_env.lm.gradients import shared_trunk
from ogs_env.sketching.batch_sketches import (
    EPSILON,
    WIDE,
    BatchTrajectory,
    MeanGradients,
    Row,
    batches,
    sketch_initial,
)
from ogs_env.sketching.projection import CountSketch
from ogs_env.sketching.warmup import Checkpoint

SHARD_ROWS = 256


@dataclass(frozen=True)
class Shard:
    """Samples of a role whose sketches are one file.

    Attributes:
        role: The role.
        number: Number of the shard within the role.
        rows: The samples.
    """

    role: str
    number: int
    rows: Sequence[Row]

    @property
    def file(self) -> str:
        """Name of the file."""
        return f"{self.role}-{self.number:05d}.safetensors"


@dataclass(frozen=True)
class ShardFiles:
    """Content of a shard's files.

    Attributes:
        columns: The shard.
        answers: The columns with own answers of a shard of the pool, if it has any.
        wide: The wide sketches of a shard with which the pool's inner products are
            computed.
    """

    columns: bytes
    answers: bytes | None
    wide: bytes | None


@dataclass(frozen=True)
class Measured:
    """Wide sketches with which the pool's inner products are computed.

    Attributes:
        samples: Those of the measured roles (m, checkpoints, 8192).
        answers: Those of own answers (a, 1, 8192); None without.
    """

    samples: torch.Tensor
    answers: torch.Tensor | None


class Progress:
    """One bar over all samples, with the number of finished shards.

    Args:
        rows: Samples by role.
    """

    def __init__(self, rows: Mapping[str, Sequence[Row]]) -> None:
        samples = sum(map(len, rows.values()))
        self.bar = tqdm(total=samples, desc="sketches", unit="sample", smoothing=0.1)
        self._shards = sum(-(-len(of_role) // SHARD_ROWS) for of_role in rows.values())
        self._finished = 0
        self._workers: int | None = None  # where this process does the work

    def finish_shard(self) -> None:
        """Count a shard."""
        self._finished += 1
        self._show(refresh=False)

    def set_workers(self, count: int) -> None:
        """Show how many workers sketch."""
        if count != self._workers:
            self._workers = count
            self._show(refresh=True)

    def _show(self, refresh: bool) -> None:
        text = f"shard {self._finished}/{self._shards}"
        if self._workers is not None:
            text += f", {self._workers} worker{'s' if self._workers != 1 else ''}"
        self.bar.set_postfix_str(text, refresh=refresh)


class Sketching(Protocol):
    """Sketches shards, in this process or in others."""

    def __call__(
        self, shards: Iterable[Shard], measured: Measured | None, progress: Progress
    ) -> Iterator[tuple[Shard, ShardFiles]]:
        """Yield shards in any order, with the content of their files.

        Args:
            shards: The shards. They are taken from the iterator when they are needed.
            measured: For shards of the pool, if there is a trajectory.
            progress: Counts the sketched samples.
        """


class ShardSketcher:
    """Sketches shards with a proxy.

    Own answers are sketched only at the untouched model.

    Args:
        proxy: The proxy with a fresh adapter.
        means: Mean gradients for the exact inner products.
        checkpoints: Those of the warm-up; empty for initial sketches only. With own
            answers the first is the untouched model.
        projection: Projects gradients to sketches.
    """

    def __init__(
        self,
        proxy: Proxy,
        means: MeanGradients,
        checkpoints: Sequence[Checkpoint],
        projection: CountSketch,
    ) -> None:
        self._proxy, self._means, self._checkpoints = proxy, means, checkpoints
        self._projection, self._wide = projection, CountSketch(WIDE, projection.seed)
        self._fresh = proxy.state()

    def __call__(
        self, shards: Iterable[Shard], measured: Measured | None, progress: Progress
    ) -> Iterator[tuple[Shard, ShardFiles]]:
        """Sketch shards in this process, see `Sketching`."""
        for shard in shards:
            yield shard, self.sketch(shard, measured, progress.bar.update)

    def sketch(
        self,
        shard: Shard,
        measured: Measured | None,
        update: Callable[[int], object] = lambda samples: None,
    ) -> ShardFiles:
        """Return the content of a shard's files.

        Args:
            shard: The shard.
            measured: For a shard of the pool, if there is a trajectory.
            update: Called with the number of samples after each batch.

        Raises:
            InputError: If a sample's values are not finite.
        """
        proxy, k, part = self._proxy, self._projection.k, shard.rows
        of_answers = shard.role in ANSWERS
        sketched = self._checkpoints[:1] if of_answers else self._checkpoints
        columns = _empty_shard(part, self._means, k)
        if not of_answers:
            columns |= _empty_trajectory(len(part), sketched, k)
        wide_sketches = torch.zeros(len(part), len(sketched), WIDE)
        for batch in batches(part):
            with shared_trunk(proxy.trunk):
                tokens = proxy.batch([part[row].encoded for row in batch])
                trajectory = BatchTrajectory(
                    sketched, self._projection, self._wide, columns, batch
                )
                sketch_initial(
                    proxy,
                    tokens,
                    self._projection,
                    self._means,
                    trajectory,
                    columns,
                    batch,
                )
                trajectory.sketch_later(proxy, tokens)
            proxy.load_state(self._fresh)
            wide_sketches[batch] = trajectory.wide_sketches()
            update(len(batch))
        answers: bytes | None = None
        wide: bytes | None = None
        if measured is not None:
            columns |= _products(wide_sketches, measured.samples)
            if measured.answers is not None:
                products = _answer_products(wide_sketches, measured.answers)
                _check_finite(products, part)
                answers = _content(products)
        elif sketched:
            wide = _content({"wide": wide_sketches})
        _check_finite(columns, part)
        return ShardFiles(_content(columns), answers, wide)


def write_shards(
    proxy: Proxy,
    rows: Mapping[str, Sequence[Row]],
    means: MeanGradients,
    checkpoints: Sequence[Checkpoint],
    projection: CountSketch,
    folder: Path,
    build: Path,
) -> None:
    """Sketch all samples in this process; existing shards are kept.

    Args:
        proxy: As for `ShardSketcher`, like the means, checkpoints and the projection.
        rows: Samples by role.
        means: Mean gradients.
        checkpoints: Those of the warm-up.
        projection: Projects gradients to sketches.
        folder: The bundle's folder.
        build: As for `write_missing`.
    """
    sketcher = ShardSketcher(proxy, means, checkpoints, projection)
    write_missing(sketcher, rows, bool(checkpoints), folder, build)


def write_missing(
    sketching: Sketching,
    rows: Mapping[str, Sequence[Row]],
    has_trajectory: bool,
    folder: Path,
    build: Path,
) -> None:
    """Write all samples' shards of `SHARD_ROWS`; existing shards are kept.

    Args:
        sketching: Sketches the missing ones.
        rows: Samples by role.
        has_trajectory: Whether the pool's inner products are computed.
        folder: The bundle's folder.
        build: Folder of the wide sketches of the measured roles, with which the pool's
            inner products are computed.
    """
    answers = [role for role in ANSWERS if role in rows]
    progress = Progress(rows)
    with progress.bar:
        for roles in ((*MEASURED, *answers), ("pool",)):
            measured = None
            if roles == ("pool",) and has_trajectory:
                own = _read_wide(rows, answers, build) if answers else None
                measured = Measured(_read_wide(rows, MEASURED, build), own)
            missing = _missing(folder, rows, roles, progress)
            for shard, files in sketching(missing, measured, progress):
                # The shard comes last: if it exists, so do the other files.
                if files.wide is not None:
                    _write(build / shard.file, files.wide)
                if files.answers is not None:
                    _write(folder / f"answers-{shard.file}", files.answers)
                _write(folder / shard.file, files.columns)
                progress.finish_shard()


def _missing(
    folder: Path,
    rows: Mapping[str, Sequence[Row]],
    roles: Iterable[str],
    progress: Progress,
) -> Iterator[Shard]:
    """Yield each shard that does not exist yet."""
    for role in roles:
        for number, begin in enumerate(range(0, len(rows[role]), SHARD_ROWS)):
            shard = Shard(role, number, rows[role][begin : begin + SHARD_ROWS])
            if (folder / shard.file).exists():
                progress.bar.update(len(shard.rows))
                progress.finish_shard()
            else:
                yield shard


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
    ids = np.array([int(row.sample.id, 16) for row in part], np.uint64)
    places = [row.place for row in part if row.place is not None]
    return {
        **({"places": torch.tensor(places, dtype=torch.int64)} if places else {}),
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


def _check_finite(shard: dict[str, torch.Tensor], part: Sequence[Row]) -> None:
    """Check values as the loader does, here with the sample's id for the error line."""
    units = "product_units", "answer_units"
    for name in ("initial", "trajectory", "losses", *units):
        values = shard.get(name, torch.zeros(len(part))).reshape(len(part), -1)
        finite = values.isfinite().all(1)
        if not finite.all():
            row = int((~finite).nonzero()[0])
            sample = part[row].sample
            place = f"{sample.place}: " if sample.place else ""
            raise InputError(
                f"{place}sample {sample.id}: its {name} is not finite, or too large "
                "for float16; leave the sample out, or try --precision float32"
            )


def save_tensors(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file atomically."""
    _write(file, _content(tensors))


def _content(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Return tensors as the content of a safetensors file."""
    return save({name: t.cpu().contiguous() for name, t in tensors.items()})


def _write(file: Path, content: bytes) -> None:
    with whole_file(file) as temporary:
        temporary.write_bytes(content)
