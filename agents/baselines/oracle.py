"""Oracle: greedy selection by the learner's true reward, over all candidates at once.

Each step picks the sample whose reward in `SelectionEnv` would be highest now, and
updates the learner with it. In an episode the oracle uses trajectory sketches and the
whole stream, which no agent observes, so its return shows how much an agent could gain.
It is greedy, not optimal: its return is a reference, not an upper bound. Outside of
episodes it selects from any pool that is sketched as an environment, as in `ogs adapt`.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order, pool_rows
from ogs_env.bundle import Bundle
from ogs_env.envs.observations import candidates
from ogs_env.learners.surrogate import SurrogateLearner
from ogs_env.rewards import Information, Rewards, checked_weights, weighted_sum


class OracleSelector:
    """Selects greedily by marginal reward.

    Args:
        weights: Of the reward terms; those not named keep the bundle's default.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = weights

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return pool rows in the order picked; the scores are their rewards."""
        rows = pool_rows(bundle, budget, indices)
        units = candidates(bundle, "initial").rows(rows)[1]
        weights = checked_weights(self._weights, bundle)
        information = Information.if_weighted(weights, bundle.k, budget)
        rewards = Rewards(SurrogateLearner(bundle), information)
        left = np.ones(len(rows), bool)
        order, scores = np.empty(budget, np.int64), np.empty(budget, np.float32)
        for pick in range(budget):
            places = np.flatnonzero(left)
            terms = rewards.preview(rows[places], units[places])
            marginal = weighted_sum(terms, weights)
            best = places[marginal.argmax()]
            left[best] = False
            order[pick], scores[pick] = rows[best], marginal.max()
            rewards.pick(int(rows[best]), units[best])
        return order, scores
