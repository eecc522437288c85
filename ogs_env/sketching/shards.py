"""Sketching itself: batches of samples to shards of a bundle."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from tqdm import tqdm

from ogs_env.bundle import ANSWERS, MEASURED, OFF_DOMAIN
from ogs_env.errors import InputError
from ogs_env.files import whole_file
from ogs_env.sketching.encoding import Encoded
from ogs_env.sketching.gradients import per_sample_gradients, shared_trunk
from ogs_env.sketching.projection import CountSketch
from ogs_env.sketching.proxy import Proxy
from ogs_env.sketching.warmup import Checkpoint

SHARD_ROWS = 256
BATCH_ROWS = 16
EPSILON = 1e-8  # AdamW's default
# Dimensions of the sketches that inner products along the path are taken from; they
# are not kept. Of 512 the noise hides what tells samples apart at the first checkpoint.
WIDE = 8192


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
    """Exact mean initial gradients: of the dev samples and of each capability's.

    Attributes:
        stacked: For each layer of B, float32 (1 + capabilities, p).
    """

    stacked: dict[str, torch.Tensor]

    def norms(self) -> torch.Tensor:
        """Return the norm of each mean gradient, (1 + capabilities,)."""
        # In order of names: read from a file, layers come in another than computed.
        layers = [self.stacked[name] for name in sorted(self.stacked)]
        squares = [layer.square().sum(1) for layer in layers]
        return torch.stack(squares).sum(0).sqrt()


def mean_gradients(
    proxy: Proxy, rows: dict[str, list[Row]], capabilities: int, file: Path
) -> Means:
    """Compute the mean initial gradients, or read them where they were kept.

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
    build: Path,
) -> None:
    """Sketch all samples into shards of 64; those that are there already stay.

    Own answers are sketched at the untouched model alone.

    Args:
        proxy: The proxy with a fresh adapter.
        rows: Samples by role.
        means: What the exact inner products are taken with.
        checkpoints: Of the warm-up; empty for `start` sketches alone. With own answers
            the first is the untouched model.
        projection: To the sketch's dimensions.
        folder: The bundle's.
        build: Where wide sketches of the measured roles are kept for the pool's turn.
    """
    fresh = proxy.state()
    wide = CountSketch(WIDE, projection.seed)
    total = sum(map(len, rows.values()))
    answers = [role for role in ANSWERS if role in rows]
    with tqdm(total=total, desc="sketches", unit="sample", smoothing=0.1) as bar:
        for role in (*MEASURED, *answers, "pool"):
            along = checkpoints[:1] if role in answers else checkpoints
            measured = own = None
            if role == "pool" and checkpoints:
                measured = _wide(rows, MEASURED, build)
                own = _wide(rows, answers, build) if answers else None
            for file, part in _missing(folder, role, rows[role], bar):
                shard = _empty_shard(part, means, projection.k)
                if role not in answers:
                    shard |= _empty_trajectory(len(part), checkpoints, projection.k)
                kept = torch.zeros(len(part), len(along), WIDE)
                for chosen in _batches(part):
                    with shared_trunk(proxy.trunk):
                        batch = proxy.batch([part[row].encoded for row in chosen])
                        path = _Trajectory(along, projection, wide, shard, chosen)
                        _start(proxy, batch, projection, means, path, shard, chosen)
                        path.later(proxy, batch)
                    proxy.load_state(fresh)
                    kept[chosen] = path.wide_sketches()
                    bar.update(len(chosen))
                if measured is not None:
                    shard |= _products(kept, measured)
                elif along:
                    save_tensors(build / file.name, {"wide": kept})
                if own is not None:
                    further = _answer_products(kept, own)
                    _check_finite(further, part)
                    save_tensors(file.with_name(f"answers-{file.name}"), further)
                _check_finite(shard, part)
                save_tensors(file, shard)


