"""No selection: everything, in the order given, until the budget is spent.

With a budget of 100 % it is the whole pool, fine-tuning without selection. In the
environment it takes everything as it comes.
"""

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order, pool_rows
from ogs_env.bundle import Bundle


class AllSelector:
    """Takes the first rows."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return the first `budget` rows as given; every score is 0."""
        rows = pool_rows(bundle, budget, indices)
        return rows[:budget], np.zeros(budget, np.float32)
