"""The observation basis: directions of sketch space that mean the same everywhere."""

from collections.abc import Sequence

import numpy as np
import torch
from safetensors.torch import load_file

from ogs_env.bundle import BASIS, MANIFEST, SHIPPED, shipped_bundles
from ogs_env.files import read_json

DIRECTIONS = 32


def basis_for(
    space: str, pool: Sequence[dict[str, torch.Tensor]]
) -> tuple[torch.Tensor, str]:
    """Return the basis Q for a sketch space.

    A space that a shipped bundle has keeps that bundle's basis, so a coordinate
    means the same in every bundle and what a policy learned moves with it. A new
    space gets the top right singular vectors of the pool's unit start sketches.
    Each is divided by the root mean square of its coordinate over the pool, so
    observations are of the order of one.

    Args:
        space: Identity of the sketch space, as in the manifest.
        pool: The pool's shards.

    Returns:
        float32 (k, 32), and where it is from, for the manifest.
    """
    for name in shipped_bundles():
        if read_json(SHIPPED / name / MANIFEST, "bundle manifest")["space"] == space:
            return load_file(SHIPPED / name / BASIS)["basis"], f"bundle {name}"
    k = pool[0]["start"].shape[1]
    gram = np.zeros((k, k))
    rows = 0
    for shard in pool:
        sketches = shard["start"].double().numpy()
        norms = np.linalg.norm(sketches, axis=1, keepdims=True)
        unit = sketches / np.maximum(norms, 1e-12)
        gram += unit.T @ unit
        rows += len(unit)
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
    return torch.from_numpy(basis), "own pool"
