"""What updates do to the mean loss of a group of samples, precomputed."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ogs_env import gram
from ogs_env.gram import Floats, Indices, take


class Effects:
    """What updates do to the mean losses of some groups of samples; read-only.

    A loss is its start, plus a linear part: one number for each pool sample; plus a
    quadratic part, which is a sum of squares. For the latter the rows
    <t_i g_ic, g_jc> / (2 l_j) are scaled so that half the squared length of their sum
    is the change in nats. They have a segment for each checkpoint of a group that has
    a curvature there.

    Row -1 stands for no sample: it has no effect.

    Args:
        products: From pool rows (n,) to t_i <g_ic, g_jc>, (n, checkpoints, measured).
        pool: Samples in the pool.
        losses: l_j of all measured samples (measured,).
        groups: Each one's places among the measured samples, its slopes and its
            curvatures (checkpoints,).

    Attributes:
        start: float64 (groups,), losses before the first update.
        linear: float64 (pool + 1, groups, checkpoints).
        checkpoints: int64 (segments,), those of the segments; these are in the order
            of the groups, and each group has at least one.
        first: int64 (groups,), each group's first segment.
    """

    def __init__(
        self,
        products: Callable[[NDArray[np.integer]], Floats],
        pool: int,
        losses: Floats,
        groups: Sequence[tuple[NDArray[np.integer], Floats, Floats]],
    ) -> None:
        self._products = products
        self._groups = groups
        self.start = np.array(
            [losses[places].mean(dtype=float) for places, *_ in groups]
        )
        self.linear = np.zeros((pool + 1, len(groups), len(groups[0][1])))
        segments = [
            (group, checkpoint)
            for group, (_, _, curvatures) in enumerate(groups)
            for checkpoint in np.flatnonzero(curvatures).tolist() or [0]
        ]
        owners, checkpoints = np.array(segments).T
        self.checkpoints = checkpoints
        self.first = np.searchsorted(owners, np.arange(len(groups)))
        shape = len(segments), max(len(places) for places, *_ in groups)
        # Where each number of a row comes from, and its scale.
        self._places, self._scales = np.zeros(shape, np.int64), np.zeros(shape)
        for segment, (group, checkpoint) in enumerate(segments):
            places, _, curvatures = groups[group]
            squares = curvatures[checkpoint] / (2 * len(places) * losses[places])
            self._places[segment, : len(places)] = places
            self._scales[segment, : len(places)] = np.sqrt(squares)
        self._table: Floats | None = None
        if (pool + 1) * self._places.size <= gram.TABLE_FLOATS:
            self._table = np.zeros((pool + 1, *shape), np.float32)

    def fill(self, rows: NDArray[np.integer], products: Floats) -> None:
        """Fill the tables' rows (n,) in; products as `products` gives them."""
        for group, (places, slopes, _) in enumerate(self._groups):
            self.linear[rows, group] = slopes * products[..., places].mean(axis=-1)
        if self._table is not None:
            self._table[rows] = self._scaled(products)

    def rows(self, indices: Indices) -> Floats:
        """Return the scaled rows (..., segments, width) of pool rows (...)."""
        if self._table is not None:
            return take(self._table, indices)
        flat = np.ravel(indices)
        found = self._scaled(self._products(np.maximum(flat, 0)))
        found[flat < 0] = 0
        return found.reshape(*np.shape(indices), *self._places.shape)

    def losses(
        self, picked: NDArray[np.integer], lengths: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the losses (..., groups) after picks.

        Args:
            picked: Pool rows (picks, ...).
            lengths: Factor of each pick in its update (picks, ..., checkpoints).
        """
        linear = take(self.linear, picked) * lengths[..., None, :]
        linear = np.add.reduce(np.add.reduce(linear, axis=-1), axis=0)
        steps = self.rows(picked)
        steps *= lengths[..., self.checkpoints, None].astype(np.float32)
        sums = np.add.reduce(steps, axis=0)
        squares = np.vecdot(sums, sums).astype(float)
        return self.start + linear + np.add.reduceat(squares, self.first, -1) / 2

    def _scaled(self, products: Floats) -> Floats:
        found = products[:, self.checkpoints[:, None], self._places]
        # In C order: of another, a dot product is added up in another order.
        return np.multiply(found, self._scales, dtype=np.float32, order="C")
