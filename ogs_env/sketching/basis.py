"""The observation basis, and scales: what is seen means the same everywhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from ogs_env.bundle import (
    BASIS,
    MANIFEST,
    SHIPPED,
    load_bundle,
    scalars,
    shipped_bundles,
)
from ogs_env.errors import InputError
from ogs_env.files import read_json, sha256_of, write_json
from ogs_env.sketching.shards import save_tensors

DIRECTIONS = 32


def basis_for(
    space: str, pool: Sequence[dict[str, torch.Tensor]]
) -> tuple[dict[str, torch.Tensor], str]:
    """Return the basis Q for a sketch space, and the scales.

    A space that a shipped bundle has keeps that bundle's basis, so a coordinate
    means the same in every bundle and what a policy learned moves with it. A new
    space gets the top right singular vectors of the pool's unit initial sketches.
    Each is divided by the root mean square of its coordinate over the pool, so
    observations are of the order of one; so are log norms, losses and log tokens,
    by the scales: their means and deviations over the pool.

    Args:
        space: Identity of the sketch space, as in the manifest.
        pool: The pool's shards.

    Returns:
        `basis`, float32 (k, 32), and `scales`, float32 (2, 3); and where they are
        from, for the manifest.
    """
    for name in shipped_bundles():
        if read_json(SHIPPED / name / MANIFEST, "bundle manifest")["space"] == space:
            return load_file(SHIPPED / name / BASIS), f"bundle {name}"
    pools = [shard["initial"].double().numpy() for shard in pool]
    columns = [
        np.concatenate([shard[name].numpy() for shard in pool])
        for name in ("norms", "losses", "tokens")
    ]
    found = {"basis": _top_directions(pools), "scales": _scales(*columns)}
    return found, "own pool"


def share_basis(folders: Sequence[Path]) -> None:
    """Give bundles of one sketch space the basis and scales of all their pools.

    For bundles that are shipped together: what a policy learned in one then moves
    to the others, and none of them is seen worse than the rest.

    Args:
        folders: Of finished bundles; their basis files and manifests are replaced.

    Raises:
        InputError: If they are of several sketch spaces.
    """
    bundles = [load_bundle(folder) for folder in folders]
    for bundle in bundles:
        if bundle.space != bundles[0].space:
            raise InputError(
                f"{bundle.path}: is of another sketch space than {bundles[0].path}; a "
                "basis can be shared by bundles of one proxy, adapter and projection"
            )
    pools = [bundle.pool.sketches("initial").astype(np.float64) for bundle in bundles]
    columns = [
        np.concatenate([getattr(bundle.pool, name) for bundle in bundles])
        for name in ("norms", "losses", "tokens")
    ]
    shared = {"basis": _top_directions(pools), "scales": _scales(*columns)}
    names = ", ".join(bundle.name for bundle in bundles)
    for bundle in bundles:
        file = bundle.path / BASIS
        save_tensors(file, shared)
        entry = {"sha256": sha256_of(file), "bytes": file.stat().st_size}
        changed = {
            "basis": f"pools of {names}",
            "files": bundle.manifest["files"] | {BASIS: entry},
        }
        write_json(bundle.path / MANIFEST, bundle.manifest | changed)


def _scales(
    norms: NDArray[Any], losses: NDArray[Any], tokens: NDArray[Any]
) -> torch.Tensor:
    """Return mean and deviation of log norms, losses and log tokens, (2, 3)."""
    found = scalars(norms, losses, tokens).astype(np.float64)
    scales = np.stack([found.mean(axis=0), np.maximum(found.std(axis=0), 1e-6)])
    return torch.from_numpy(scales.astype(np.float32))


def _top_directions(pools: Sequence[NDArray[np.float64]]) -> torch.Tensor:
    """Return the scaled top right singular vectors (k, 32) of unit rows."""
    k = pools[0].shape[1]
    gram = np.zeros((k, k))
    for sketches in pools:
        norms = np.linalg.norm(sketches, axis=1, keepdims=True)
        unit = sketches / np.maximum(norms, 1e-12)
        gram += unit.T @ unit
    rows = sum(map(len, pools))
    values, vectors = np.linalg.eigh(gram)
    top = np.argsort(values)[::-1][:DIRECTIONS]
    spread = np.sqrt(np.maximum(values[top], 0.0) / rows)
    vectors = vectors[:, top]
    # An eigenvector's sign is arbitrary: the largest component is made positive.
    largest = np.abs(vectors).argmax(axis=0)
    vectors *= np.sign(vectors[largest, np.arange(len(top))])
    basis = np.zeros((k, DIRECTIONS), np.float32)
    # A small pool has fewer directions than 32; those left out read as zero.
    real = spread > 1e-6
    basis[:, : len(top)][:, real] = vectors[:, real] / spread[real]
    return torch.from_numpy(basis)
