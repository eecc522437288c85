"""Coresets by facility location over gradients.

Selects S that greedily maximises

    F(S) = sum over candidates i of max over j in S of (d_max - |g_i - g_j|),

g the initial sketches and d_max their largest distance: every sample's gradient shall
be near that of a selected one (CRAIG: Mirzasoleiman, Bilmes, Leskovec 2020, arXiv
1906.01827). It knows no domain: it represents the pool. F is submodular, so greed
reaches at least 1 - 1/e of the best value, and an old gain bounds the new one from
above: lazy greedy (Minoux 1978) measures few anew.

Pairwise distances are held for 2,048 candidates at a time: more are selected from in
parts of equal budgets (`gradients.in_parts`), as the paper does class by class.

Gains often are equal: of two samples that are each other's nearest, say. So that the
earlier is picked, and not what rounding likes, similarities are whole numbers, in
units of 2^-20 d_max; their sums are exact.

The score is the gain of F when it was picked, in the gradients' unit.
"""

import heapq

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.baselines.gradients import in_parts
from ogs_env.agents.selector import Order, pool_rows
from ogs_env.bundle import Bundle

_BLOCK = 2048
_STEPS = 2**20


class CraigSelector:
    """Selects what is most like the rest."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return rows in the order picked; of parts, rank by rank."""

        def choose(part: NDArray[np.int64], count: int) -> Order:
            near, unit = similarities(bundle.pool.sketches("initial", part))
            places, gains = lazy_greedy(near, count)
            return part[places], np.array(gains, np.float32) * np.float32(unit)

        rows = pool_rows(bundle, budget, indices)
        return in_parts(rows, budget, -(-len(rows) // _BLOCK), choose)


def similarities(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
    """Return d_max - |v_i - v_j|, (n, n), in whole units, and the unit."""
    wide = vectors.astype(np.float64)
    products = wide @ wide.T
    squares = products.diagonal()
    squared = squares + squares[:, None] - 2 * products
    distances = np.sqrt(np.maximum(squared, 0))
    unit = max(float(distances.max()), 1e-12) / _STEPS
    return _STEPS - np.rint(distances / unit), unit


def lazy_greedy(
    near: NDArray[np.float64], budget: int
) -> tuple[list[int], list[float]]:
    """Maximise facility location greedily.

    Args:
        near: Similarities (n, n), symmetric, whole numbers, none negative.
        budget: Picks.

    Returns:
        Places in the order picked, the earlier of equals; and the gain of each.
    """
    covered = np.zeros(len(near))
    # Upper bounds of the gains; a heap gives the earlier place of equal ones.
    bounds = [(-float(row.sum()), place) for place, row in enumerate(near)]
    heapq.heapify(bounds)
    places: list[int] = []
    gains: list[float] = []
    while len(places) < budget:
        place = heapq.heappop(bounds)[1]
        gain = float(np.maximum(near[place] - covered, 0).sum())
        if bounds and (-gain, place) > bounds[0]:
            heapq.heappush(bounds, (-gain, place))
            continue
        np.maximum(covered, near[place], out=covered)
        places.append(place)
        gains.append(gain)
    return places, gains
