"""Selection by the loss at the start, nats per response token.

The highest losses are what the model knows least (online batch selection: Loshchilov,
Hutter 2015, arXiv 1511.06343), and also what is wrong or cannot be learned. The lowest
are the samples that it finds most plausible (perplexity pruning, of which either end
has been kept: Marion et al. 2023, arXiv 2309.04564).
"""

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order, highest, pool_rows
from ogs_env.bundle import Bundle


class HighestLossSelector:
    """Selects what the model knows least; the score is the loss."""

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
    """Selects what the model knows best; the score is the loss's negative."""

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
