"""The samples of one role of a bundle, as columns of arrays."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ogs_env.tensor_files import TensorFile

Shard = dict[str, TensorFile]
"""The files of a shard's tensors, by the tensors' names."""

# Columns of a shard except its sketches: one value (or row) per sample.
COLUMNS: dict[str, type[np.generic]] = {
    "ids": np.uint64,
    "norms": np.float32,
    "losses": np.float32,
    "tokens": np.int32,
    "sources": np.int32,
    "capabilities": np.int32,
    "domain_dots": np.float32,
    "anchor_dots": np.float32,
}
# Bytes of stored sketches that are read together.
_TOGETHER = 2**27
_BLOCK = 4096


class Rows:
    """The samples of one role, in the order of the bundle.

    Attributes:
        ids: uint64 (n,), the sample ids as numbers; `hex_ids` gives the strings.
        norms: float32 (n,), exact gradient norms at the untouched model.
        losses: float32 (n,), losses at the untouched model, nats per response token.
        tokens: int32 (n,), response tokens.
        sources: int32 (n,), index into `Bundle.sources`.
        capabilities: int32 (n,), index into `Bundle.capabilities`; -1 for roles
            without capabilities (pool, dev, test).
        domain_dots: float32 (n,), exact inner product of the initial gradients with
            the mean initial gradients of the dev samples.
        anchor_dots: float32 (n, capabilities), the same with each capability's
            mean anchor gradient.
        places: int64 (n,), numbers of the samples' records in the file that they come
            from; they differ from the rows where repeated records were dropped.
    """

    def __init__(self, shards: Sequence[Shard], weights: NDArray[np.float32]) -> None:
        names = [*COLUMNS, "places"] if "places" in shards[0] else list(COLUMNS)
        parts = [shard["ids"].read_all(names) for shard in shards]

        def column(name: str) -> NDArray[Any]:
            whole = np.concatenate([part[name] for part in parts])
            whole.flags.writeable = False
            return whole

        self.ids = column("ids")
        self.norms = column("norms")
        self.losses = column("losses")
        self.tokens = column("tokens")
        self.sources = column("sources")
        self.capabilities = column("capabilities")
        self.domain_dots = column("domain_dots")
        self.anchor_dots = column("anchor_dots")
        if "places" in names:
            self.places = column("places")
        else:
            self.places = np.arange(len(self.ids))
        self._shards = shards
        self._weights = weights
        self._starts = np.cumsum([0] + [len(part["ids"]) for part in parts])

    def __len__(self) -> int:
        return len(self.ids)

    def hex_ids(self) -> list[str]:
        """Return the sample ids as 16 hex digits each."""
        return [f"{number:016x}" for number in self.ids.tolist()]

    def sketches(
        self, kind: str, indices: NDArray[np.integer] | None = None
    ) -> NDArray[np.float32]:
        """Return sketches as float32; only the given rows are read from the disk.

        Args:
            kind: `"initial"`, or `"trajectory"`, which own answers do not have.
            indices: Row numbers (m,); all rows by default.

        Returns:
            float32 (m, k) for `"initial"`; (m, checkpoints * k) for `"trajectory"`,
            each checkpoint's block times its weight.
        """
        rows = np.arange(len(self)) if indices is None else indices
        return self._weighted(kind, self._read(kind, rows))

    def sketches_of_parts(
        self, kind: str, parts: Sequence[NDArray[np.integer]]
    ) -> Iterator[NDArray[np.float32]]:
        """Yield `sketches` of one part of the rows after the other.

        Rows in any order lie in many files. Some parts are read together, as many as
        fit into 128 MB, so that each file is opened a few times only.
        """
        file = self._shards[0][kind]
        dtype = file.dtypes[kind]
        row = dtype.itemsize * file.shapes[kind][1]
        first = 0
        while first < len(parts):
            sizes = np.cumsum([len(part) for part in parts[first:]]) * row
            count = max(1, int(np.searchsorted(sizes, _TOGETHER, side="right")))
            # In a function of its own, whose end frees what was read together.
            yield from self._read_together(kind, parts[first : first + count], dtype)
            first += count

    def _read_together(
        self, kind: str, parts: Sequence[NDArray[np.integer]], dtype: DTypeLike
    ) -> Iterator[NDArray[np.float32]]:
        read = self._read(kind, np.concatenate(parts), dtype)
        ends = np.cumsum([len(part) for part in parts])[:-1]
        for part in np.split(read, ends):
            yield self._weighted(kind, part.astype(np.float32))

    def _weighted(
        self, kind: str, sketches: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Multiply the blocks of trajectory sketches by the weights, in place."""
        if kind != "initial":
            sketches *= np.repeat(
                self._weights, sketches.shape[1] // len(self._weights)
            )
        return sketches

    def products(self, indices: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return inner products of pool samples along the trajectory.

        They come from wider sketches than the trajectory sketches, with less noise.

        Args:
            indices: Row numbers (m,) of the pool; other roles have none.

        Returns:
            float32 (m, checkpoints, n) with the n samples of `MEASURED`, role by role,
            each checkpoint's times its weight squared.
        """
        products = self._read("products", indices)
        products = products.reshape(len(indices), len(self._weights), -1)
        units = self._read("product_units", indices) * np.square(self._weights)
        return products * units[:, :, None]

    def answer_products(self, indices: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return inner products of pool samples with own answers.

        They use the metric of the trajectory's first checkpoint, the untouched model,
        and the same wide sketches as `products`.

        Args:
            indices: Row numbers (m,) of the pool; other roles have none.

        Returns:
            float32 (m, n) with the n samples of `ANSWERS`, role by role, times that
            checkpoint's weight squared.
        """
        units = self._read("answer_units", indices) * np.square(self._weights[0])
        return self._read("answer_products", indices) * units[:, None]

    def _read(
        self,
        name: str,
        indices: NDArray[np.integer],
        dtype: DTypeLike = np.float32,
    ) -> NDArray[Any]:
        """Return rows of a tensor; each file is opened once."""
        indices = np.asarray(indices)
        shape = len(indices), *self._shards[0][name].shapes[name][1:]
        out = np.empty(shape, dtype)
        order = np.argsort(indices, kind="stable")
        in_order = indices[order]
        numbers = np.searchsorted(self._starts, in_order, side="right") - 1
        firsts = np.flatnonzero(np.diff(numbers, prepend=-1))
        for first, last in itertools.pairwise([*firsts.tolist(), len(order)]):
            number = int(numbers[first])
            local = in_order[first:last] - self._starts[number]
            out[order[first:last]] = self._shards[number][name].read(name, local)
        return out

    def blocks(self, kind: str) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield (first row number, float32 sketches) of at most 4,096 rows of a shard.

        The blocks are in the order of the rows.
        """
        for first, end in itertools.pairwise(self._starts.tolist()):
            for start in range(first, end, _BLOCK):
                rows = np.arange(start, min(start + _BLOCK, end))
                yield start, self.sketches(kind, rows)
