"""What picks do to the mean loss of a group of samples, precomputed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ogs_env import gram
from ogs_env.gram import Floats, Indices, take


@dataclass(frozen=True)
class Group:
    """Samples whose mean loss is followed, and how it responds.

    At a displacement where sample j has x_jc = <g_jc, d_c>, the loss changes by the
    mean over j, sum over c of slope_c x_jc + curvature_c weight_j x_jc^2.

    Attributes:
        places: int64 (n,), among the measured samples.
        weights: float (n,), one a sample.
        slopes: float (checkpoints,).
        curvatures: float (checkpoints,), none negative.
    """

    places: NDArray[np.integer]
    weights: NDArray[np.floating]
    slopes: NDArray[np.floating]
    curvatures: NDArray[np.floating]


class Effects:
    """What picks do to the mean losses of some groups of samples; read-only.

    A loss is its start, plus a linear part: one number for each pool sample; plus a
    quadratic part, which is a sum of squares. For the latter the rows t_i <g_ic, g_jc>
    are scaled so that half the squared length of a displacement's sum of rows is the
    change in nats. They have a segment for each checkpoint of a group that has a
    curvature there.

    Row -1 stands for no sample: it has no effect.

    Args:
        products: From pool rows (n,) to t_i <g_ic, g_jc>, (n, checkpoints, measured).
        pool: Samples in the pool.
        losses: Those of all measured samples before the first pick (measured,).
        groups: Whose losses are followed.
        shares: What part of each group's change the first group's loss changes by as
            well (groups,).

    Attributes:
        start: float64 (groups,), losses before the first pick.
        linear: float64 (pool + 1, groups, checkpoints).
        checkpoints: int64 (segments,), those of the segments; these are in the order
            of the groups, and each group has at least one.
        first: int64 (groups,), each group's first segment.
        shares: float64 (groups,), as given.
    """

    def __init__(
        self,
        products: Callable[[NDArray[np.integer]], Floats],
        pool: int,
        losses: Floats,
        groups: Sequence[Group],
        shares: Sequence[float],
    ) -> None:
        self._products = products
        self.shares = np.array(shares)
        self._groups = groups
        self.start = np.array([losses[one.places].mean(dtype=float) for one in groups])
        self.linear = np.zeros((pool + 1, len(groups), len(groups[0].slopes)))
        segments = [
            (number, checkpoint)
            for number, group in enumerate(groups)
            for checkpoint in np.flatnonzero(group.curvatures).tolist() or [0]
        ]
        owners, checkpoints = np.array(segments).T
        self.checkpoints = checkpoints
        self.first = np.searchsorted(owners, np.arange(len(groups)))
        shape = len(segments), max(len(group.places) for group in groups)
        # Where each number of a row comes from, and its scale.
        self._places, self._scales = np.zeros(shape, np.int64), np.zeros(shape)
        for segment, (number, checkpoint) in enumerate(segments):
            group, count = groups[number], len(groups[number].places)
            squares = 2 * group.curvatures[checkpoint] * group.weights / count
            self._places[segment, :count] = group.places
            self._scales[segment, :count] = np.sqrt(squares)
        self._table: Floats | None = None
        if (pool + 1) * self._places.size <= gram.TABLE_FLOATS:
            self._table = np.zeros((pool + 1, *shape), np.float32)

    def fill(self, rows: NDArray[np.integer], products: Floats) -> None:
        """Fill the tables' rows (n,) in; products as `products` gives them."""
        for number, group in enumerate(self._groups):
            means = products[..., group.places].mean(axis=-1)
            self.linear[rows, number] = group.slopes * means
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
            lengths: What the sum of the picks' gradients is multiplied by
                (..., checkpoints).
        """
        linear = np.add.reduce(take(self.linear, picked), axis=0)
        linear = np.add.reduce(linear * lengths[..., None, :], axis=-1)
        sums = np.add.reduce(self.rows(picked), axis=0)
        squares = np.vecdot(sums, sums) * np.square(lengths[..., self.checkpoints])
        return self.after(linear + np.add.reduceat(squares, self.first, -1) / 2)

    def after(self, changes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the losses (..., groups) after each group's own change."""
        found = self.start + changes
        found[..., 0] += np.vecdot(changes, self.shares)
        return found

    def _scaled(self, products: Floats) -> Floats:
        found = products[:, self.checkpoints[:, None], self._places]
        # In C order: of another, a dot product is added up in another order.
        return np.multiply(found, self._scales, dtype=np.float32, order="C")
