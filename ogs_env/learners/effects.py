"""What picks do to the mean losses of groups of samples, precomputed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env import gram
from ogs_env.gram import Floats, Indices, take

# Beyond, e^u would not fit into float32; it is the loss of a model that is ruined.
_LARGEST = np.array(60, np.float32)


@dataclass(frozen=True)
class LossGroup:
    """Samples whose mean loss is followed.

    Attributes:
        places: int64 (n,), among the measured samples.
        slopes: float (checkpoints,), what x of each checkpoint is multiplied by.
    """

    places: NDArray[np.integer]
    slopes: NDArray[np.floating]


@dataclass(frozen=True)
class OwnAnswers:
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


class LossEffects:
    """The effects of pool samples on the losses of some groups; read-only.

    A row holds what one pool sample adds to the numbers of a selection: for each
    checkpoint and sample of the groups slope_c t_i <g_ic, g_jc> / (1 - e^-l_j), and,
    for what is forgotten, t_i <g_i0, g_j0> scaled so that the square is in nats. Row -1
    stands for no sample and is 0.

    Args:
        products: From pool rows (n,) to t_i <g_ic, g_jc>, (n, checkpoints, measured).
        pool: Samples in the pool.
        losses: Those of all measured samples before the first pick (measured,).
        groups: Whose losses are followed.
        answers: What is forgotten, one entry a capability.
        shares: What part of what is forgotten each group's loss rises by
            (groups, answers).

    Attributes:
        width: Numbers of a row.
        groups: How many groups there are.
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
        self._places = np.concatenate([one.places for one in groups])
        self._answers = np.concatenate([one.places for one in answers])
        of_groups = losses[self._places].astype(np.float32)
        # The two add up to 1 exactly: without picks no loss changes.
        self._right = np.exp(-of_groups)
        self._wrong = np.float32(1) - self._right
        slopes = [np.tile(one.slopes[:, None], len(one.places)) for one in groups]
        self._slopes = np.concatenate(slopes, axis=1) / self._wrong
        self._scales = np.concatenate([np.sqrt(one.weights) for one in answers])
        # From what becomes of every sample to the groups' losses and what is forgotten.
        apart, forgotten = np.zeros((len(answers), len(self._places))), _means(answers)
        self._means = np.concatenate([_means(groups), apart]).astype(np.float32)
        self._forgotten = np.concatenate([shares @ forgotten, forgotten])
        self._forgotten = self._forgotten.astype(np.float32)
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

    def changes(self, sums: Floats, lengths: NDArray[np.float64]) -> Floats:
        """Return by how much losses change, and what is forgotten, nats.

        Args:
            sums: Sums of the picks' rows (..., width).
            lengths: What they are multiplied by (..., checkpoints).

        Returns:
            (..., groups + answers).
        """
        before, samples = sums.shape[:-1], len(self._right)
        parts = sums[..., : self._linear].reshape(*before, -1, samples)
        factors = lengths.astype(np.float32)
        # A product with a vector for each learner: of a product of matrices, the last
        # bits depend on how many learners there are.
        u = np.matmul(factors[..., None, :], parts)[..., 0, :]
        np.exp(np.minimum(u, _LARGEST, out=u), out=u)
        u *= self._wrong
        u += self._right
        np.log(u, out=u)
        moved = sums[..., self._linear :] * factors[..., :1]
        moved *= moved
        found = np.vecdot(u[..., None, :], self._means)
        found += np.vecdot(moved[..., None, :], self._forgotten)
        return found

    def _scaled(self, products: Floats) -> Floats:
        found = np.empty((len(products), self.width), np.float32)
        linear = products[:, :, self._places] * self._slopes
        found[:, : self._linear] = linear.reshape(len(products), -1)
        found[:, self._linear :] = products[:, 0, self._answers] * self._scales
        return found


def _means(groups: Sequence[LossGroup | OwnAnswers]) -> NDArray[np.float64]:
    """Return the matrix (groups, samples) that takes samples to means of groups."""
    sizes = [len(one.places) for one in groups]
    return np.repeat(np.eye(len(groups)) / sizes, sizes, axis=1)