def write_off_domain(
    proxy: Proxy,
    rows: dict[str, list[Row]],
    checkpoints: Sequence[Checkpoint],
    projection: CountSketch,
    folder: Path,
) -> None:
    """Sketch anchor and pool along another warm-up, into shards of their own.

    Args:
        proxy: The proxy with a fresh adapter.
        rows: Samples by role.
        checkpoints: Of that warm-up, without the untouched model.
        projection: To the sketch's dimensions.
        folder: The bundle's; shards that are there already stay.
    """
    fresh = proxy.state()
    total = sum(len(rows[role]) for role in OFF_DOMAIN)
    with tqdm(total=total, desc="off_domain", unit="sample", smoothing=0.1) as bar:
        for role in OFF_DOMAIN:
            for file, part in _missing(folder, f"off_domain-{role}", rows[role], bar):
                found = torch.zeros(len(part), len(checkpoints), projection.k)
                for chosen in _batches(part):
                    with shared_trunk(proxy.trunk):
                        batch = proxy.batch([part[row].encoded for row in chosen])
                        for place, checkpoint in enumerate(checkpoints):
                            consumer = _at(checkpoint, proxy, batch, [projection])
                            found[chosen, place] = consumer.sketches[0].T.cpu()
                    proxy.load_state(fresh)
                    bar.update(len(chosen))
                shard = {"off_domain": found.flatten(1).half()}
                _check_finite(shard, part)
                save_tensors(file, shard)


def _missing(
    folder: Path, name: str, rows: Sequence[Row], bar: tqdm
) -> Iterator[tuple[Path, Sequence[Row]]]:
    """Yield file and rows of each shard that is not there yet."""
    for number, begin in enumerate(range(0, len(rows), SHARD_ROWS)):
        part = rows[begin : begin + SHARD_ROWS]
        file = folder / f"{name}-{number:05d}.safetensors"
        if file.exists():
            bar.update(len(part))
        else:
            yield file, part


def _wide(
    rows: Mapping[str, Sequence[Row]], roles: Sequence[str], build: Path
) -> torch.Tensor:
    """Return the wide sketches of roles (n, checkpoints, 8192), role by role."""
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
    """Return products (..., m) as float16 in units of the largest, and these (...).

    Those of one-word answers are too large for float16.
    """
    units = products.abs().amax(dim=-1).clamp_min(EPSILON)
    return (products / units[..., None]).half(), units


def _empty_shard(part: Sequence[Row], means: Means, k: int) -> dict[str, torch.Tensor]:
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
    """Return a shard's columns along the path; none without checkpoints."""
    if not checkpoints:
        return {}
    return {
        "trajectory": torch.zeros(n, len(checkpoints) * k, dtype=torch.float16),
    }


class _Trajectory:
    """Sketches of one batch along the path.

    Args:
        checkpoints: Of the warm-up.
        projection: To the sketch's dimensions.
        wide: To more dimensions, for inner products.
        shard: What the sketches go into, if it has columns for a path.
        chosen: The batch's places in the shard.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        projection: CountSketch,
        wide: CountSketch,
        shard: dict[str, torch.Tensor],
        chosen: NDArray[np.int64],
    ) -> None:
        self._checkpoints, self._shard, self._chosen = checkpoints, shard, chosen
        self._projections = (projection, wide)
        self._wide: list[torch.Tensor] = []

    def at_untouched_model(self, device: torch.device) -> "_Consumer | None":
        """Return what takes gradients where the path begins at the untouched model."""
        for checkpoint in self._checkpoints:
            if checkpoint.step == 0:
                return _Consumer(
                    checkpoint, self._projections, len(self._chosen), device
                )
        return None

    def keep(self, number: int, consumer: "_Consumer") -> None:
        """Keep a checkpoint's wide sketches; put the others into the shard."""
        narrow, wide = consumer.sketches
        self._wide.append(wide.T.cpu())
        if "trajectory" in self._shard:
            k = len(narrow)
            columns = slice(number * k, (number + 1) * k)
            self._shard["trajectory"][self._chosen, columns] = narrow.T.half().cpu()

    def later(self, proxy: Proxy, batch: dict[str, torch.Tensor]) -> None:
        """Sketch A's and B's gradients at each checkpoint but that of the start."""
        for number, checkpoint in enumerate(self._checkpoints):
            if checkpoint.step:
                self.keep(number, _at(checkpoint, proxy, batch, self._projections))

    def wide_sketches(self) -> torch.Tensor:
        """Return the wide sketches (n, checkpoints, 8192)."""
        if not self._wide:
            return torch.zeros(len(self._chosen), 0, WIDE)
        return torch.stack(self._wide, dim=1)


