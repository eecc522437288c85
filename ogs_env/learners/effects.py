"""Precomputed effects of pool samples on the mean losses of groups of samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env import gram
from ogs_env.gram import Floats, Indices, take

# Beyond it, e^u would overflow float32.
_LARGEST = np.array(60, np.float32)


@dataclass(frozen=True)
class LossGroup:
    """Samples whose mean loss is predicted.

    Attributes:
        places: int64 (n,), their positions among the measured samples.
        slopes: float (checkpoints,), factors of x of each checkpoint.
    """

    places: NDArray[np.integer]
    slopes: NDArray[np.floating]


@dataclass(frozen=True)
class OwnAnswers:
    """Samples whose gradients at the untouched model predict the forgetting.

    Attributes:
        places: int64 (n,), their positions among the measured samples.
        weights: float (n,), factors of each x^2 of the first checkpoint.
    """

    places: NDArray[np.integer]
    weights: NDArray[np.floating]


def change(x: NDArray[np.floating], losses: NDArray[np.floating]) -> NDArray[Any]:
    """Return the changes of losses whose slope along a displacement is x, nats.

    The formula is that of a token of probability e^-l whose logit moves relative to
    all others.

    Args:
        x: Slopes (..., n).
        losses: The losses l before (n,).
    """
    other = -np.expm1(-losses)
    return np.log1p(other * np.expm1(np.minimum(x / other, _LARGEST)))


class LossEffects:
    """The effects of pool samples on the losses of some groups; read-only.

    A row has the terms that one pool sample adds to the sums of a selection: for each
    checkpoint and sample of the groups slope_c t_i <g_ic, g_jc> / (1 - e^-l_j), and
    for the forgetting t_i <g_i0, g_j0>, scaled so that the square is in nats. Row -1
    stands for no sample and is 0.

    Args:
        products: Function from pool rows (n,) to t_i <g_ic, g_jc>,
            (n, checkpoints, measured).
        pool: Number of samples in the pool.
        losses: Losses of all measured samples before the first pick (measured,).
        groups: The groups whose losses are predicted.
        answers: The samples that predict the forgetting, one entry per capability.
        shares: Share of each capability's forgetting by which each group's loss rises
            (groups, answers).

    Attributes:
        width: Numbers per row.
        groups: Number of groups.
    """

    def __init__(
        self,
        products: Callable[[NDArray[np.integer]], Floats],
        pool: int,
        losses: Floats,
        groups: Sequence[LossGroup],
        answers: Sequence[OwnAnswers],
        shares: NDArray[np.floating],
    ) -> None:
        self._products, self.groups = products, len(groups)
        self._places = np.concatenate([group.places for group in groups])
        self._answers = np.concatenate([group.places for group in answers])
        group_losses = losses[self._places].astype(np.float32)
        # Probabilities of the right and of all other tokens. They add up to exactly 1,
        # so that no loss changes without picks.
        self._right = np.exp(-group_losses)
        self._wrong = np.float32(1) - self._right
        slopes = [np.tile(group.slopes[:, None], len(group.places)) for group in groups]
        self._slopes = np.concatenate(slopes, axis=1) / self._wrong
        self._scales = np.concatenate([np.sqrt(group.weights) for group in answers])
        # Matrices from the samples' values to the groups' losses and the forgetting.
        zeros = np.zeros((len(answers), len(self._places)))
        self._loss_means = np.concatenate([_means(groups), zeros]).astype(np.float32)
        answer_means = _means(answers)
        self._forgetting_means = np.concatenate([shares @ answer_means, answer_means])
        self._forgetting_means = self._forgetting_means.astype(np.float32)
        self._linear = self._slopes.size
        self.width = self._linear + self._scales.size
        self._table: Floats | None = None
        if (pool + 1) * self.width <= gram.TABLE_FLOATS:
            self._table = np.zeros((pool + 1, self.width), np.float32)

    def fill(self, rows: NDArray[np.integer], products: Floats) -> None:
        """Set rows (n,) of the table from `products` of these rows."""
        if self._table is not None:
            self._table[rows] = self._scaled(products)

    def rows(self, indices: Indices) -> Floats:
        """Return the rows (..., width) of pool rows (...)."""
        if self._table is not None:
            return take(self._table, indices)
        flat = np.ravel(indices)
        rows = self._scaled(self._products(np.maximum(flat, 0)))
        rows[flat < 0] = 0
        return rows.reshape(*np.shape(indices), self.width)

    def changes(self, sums: Floats, lengths: NDArray[np.float64]) -> Floats:
        """Return the changes of the groups' losses and the forgetting, nats.

        Args:
            sums: Sums of the picks' rows (..., width).
            lengths: Factors of the sums (..., checkpoints).

        Returns:
            float32 (..., groups + answers).
        """
        before, samples = sums.shape[:-1], len(self._right)
        parts = sums[..., : self._linear].reshape(*before, -1, samples)
        factors = lengths.astype(np.float32)
        # One vector-matrix product per learner: in a product of two matrices the last
        # bits would depend on the number of learners.
        u = np.matmul(factors[..., None, :], parts)[..., 0, :]
        np.exp(np.minimum(u, _LARGEST, out=u), out=u)
        u *= self._wrong
        u += self._right
        np.log(u, out=u)
        squares = sums[..., self._linear :] * factors[..., :1]
        squares *= squares
        changes = np.vecdot(u[..., None, :], self._loss_means)
        changes += np.vecdot(squares[..., None, :], self._forgetting_means)
        return changes

    def _scaled(self, products: Floats) -> Floats:
        """Return the rows (n, width) of products (n, checkpoints, measured)."""
        rows = np.empty((len(products), self.width), np.float32)
        linear = products[:, :, self._places] * self._slopes
        rows[:, : self._linear] = linear.reshape(len(products), -1)
        rows[:, self._linear :] = products[:, 0, self._answers] * self._scales
        return rows


def _means(groups: Sequence[LossGroup | OwnAnswers]) -> NDArray[np.float64]:
    """Return the matrix (groups, samples) that maps samples to means of groups."""
    sizes = [len(group.places) for group in groups]
    return np.repeat(np.eye(len(groups)) / sizes, sizes, axis=1)
