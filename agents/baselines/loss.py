"""Select by the initial loss, nats per response token.

Samples of highest loss are those that the model predicts worst (online batch selection:
Loshchilov, Hutter 2015, arXiv 1511.06343), and also wrong or unlearnable ones. Those of
lowest loss are the most plausible to the model (perplexity pruning, which selects
either end: Marion et al. 2023, arXiv 2309.04564).
"""

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order, highest, pool_rows
from ogs_env.bundle import Bundle


class HighestLossSelector:
    """Select the samples of highest loss; the score is the loss."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return the rows of highest loss, highest first."""
        rows = pool_rows(bundle, budget, indices)
        return highest(rows, bundle.pool.losses[rows], budget)


class LowestLossSelector:
    """Select the samples of lowest loss; the score is the negative loss."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return the rows of lowest loss, lowest first."""
        rows = pool_rows(bundle, budget, indices)
        return highest(rows, -bundle.pool.losses[rows], budget)
