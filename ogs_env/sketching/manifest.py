"""Write a bundle's manifest: its content, its settings and the hashes of its files."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ogs_env.bundle_files import (
    ANSWERS,
    BASIS,
    FORMAT,
    FORMAT_VERSION,
    ROLES,
    save_manifest,
    shard_order,
)
from ogs_env.files import sha256_of
from ogs_env.learners.fitted import EPOCHS, FITTED_SPACE, default_learner
from ogs_env.sketching.answers import longest_answer
from ogs_env.sketching.basis import BASIS_COLUMNS, basis_for
from ogs_env.sketching.settings import SketchSettings
from ogs_env.sketching.shards import save_tensors
from ogs_env.sketching.warmup import BATCH, Checkpoint
from ogs_env.tensor_files import TensorFile


def write_manifest(
    folder: Path,
    settings: SketchSettings,
    checkpoints: Sequence[Checkpoint],
    mean_norms: Sequence[float],
    entries: dict[str, Any],
) -> None:
    """Write the basis and the manifest, which complete a bundle.

    Args:
        folder: The bundle's folder, with all its shards.
        settings: The settings of the sketches.
        checkpoints: Those of the warm-up; empty without a trajectory.
        mean_norms: Norms of the mean initial gradients: the domain's, then each
            capability's.
        entries: Further entries, including `name`, `command`, `proxy`, `sources` and
            `capabilities`.
    """
    adapter = {
        "kind": "lora",
        "rank": settings.rank,
        "alpha": 2 * settings.rank,
        "layers": settings.layers,
        "seed": settings.seed,
    }
    projection = {"kind": "countsketch", "k": settings.k, "seed": settings.seed}
    proxy = entries["proxy"]["sha256"]
    space = _space(proxy, adapter, projection)
    own = settings.anchor_answers != "reference"
    is_fitted = _is_fitted_proxy(proxy, adapter)
    shards = {
        role: _shards(folder, role) for role in (*ROLES, *(ANSWERS if own else ()))
    }
    # A pool may be larger than the memory, so its columns are read shard by shard.
    pool = (shard.read_all(BASIS_COLUMNS) for shard in shards["pool"])
    basis, basis_from = basis_for(space, pool)
    save_tensors(folder / BASIS, basis)
    weights = _weights(shards["dev"], len(checkpoints))
    files = sorted(f for f in folder.glob("*.safetensors") if f.name[0] != ".")
    save_manifest(
        folder,
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **entries,
            "space": space,
            "adapter": adapter,
            "projection": projection,
            "basis": basis_from,
            "checkpoints": [
                {"step": c.step, "weight": weight}
                for c, weight in zip(checkpoints, weights, strict=True)
            ],
            "warm_up_batch": BATCH if checkpoints else None,
            "answers": {
                "kind": settings.anchor_answers,
                "max_tokens": longest_answer(settings.max_tokens),
            }
            if own
            else None,
            "max_tokens": settings.max_tokens,
            "roles": {
                role: sum(shard.shapes["ids"][0] for shard in of_role)
                for role, of_role in shards.items()
            },
            "domain_norm": mean_norms[0],
            "anchor_norms": list(mean_norms[1:]),
            "learner": _learner(
                is_fitted, checkpoints, weights, shards, settings.epochs
            ),
            "files": {
                file.name: {"sha256": sha256_of(file), "bytes": file.stat().st_size}
                for file in files
            },
        },
    )


def _shards(folder: Path, role: str) -> list[TensorFile]:
    """Open a role's shards, in order."""
    files = folder.glob(f"{role}-*.safetensors")
    return [
        TensorFile(file) for file in sorted(files, key=lambda f: shard_order(f.name))
    ]


def _column(shards: Sequence[TensorFile], name: str) -> torch.Tensor:
    """Read a column of a role, as float64."""
    values = np.concatenate([shard.read(name) for shard in shards])
    return torch.from_numpy(values).double()


def _space(proxy: str, adapter: dict[str, Any], projection: dict[str, Any]) -> str:
    """Return the identity of a sketch space: sketches of one space are comparable."""
    parts = {"proxy": proxy, "adapter": adapter, "projection": projection}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _is_fitted_proxy(proxy: str, adapter: dict[str, Any]) -> bool:
    """Whether the learner's constants were fitted with this proxy and adapter.

    The seed does not matter: it changes the weights of the adapter and the projection,
    but not the lengths of gradients.
    """
    projection = {"kind": "countsketch", "k": SketchSettings().k, "seed": 0}
    return _space(proxy, adapter | {"seed": 0}, projection) == FITTED_SPACE


def _learner(
    is_fitted: bool,
    checkpoints: Sequence[Checkpoint],
    weights: Sequence[float],
    shards: Mapping[str, Sequence[TensorFile]],
    epochs: int = EPOCHS,
) -> dict[str, Any]:
    """Return the `learner` entry, in the units of this bundle's sketches."""
    norms = None
    if is_fitted and checkpoints:
        norms = [1 / weight for weight in weights]
    elif is_fitted:
        dev = _column(shards["dev"], "initial")
        norms = [float(dev.square().sum(1).mean().sqrt())]
    steps = [checkpoint.step for checkpoint in checkpoints]
    answers = "own" if ANSWERS[0] in shards else "reference"
    return default_learner(steps, norms, answers, epochs)


def _weights(dev: Sequence[TensorFile], checkpoints: int) -> list[float]:
    """Return the weight of each checkpoint's trajectory sketches.

    Gradients shrink along the trajectory, by a factor of three from step 8 to 24 on
    SmolLM2-135M. The weights give the dev samples' sketches a root mean square norm of
    1 at every checkpoint, so that all checkpoints count equally.
    """
    if not checkpoints:
        return []
    blocks = _column(dev, "trajectory").chunk(checkpoints, 1)
    squares = [float(block.square().sum(1).mean()) for block in blocks]
    return [1 / math.sqrt(max(square, 1e-24)) for square in squares]
