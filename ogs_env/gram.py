"""Inner products between the samples of a pool."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.integer] | int

# Larger tables (256 MB) are not kept; what they would hold is computed when asked for.
TABLE_FLOATS = 2**26


def take(table: NDArray[Any], rows: Indices) -> NDArray[Any]:
    """Return a table's rows, the quickest way; not to be written to."""
    return table[rows] if isinstance(rows, int) else table.take(rows, axis=0)


class Gram:
    """Inner products between the samples of a pool, several of each pair; read-only.

    Row -1 stands for no sample: its products are 0.

    Args:
        vectors: From row numbers (n,) to the samples' vectors (n, parts, k).
        pool: Samples in the pool.
        width: Numbers of each pair, at least `parts`; the rest are 0. A table moves
            multiples of 16 bytes fastest.

    Attributes:
        width: As given.
    """

    def __init__(
        self, vectors: Callable[[NDArray[np.integer]], Floats], pool: int, width: int
    ) -> None:
        self._vectors, self._pool, self.width = vectors, pool, width
        # One row and column more: -1 finds them as an index from the end does.
        self._stride = pool + 1
        self._keep = self._stride**2 * width <= TABLE_FLOATS

    def of(self, rows: Indices, others: Indices) -> Floats:
        """Return products (..., width) of row numbers that broadcast together (...)."""
        if self._keep:
            if isinstance(rows, int):
                return self._table[rows].take(others, 0)
            flat = self._table.reshape(-1, self.width)
            return flat.take(rows * self._stride + others, axis=0)
        products = (self._lookup(rows) * self._lookup(others)).sum(axis=-1)
        found = np.zeros((*products.shape[:-1], self.width), np.float32)
        found[..., : products.shape[-1]] = products
        return found

    # Not made before it is needed: it takes longer than all else of an environment.
    @functools.cached_property
    def _table(self) -> Floats:
        pool = self._pool
        table = np.zeros((self._stride, self._stride, self.width), np.float32)
        for part, own in enumerate(self._vectors(np.arange(pool)).transpose(1, 0, 2)):
            own = np.ascontiguousarray(own)
            table[:pool, :pool, part] = own @ own.T
        return table

    def _lookup(self, indices: Indices) -> Floats:
        flat = np.ravel(indices)
        found: NDArray[Any] = self._vectors(np.maximum(flat, 0))
        found[flat < 0] = 0
        return found.reshape(*np.shape(indices), *found.shape[1:])
