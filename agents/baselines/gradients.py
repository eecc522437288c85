"""What several methods do with gradient sketches."""

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order
from ogs_env.bundle import Bundle

# Of the largest correlation with the target: less than this is rounding.
_NOTHING = 1e-6
_TINY = np.finfo(np.float64).tiny


@functools.lru_cache(maxsize=8)
def domain_gradient(bundle: Bundle) -> NDArray[np.float32]:
    """Return the mean initial sketch (k,) of the dev samples."""
    return bundle.dev.sketches("initial").mean(axis=0)


def in_parts(
    rows: NDArray[np.int64],
    budget: int,
    parts: int,
    choose: Callable[[NDArray[np.int64], int], Order],
) -> Order:
    """Let a method choose from parts of the candidates, and unite what it chose.

    Part p holds rows p, p + parts, p + 2 parts and so on, so every part has its share
    of each source of a pool that is sorted by source. Parts have equal budgets; what
    does not divide goes to the first parts, as the rows that do not divide do.

    Args:
        rows: Pool rows (n,) to choose from.
        budget: How many are chosen in all, at most n.
        parts: At most n. More than `budget`: only the first parts are chosen from.
        choose: From a part's rows and its budget, 1 or more, to its order.

    Returns:
        The first picks of all parts, then the second picks, and so on; among these
        the higher score first.
    """
    share, extra = divmod(budget, parts)
    budgets = [share + (part < extra) for part in range(min(parts, budget))]
    chosen = [choose(rows[part::parts], count) for part, count in enumerate(budgets)]
    ranks = np.concatenate([np.arange(count) for count in budgets])
    picked = np.concatenate([order for order, _ in chosen])
    scores = np.concatenate([scores for _, scores in chosen])
    best = np.lexsort((-scores, ranks))
    return picked[best], scores[best]


def pursue(
    atoms: NDArray[np.float32],
    target: NDArray[np.float32],
    most: int,
    ridge: float,
) -> tuple[list[int], list[float]]:
    """Non-negative orthogonal matching pursuit, regularised.

    The atom of highest inner product with the residual joins the picked ones; then
    the weights w >= 0 of all picked atoms are those that minimise

        |sum_j w_j a_j - target|^2 + ridge |w|^2,

    which leaves the residual target - sum_j w_j a_j. It goes on until `most` are
    picked, or no atom has a positive inner product with the residual: none can get a
    positive weight then (Bruckstein, Elad, Zibulevsky 2008, IEEE Transactions on
    Information Theory 54, for the non-negative pursuit).

    Args:
        atoms: Vectors (n, k).
        target: What they shall add up to (k,).
        most: How many are picked at most.
        ridge: Price of large weights, more than 0, in units of atoms' lengths squared.

    Returns:
        Places of the picked atoms in the order picked, the earlier of equals; and
        their inner products with the residual when they were picked, all positive.
    """
    most = min(most, len(atoms))
    gram = np.empty((most, most))
    aims = np.empty(most)
    weights = np.zeros(most)
    places: list[int] = []
    products: list[float] = []
    residual = target
    for count in range(most):
        # Atom by atom, whose numbers then are the same in any company.
        found = np.vecdot(atoms, residual)
        found[places] = -np.inf
        best = int(found.argmax())
        if found[best] <= (_NOTHING * products[0] if products else 0):
            break
        places.append(best)
        products.append(float(found[best]))
        picked = atoms[places].astype(np.float64)
        gram[count, : count + 1] = gram[: count + 1, count] = picked @ picked[-1]
        gram[count, count] += ridge
        aims[count] = picked[-1] @ target
        here = slice(count + 1)
        weights[here] = _not_negative(gram[here, here], aims[here], weights[here])
        residual = (target - weights[here] @ picked).astype(np.float32)
    return places, products


def _not_negative(
    gram: NDArray[np.float64],
    aims: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the w >= 0 that minimise w^T gram w / 2 - aims^T w.

    The active set method of Lawson and Hanson (1974, chapter 23), which starts from
    weights that are best without the last atom.
    """
    weights = weights.copy()
    positive = weights > 0
    joining = len(weights) - 1
    while True:
        positive[joining] = True
        wanted = _solve(gram, aims, positive)
        while (wanted[positive] <= 0).any():
            falling = positive & (wanted <= 0)
            falls = np.maximum(weights[falling] - wanted[falling], _TINY)
            steps = weights[falling] / falls
            weights += steps.min() * (wanted - weights)
            # The atom that set the step is 0 by definition, not by rounding.
            weights[np.flatnonzero(falling)[steps.argmin()]] = 0
            positive &= weights > 0
            wanted = _solve(gram, aims, positive)
        weights = wanted
        gains = np.where(positive, 0, aims - gram @ weights)
        joining = int(gains.argmax())
        if gains[joining] <= _NOTHING * aims.max():
            return weights


def _solve(
    gram: NDArray[np.float64], aims: NDArray[np.float64], of: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the best weights of some atoms, of either sign; the others are 0."""
    found = np.zeros(len(aims))
    found[of] = np.linalg.solve(gram[np.ix_(of, of)], aims[of])
    return found
