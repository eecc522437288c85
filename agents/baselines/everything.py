"""No selection: all samples in the order given, until the budget is spent.

With a budget of 100 % this is fine-tuning on the whole pool. In an environment it picks
every candidate in the order of the stream.
"""

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order, pool_rows
from ogs_env.bundle import Bundle


class AllSelector:
    """Select the first rows."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return the first `budget` rows in the order given; every score is 0."""
        rows = pool_rows(bundle, budget, indices)
        return rows[:budget], np.zeros(budget, np.float32)
