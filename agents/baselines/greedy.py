"""Greedy on what is observed.

Score of sample i: cos(g_i, g_D) + min over capabilities c of cos(g_i, g_c), g_D the
mean gradient of the dev samples and g_c of a capability's anchor samples, all at the
start: what helps the domain most and harms the worst-off ability least, to first order.
Ours; the trade between the two is the conflict that the paper's Conf measures.
"""

import numpy as np
from numpy.typing import NDArray
from ogs_env.agents.selector import Order, highest, pool_rows

from ogs_env.bundle import Bundle


class GreedySelector:
    """Selects by domain cosine plus worst anchor cosine."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return the rows of highest score, best first."""
        rows = pool_rows(bundle, budget, indices)
        worst = bundle.anchor_cosines(rows).min(axis=1)
        return highest(rows, bundle.domain_cosines(rows) + worst, budget)
