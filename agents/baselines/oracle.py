"""Oracle: select greedily by the learner's true marginal reward.

Each step picks the sample of highest marginal reward, as `SelectionEnv` would give it
now, and updates the learner with it. In episodes it uses trajectory sketches and the
whole stream, which agents do not observe, so its return is a reference for the best
possible one. It is greedy, not optimal: the reference is not a bound. Outside episodes,
as in `ogs adapt`, it selects from a bundle's pool like any other selector.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order, pool_rows
from ogs_env.bundle import Bundle
from ogs_env.envs.observations import candidates
from ogs_env.episode_rewards import Information, Rewards
from ogs_env.learners.surrogate import SurrogateLearner
from ogs_env.rewards import checked_weights, weighted_sum


class OracleSelector:
    """Select greedily by marginal reward.

    Args:
        weights: Weights by reward term; terms not named have the bundle's default.
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
