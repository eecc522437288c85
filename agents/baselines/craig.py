"""Select a coreset by facility location over gradients (CRAIG).

The selection S greedily maximises

    F(S) = sum over candidates i of max over j in S of (d_max - |g_i - g_j|),

g the initial sketches and d_max their largest distance, so that every sample's gradient
is near that of a selected one (Mirzasoleiman, Bilmes, Leskovec 2020, arXiv 1906.01827).
It does not use the domain: the selection represents the pool. F is submodular, so the
greedy selection reaches at least 1 - 1/e of the best value, and an earlier gain is an
upper bound of the current one: lazy greedy (Minoux 1978) recomputes few gains.

Pairwise distances are in memory for at most 2,048 candidates. A larger pool is split
into parts of equal budgets (`gradients.in_parts`), as the paper does by class.

Gains are often equal, for example of two samples that are each other's nearest. So that
ties go to the earlier sample whatever the rounding, similarities are integers in units
of 2^-20 d_max, whose sums are exact.

The score is the gain of F at the time of the pick, in the gradients' unit.
"""

import heapq

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.baselines.gradients import Places, Scores, in_parts
from ogs_env.agents.selector import Order, pool_rows
from ogs_env.bundle import Bundle

_BLOCK = 2048
_STEPS = 2**20


class CraigSelector:
    """Select the samples that represent the pool best."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return rows in the order picked; for several parts, rank by rank."""
        rows = pool_rows(bundle, budget, indices)
        return in_parts(bundle, rows, budget, -(-len(rows) // _BLOCK), _choose)


def _choose(sketches: NDArray[np.float32], budget: int) -> tuple[Places, Scores]:
    near, unit = similarities(sketches)
    places, gains = lazy_greedy(near, budget)
    return np.array(places), np.array(gains, np.float32) * np.float32(unit)


def similarities(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
    """Return d_max - |v_i - v_j|, (n, n), as integers, and their unit."""
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
        near: Similarities (n, n), symmetric, integers, none negative.
        budget: Number of picks.

    Returns:
        Places in the order picked, ties to the earlier; and the gain of each.
    """
    covered = np.zeros(len(near))
    # Upper bounds of the gains; ties in the heap go to the earlier place.
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
