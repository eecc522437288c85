"""The samples of one role of a bundle, as columns of arrays."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

    def __init__(
        self,
        shards: Sequence[dict[str, NDArray[Any]]],
        weights: NDArray[np.float32],
    ) -> None:
        def column(name: str) -> NDArray[Any]:
            whole = np.concatenate([np.asarray(shard[name]) for shard in shards])
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
        if "places" in shards[0]:
            self.places = column("places")
        else:
            self.places = np.arange(len(self.ids))
        self._shards = shards
        self._weights = weights
        self._starts = np.cumsum([0] + [len(shard["ids"]) for shard in shards])

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
        out = self._read(kind, np.arange(len(self)) if indices is None else indices)
        if kind != "initial":
            out *= np.repeat(self._weights, out.shape[1] // len(self._weights))
        return out

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

    def _read(self, name: str, indices: NDArray[np.integer]) -> NDArray[np.float32]:
        shape = len(indices), *self._shards[0][name].shape[1:]
        out = np.empty(shape, np.float32)
        shard_numbers = np.searchsorted(self._starts, indices, side="right") - 1
        for number in np.unique(shard_numbers):
            in_shard = shard_numbers == number
            local = np.asarray(indices)[in_shard] - self._starts[number]
            out[in_shard] = self._shards[number][name][local]
        return out

    def blocks(self, kind: str) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield (first row number, float32 sketches) shard by shard."""
        for first, shard in zip(self._starts[:-1], self._shards, strict=True):
            yield int(first), self.sketches(kind, first + np.arange(len(shard[kind])))
