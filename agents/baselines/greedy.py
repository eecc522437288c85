"""Greedy on what is observed.

Score of sample i: cos(g_i, g_D) - 0.3 max over capabilities c of |cos(g_i, g_c)|, g_D
the mean gradient of the dev samples and g_c of a capability's anchor samples, all at
the start. It is the default reward, `domain_gain` and `orthogonality`, read off the
initial sketches: what teaches the domain most, less what touches general abilities.
"""

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order, highest, pool_rows
from ogs_env.bundle import Bundle

_ORTHOGONALITY = 0.3


class GreedySelector:
    """Selects by domain cosine less the largest anchor cosine, either sign."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return the rows of highest score, best first."""
        rows = pool_rows(bundle, budget, indices)
        touched = np.abs(bundle.anchor_cosines(rows)).max(axis=1)
        scores = bundle.domain_cosines(rows) - _ORTHOGONALITY * touched
        return highest(rows, scores, budget)
