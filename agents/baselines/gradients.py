"""Gradient matching and other functions on sketches that several selectors share."""

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order
from ogs_env.bundle import Bundle

# Shares of the largest correlation below this are rounding errors.
_ROUNDING = 1e-6
_TINY = np.finfo(np.float64).tiny

Places = NDArray[np.integer]
Scores = NDArray[np.float32]
Choose = Callable[[NDArray[np.float32], int], tuple[Places, Scores]]
"""Function from initial sketches (n, k), which it may change, and a budget, 1 or more,
to places of sketches, in the order picked, and their scores."""


@functools.lru_cache(maxsize=8)
def domain_gradient(bundle: Bundle) -> NDArray[np.float32]:
    """Return the mean initial sketch (k,) of the dev samples."""
    return bundle.dev.sketches("initial").mean(axis=0)


def in_parts(
    bundle: Bundle,
    rows: NDArray[np.int64],
    budget: int,
    parts: int,
    choose: Choose,
) -> Order:
    """Select from each of several parts of the candidates, and merge the selections.

    Part p has rows p, p + parts, p + 2 parts and so on, hence a proportional share of
    each source of a pool sorted by source. Parts have equal budgets; the first parts
    get the remainders of rows and budget.

    Args:
        bundle: The bundle.
        rows: Pool rows (n,) to choose from.
        budget: Total number of picks, at most n.
        parts: Number of parts, at most n. If it is more than `budget`, only the first
            `budget` parts are used.
        choose: Picks from each part.

    Returns:
        The first picks of all parts, then the second picks, and so on; each group
        sorted by score, highest first.
    """
    share, extra = divmod(budget, parts)
    budgets = [share + (part < extra) for part in range(min(parts, budget))]
    divided = [rows[part::parts] for part in range(len(budgets))]
    read = bundle.pool.sketches_of_parts("initial", divided)
    chosen = [choose(part, count) for part, count in zip(read, budgets, strict=True)]
    ranks = np.concatenate([np.arange(count) for count in budgets])
    picked = np.concatenate(
        [part[places] for part, (places, _) in zip(divided, chosen, strict=True)]
    )
    scores = np.concatenate([scores for _, scores in chosen])
    best = np.lexsort((-scores, ranks))
    return picked[best], scores[best]


def pursue(
    atoms: NDArray[np.float32],
    target: NDArray[np.float32],
    most: int,
    ridge: float,
) -> tuple[list[int], list[float]]:
    """Run a regularised non-negative orthogonal matching pursuit.

    Each step adds the atom of highest inner product with the residual; then the weights
    w >= 0 of all picked atoms are those that minimise

        |sum_j w_j a_j - target|^2 + ridge |w|^2,

    which leaves the residual target - sum_j w_j a_j. It stops after `most` picks, or
    when no atom has a positive inner product with the residual: then none can get a
    positive weight (Bruckstein, Elad, Zibulevsky 2008, IEEE Transactions on
    Information Theory 54, for the non-negative pursuit).

    Args:
        atoms: Vectors (n, k).
        target: Vector (k,) to approximate by their weighted sum.
        most: Maximum number of picks.
        ridge: Regularisation, more than 0, in units of the atoms' squared lengths.

    Returns:
        Places of the picked atoms in the order picked, ties to the earlier; and their
        inner products with the residual at the time of the pick, all positive.
    """
    most = min(most, len(atoms))
    picked = np.empty((most, atoms.shape[1]))
    gram = np.empty((most, most))
    aims = np.empty(most)
    weights = np.zeros(most)
    places: list[int] = []
    products: list[float] = []
    residual = target
    for count in range(most):
        # `vecdot` gives the same products for a row whatever the other rows are.
        correlations = np.vecdot(atoms, residual)
        correlations[places] = -np.inf
        best = int(correlations.argmax())
        if correlations[best] <= (_ROUNDING * products[0] if products else 0):
            break
        places.append(best)
        products.append(float(correlations[best]))
        here = slice(count + 1)
        picked[count] = atoms[best]
        gram[count, here] = gram[here, count] = picked[here] @ picked[count]
        gram[count, count] += ridge
        aims[count] = picked[count] @ target
        weights[here] = _not_negative(gram[here, here], aims[here], weights[here])
        residual = (target - weights[here] @ picked[here]).astype(np.float32)
    return places, products


def _not_negative(
    gram: NDArray[np.float64],
    aims: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the w >= 0 that minimise w^T gram w / 2 - aims^T w.

    The active set method of Lawson and Hanson (1974, chapter 23), starting from the
    optimal weights without the last atom.
    """
    weights = weights.copy()
    positive = weights > 0
    joining = len(weights) - 1
    while True:
        positive[joining] = True
        solution = _solve(gram, aims, positive)
        while (solution[positive] <= 0).any():
            falling = positive & (solution <= 0)
            falls = np.maximum(weights[falling] - solution[falling], _TINY)
            steps = weights[falling] / falls
            weights += steps.min() * (solution - weights)
            # The atom that set the step is 0 by definition, not by rounding.
            weights[np.flatnonzero(falling)[steps.argmin()]] = 0
            positive &= weights > 0
            solution = _solve(gram, aims, positive)
        weights = solution
        gains = np.where(positive, 0, aims - gram @ weights)
        joining = int(gains.argmax())
        if gains[joining] <= _ROUNDING * aims.max():
            return weights


def _solve(
    gram: NDArray[np.float64], aims: NDArray[np.float64], of: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return optimal weights for the atoms `of`, of either sign, and 0 for others."""
    weights = np.zeros(len(aims))
    if of.all():  # as usual, and without copies
        weights[:] = np.linalg.solve(gram, aims)
    else:
        weights[of] = np.linalg.solve(gram[np.ix_(of, of)], aims[of])
    return weights
