"""Select by the paper's Conf score, without learning.

Conf_i = -cos(g_i, g_ref), g_ref the mean initial gradients of all anchor samples
(Zhang, Tian, Wang, Song 2026, arXiv 2602.06359). A sample of high Conf harms general
abilities, so the samples of *lowest* Conf are selected; the score is -Conf_i.
"""

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.baselines.orth import general_cosines
from ogs_env.agents.selector import Order, highest, pool_rows
from ogs_env.bundle import Bundle


class ConflictSelector:
    """Select the samples of least conflict with the general gradient."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return the rows of lowest Conf, lowest first."""
        rows = pool_rows(bundle, budget, indices)
        return highest(rows, general_cosines(bundle, rows), budget)
