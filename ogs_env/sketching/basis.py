"""The observation basis: the projection of sketches to 32 observed coordinates."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from ogs_env.bundle import scalars
from ogs_env.bundle_files import SHIPPED

DIRECTIONS = 32
_SCALARS = ("norms", "losses", "tokens")
BASIS_COLUMNS = ("initial", *_SCALARS)
"""Columns of the pool that an own basis is computed of."""


def basis_for(
    space: str, pool: Iterable[Mapping[str, NDArray[Any]]]
) -> tuple[dict[str, torch.Tensor], str]:
    """Return the basis Q of a sketch space, and the observation scales.

    The basis of the shipped bundles' sketch space is a file of the package,
    `bundles/basis-SPACE.safetensors`: every bundle of that space uses it, so that an
    agent trained on one bundle can observe another.

    Any other space gets the top right singular vectors of the pool's unit initial
    sketches, each divided by the root mean square of its coordinate over the pool.
    The scales are mean and standard deviation of log norms, losses and log tokens
    over the pool. Observations are thus of the order of one.

    Args:
        space: Identity of the sketch space, as in the manifest.
        pool: `BASIS_COLUMNS` of the pool's shards, read one after the other.

    Returns:
        `basis`, float32 (k, 32), and `scales`, float32 (2, 3); and their origin,
        `"shipped"` or `"own pool"`, for the manifest.
    """
    shipped = SHIPPED / f"basis-{space}.safetensors"
    if shipped.is_file():
        return load_file(shipped), "shipped"
    gram = np.zeros(())
    parts = []
    for shard in pool:
        unit = _unit_rows(shard["initial"].astype(np.float64))
        gram = gram + unit.T @ unit
        parts.append([shard[name] for name in _SCALARS])
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    basis = _top_directions(gram, len(columns[0]))
    return {"basis": basis, "scales": _scales(*columns)}, "own pool"


def _scales(
    norms: NDArray[Any], losses: NDArray[Any], tokens: NDArray[Any]
) -> torch.Tensor:
    """Return mean and deviation of log norms, losses and log tokens, (2, 3)."""
    values = scalars(norms, losses, tokens).astype(np.float64)
    scales = np.stack([values.mean(axis=0), np.maximum(values.std(axis=0), 1e-6)])
    return torch.from_numpy(scales.astype(np.float32))


def _unit_rows(sketches: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(sketches, axis=1, keepdims=True)
    return sketches / np.maximum(norms, 1e-12)


def _top_directions(gram: NDArray[np.float64], rows: int) -> torch.Tensor:
    """Return the scaled top right singular vectors (k, 32) of unit rows.

    Args:
        gram: The sum of products (k, k) of the rows' coordinates.
        rows: Number of the rows.
    """
    values, vectors = np.linalg.eigh(gram)
    top = np.argsort(values)[::-1][:DIRECTIONS]
    spread = np.sqrt(np.maximum(values[top], 0.0) / rows)
    vectors = vectors[:, top]
    # An eigenvector's sign is arbitrary; make its largest component positive.
    largest = np.abs(vectors).argmax(axis=0)
    vectors *= np.sign(vectors[largest, np.arange(len(top))])
    basis = np.zeros((len(gram), DIRECTIONS), np.float32)
    # A small pool spans fewer than 32 directions; the other columns stay zero.
    spanned = spread > 1e-6
    basis[:, : len(top)][:, spanned] = vectors[:, spanned] / spread[spanned]
    return torch.from_numpy(basis)
