"""Write the shards of a bundle; a run that is resumed writes the missing ones."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

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
                for batch in batches(part):
                    with shared_trunk(proxy.trunk):
                        tokens = proxy.batch([part[row].encoded for row in batch])
                        trajectory = BatchTrajectory(
                            sketched, projection, wide, shard, batch
                        )
                        sketch_initial(
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
    content = save({name: t.cpu().contiguous() for name, t in tensors.items()})
    with whole_file(file) as temporary:
        temporary.write_bytes(content)
