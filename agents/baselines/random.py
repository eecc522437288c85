"""Select uniformly at random: the basic reference of every comparison."""

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order, pool_rows
from ogs_env.bundle import Bundle


class RandomSelector:
    """Select uniformly at random without replacement."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return rows in random order; every score is 0."""
        rows = pool_rows(bundle, budget, indices)
        return rng.choice(rows, budget, replace=False), np.zeros(budget, np.float32)
