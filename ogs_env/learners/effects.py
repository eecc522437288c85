"""What picks do to the mean losses of groups of samples, precomputed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env import gram
from ogs_env.gram import Floats, Indices, take

# Beyond, e^u would not fit into float32; it is the loss of a model that is ruined.
_LARGEST = np.float32(60)


@dataclass(frozen=True)
class Group:
    """Samples whose mean loss is followed.

    Attributes:
        places: int64 (n,), among the measured samples.
        slopes: float (checkpoints,), what x of each checkpoint is multiplied by.
    """

    places: NDArray[np.integer]
    slopes: NDArray[np.floating]


@dataclass(frozen=True)
class Answers:
    """Samples whose gradients at the untouched model tell what is forgotten.

    Attributes:
        places: int64 (n,), among the measured samples.
        weights: float (n,), what each x^2 of the first checkpoint is multiplied by.
    """

    places: NDArray[np.integer]
    weights: NDArray[np.floating]


def change(x: NDArray[np.floating], losses: NDArray[np.floating]) -> NDArray[Any]:
    """Return how losses change when their slope along a displacement is x, nats.

    As that of a token of probability e^-l whose logit moves against all others.

    Args:
        x: (..., n).
        losses: l, those before (n,).
    """
    other = -np.expm1(-losses)
    return np.log1p(other * np.expm1(np.minimum(x / other, _LARGEST)))


class Effects:
    """The effects of pool samples on the losses of some groups; read-only.

    A row holds what one pool sample adds to the numbers of a selection: for each
    checkpoint and sample of the groups slope_c t_i <g_ic, g_jc> / (1 - e^-l_j), and,
    for what is forgotten, t_i <g_i0, g_j0> scaled so that half the squared length of a
    displacement's sum is the change in nats. All groups have as many numbers as the
    largest; the rest are 0. Row -1 stands for no sample and is 0.

    Args:
        products: From pool rows (n,) to t_i <g_ic, g_jc>, (n, checkpoints, measured).
        pool: Samples in the pool.
        losses: Those of all measured samples before the first pick (measured,).
        groups: Whose losses are followed.
        answers: What is forgotten, one entry a capability.
        shares: What part of what is forgotten each group's loss rises by
            (groups, answers).

    Attributes:
        start: float64 (groups,), losses before the first pick.
        width: Numbers of a row.
    """

    def __init__(
        self,
        products: Callable[[NDArray[np.integer]], Floats],
        pool: int,
        losses: Floats,
        groups: Sequence[Group],
        answers: Sequence[Answers],
        shares: NDArray[np.floating],
    ) -> None:
        self._products, self._shares = products, shares.astype(float)
        means = [losses[one.places].mean(dtype=float) for one in groups]
        self.start = np.array(means)
        self._checkpoints = len(groups[0].slopes)
        self._places, there = _padded([one.places for one in groups])
        self._answers, asked = _padded([one.places for one in answers])
        # Where there is no sample, its change is log(1) and counts nothing.
        of_groups = np.where(there, losses[self._places], 0).astype(np.float32)
        # The two add up to 1 exactly: without picks no loss changes.
        self._right = np.exp(-of_groups)
        self._wrong = np.float32(1) - self._right
        self._means = (there / there.sum(1, keepdims=True)).astype(np.float32)
        inverse = np.divide(1, self._wrong, out=np.zeros(there.shape), where=there)
        slopes = np.stack([one.slopes for one in groups], axis=1)
        self._slopes = slopes[..., None] * inverse
        self._scales = np.zeros(asked.shape)
        self._scales[asked] = np.concatenate(
            [np.sqrt(2 * one.weights / len(one.places)) for one in answers]
        )
        self._linear = self._slopes.size
        self.width = self._linear + self._scales.size
        self._table: Floats | None = None
        if (pool + 1) * self.width <= gram.TABLE_FLOATS:
            self._table = np.zeros((pool + 1, self.width), np.float32)

    def fill(self, rows: NDArray[np.integer], products: Floats) -> None:
        """Fill the table's rows (n,) in; products as `products` gives them."""
        if self._table is not None:
            self._table[rows] = self._scaled(products)

    def rows(self, indices: Indices) -> Floats:
        """Return the rows (..., width) of pool rows (...)."""
        if self._table is not None:
            return take(self._table, indices)
        flat = np.ravel(indices)
        found = self._scaled(self._products(np.maximum(flat, 0)))
        found[flat < 0] = 0
        return found.reshape(*np.shape(indices), self.width)

    def changes(
        self, sums: Floats, lengths: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return by how much losses change, and what is forgotten, nats.

        Args:
            sums: Sums of the picks' rows (..., width).
            lengths: What they are multiplied by (..., checkpoints).

        Returns:
            (..., groups) and (..., answers).
        """
        before = sums.shape[:-1]
        moved = sums[..., self._linear :].reshape(*before, *self._scales.shape)
        forgotten = np.vecdot(moved, moved) * (np.square(lengths[..., :1]) / 2)
        parts = sums[..., : self._linear].reshape(*before, *self._slopes.shape)
        factors = lengths.astype(np.float32)[..., None, None]
        # One checkpoint after the other: of a product of matrices, the last bits
        # depend on how many there are.
        u = parts[..., 0, :, :] * factors[..., 0, :, :]
        for number in range(1, self._checkpoints):
            u += parts[..., number, :, :] * factors[..., number, :, :]
        np.exp(np.minimum(u, _LARGEST, out=u), out=u)
        u *= self._wrong
        u += self._right
        found = np.vecdot(np.log(u, out=u), self._means)
        return found + np.vecdot(self._shares, forgotten[..., None, :]), forgotten

    def _scaled(self, products: Floats) -> Floats:
        found = np.empty((len(products), self.width), np.float32)
        linear = products[:, :, self._places] * self._slopes
        found[:, : self._linear] = linear.reshape(len(products), -1)
        moved = products[:, 0, self._answers] * self._scales
        found[:, self._linear :] = moved.reshape(len(products), -1)
        return found


def _padded(
    groups: Sequence[NDArray[np.integer]],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return places as rows of one width (groups, width), and which of these count."""
    counts = np.array([len(places) for places in groups])
    there = np.arange(counts.max()) < counts[:, None]
    found = np.zeros(there.shape, np.int64)
    found[there] = np.concatenate(groups)
    return found, there
