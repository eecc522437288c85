"""Inner products between the samples of a pool."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.integer] | int

# Larger tables (256 MB) are not stored; their values are computed when needed.
TABLE_FLOATS = 2**26


def take(table: NDArray[Any], rows: Indices) -> NDArray[Any]:
    """Return rows of a table, possibly as a view; do not modify them."""
    return table[rows] if isinstance(rows, int) else table.take(rows, axis=0)


class Gram:
    """Inner products between all pairs of pool samples; read-only.

    A pair has several products, one for each part of the samples' vectors. Row -1
    stands for no sample: its products are 0.

    Args:
        vectors: Function from row numbers (n,) to the samples' vectors (n, parts, k).
        pool: Number of samples in the pool.
        width: Numbers per pair, at least `parts`; the rest are 0. Multiples of 16
            bytes are fastest.

    Attributes:
        width: As given.
    """

    def __init__(
        self, vectors: Callable[[NDArray[np.integer]], Floats], pool: int, width: int
    ) -> None:
        self._vectors, self._pool, self.width = vectors, pool, width
        # One more row and column of zeros, which index -1 refers to.
        self._stride = pool + 1
        self._has_table = self._stride**2 * width <= TABLE_FLOATS

    def of(self, rows: Indices, others: Indices) -> Floats:
        """Return products (..., width) of row numbers that broadcast together (...)."""
        if self._has_table:
            if isinstance(rows, int):
                return self._table[rows].take(others, 0)
            flat = self._table.reshape(-1, self.width)
            return flat.take(rows * self._stride + others, axis=0)
        products = (self._lookup(rows) * self._lookup(others)).sum(axis=-1)
        padded = np.zeros((*products.shape[:-1], self.width), np.float32)
        padded[..., : products.shape[-1]] = products
        return padded

    # Computed on first use: it takes longer than the rest of making an environment.
    @functools.cached_property
    def _table(self) -> Floats:
        pool = self._pool
        table = np.zeros((self._stride, self._stride, self.width), np.float32)
        parts = self._vectors(np.arange(pool)).transpose(1, 0, 2)
        for number, part in enumerate(parts):
            part = np.ascontiguousarray(part)
            table[:pool, :pool, number] = part @ part.T
        return table

    def _lookup(self, indices: Indices) -> Floats:
        flat = np.ravel(indices)
        vectors: NDArray[Any] = self._vectors(np.maximum(flat, 0))
        vectors[flat < 0] = 0
        return vectors.reshape(*np.shape(indices), *vectors.shape[1:])
