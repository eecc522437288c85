"""Select greedily by a reward computed from initial sketches.

Score of sample i: cos(g_i, g_D) - 0.3 max over capabilities c of |cos(g_i, g_c)|, g_D
the mean gradient of the dev samples and g_c of a capability's anchor samples, all of
the initial model. It combines `domain_gain` and `orthogonality`: high for samples that
improve the domain, low for those that affect general abilities.
"""

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order, highest, pool_rows
from ogs_env.bundle import Bundle

_ORTHOGONALITY = 0.3


class GreedySelector:
    """Select by domain cosine minus the largest absolute anchor cosine."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return the rows of highest score, best first."""
        rows = pool_rows(bundle, budget, indices)
        anchor = np.abs(bundle.anchor_cosines(rows)).max(axis=1)
        scores = bundle.domain_cosines(rows) - _ORTHOGONALITY * anchor
        return highest(rows, scores, budget)