class _Consumer:
    """Adds up the sketches of gradients in a checkpoint's Adam metric.

    A gradient is divided by the root of what Adam divides it by: the inner product of
    two such rows is that of one gradient with Adam's step on the other (LESS, Xia et
    al. 2024, divides one of the two by the whole).
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

    def take(self, name: str, values: torch.Tensor) -> None:
        """Add a layer's gradients (n, out, in)."""
        scaled = values.flatten(1) / (self._scales[name] + EPSILON).sqrt()
        for projection, sketches in zip(self._projections, self.sketches, strict=True):
            projection.add(sketches, name, scaled)


def _at(
    checkpoint: Checkpoint,
    proxy: Proxy,
    batch: dict[str, torch.Tensor],
    projections: Sequence[CountSketch],
) -> _Consumer:
    """Sketch A's and B's gradients at a checkpoint."""
    proxy.load_state(checkpoint.state)
    consumer = _Consumer(checkpoint, projections, len(batch["labels"]), proxy.device)
    layers = {**proxy.a, **proxy.b}
    per_sample_gradients(proxy.model, layers, batch, consumer.take)
    return consumer


def _start(
    proxy: Proxy,
    batch: dict[str, torch.Tensor],
    projection: CountSketch,
    means: Means,
    path: _Trajectory,
    shard: dict[str, torch.Tensor],
    chosen: NDArray[np.int64],
) -> None:
    """Sketch at the untouched model: B's gradients (A's are zero while B is).

    A path that begins there is sketched in the same pass.
    """
    n = len(chosen)
    sketches = torch.zeros(projection.k, n, device=proxy.device)
    squares = torch.zeros(n, device=proxy.device)
    dots = torch.zeros(n, len(means.norms()), device=proxy.device)
    first = path.at_untouched_model(proxy.device)

    def consume(name: str, values: torch.Tensor) -> None:
        flat = values.flatten(1)
        projection.add(sketches, name, flat)
        squares.add_(flat.square().sum(1))
        dots.add_(flat @ means.stacked[name].T)
        if first is not None:
            first.take(name, values)

    losses = per_sample_gradients(proxy.model, proxy.b, batch, consume)
    shard["initial"][chosen] = sketches.T.half().cpu()
    shard["losses"][chosen] = losses.cpu()
    shard["norms"][chosen] = squares.sqrt().cpu()
    shard["domain_dots"][chosen] = dots[:, 0].cpu()
    shard["anchor_dots"][chosen] = dots[:, 1:].cpu()
    if first is not None:
        path.keep(0, first)


def _check_finite(shard: dict[str, torch.Tensor], part: Sequence[Row]) -> None:
    """Refuse what the loader would refuse, while the sample's id is at hand."""
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
    """Row numbers in batches of like length, so that little is padding."""
    lengths = np.array([len(row.encoded.input_ids) for row in rows])
    order = np.argsort(lengths, kind="stable")
    return [order[i : i + BATCH_ROWS] for i in range(0, len(order), BATCH_ROWS)]


def save_tensors(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file, whole or not at all."""
    content = save({name: t.cpu().contiguous() for name, t in tensors.items()})
    with whole_file(file) as temporary:
        temporary.write_bytes(content)
