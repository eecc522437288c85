"""Similarity with the domain.

Score of sample i: cos(g_i, g_D), g_i its gradient and g_D the mean gradient of the dev
samples, both at the start. After LESS (Xia, Malladi, Gururangan, Arora, Chen 2024,
arXiv 2402.04333), which sums this over the checkpoints of a warm-up.
"""

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order, highest, pool_rows
from ogs_env.bundle import Bundle


class DomainCosineSelector:
    """Selects the highest cosines with the domain gradient."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return the rows of highest cosine, best first."""
        rows = pool_rows(bundle, budget, indices)
        return highest(rows, bundle.domain_cosines(rows), budget)
