"""Greedy by the validation gain of a set, to second order.

After a step of rate eta on the picked samples S, sample i lowers the validation loss
by eta times

    <g_i, g_D> - eta sum over j in S of <g_i, H g_j>,    H = I,

to second order in eta; the sample of highest gain is picked, again and again (GREATS:
Wang, Wu, Song, Mittal, Jia 2024, NeurIPS; H, the Hessian of the validation loss, is
the identity there too). g are initial sketches as they are, not unit ones, g_D the mean
of the dev samples'. What is like the picked has less to give.

The rate has to fit H = I. It is the exact line search of the same model along what
first-order selection would take, G = the sum of the `budget` gradients of highest
<g_i, g_D>: the model's loss -eta <G, g_D> + eta^2 |G|^2 / 2 is least at

    eta = max(0, <G, g_D>) / |G|^2.

A much smaller rate selects by inner product alone, a greater one overshoots.

The score is the gain over eta. A pick costs one pass over the candidates.
"""

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.baselines.gradients import domain_gradient
from ogs_env.agents.selector import Order, highest, pool_rows
from ogs_env.bundle import Bundle


class GreatsSelector:
    """Selects by gain for the domain, less what the picked give already."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return rows in the order picked."""
        rows = pool_rows(bundle, budget, indices)
        sketches = bundle.pool.sketches("initial", rows)
        domain = domain_gradient(bundle)
        # Row by row, whose numbers then are the same in any company.
        gains = np.vecdot(sketches, domain)
        first, _ = highest(np.arange(len(rows)), gains, budget)
        total = sketches[first].sum(axis=0)
        rate = max(0, total @ domain) / max(total @ total, 1e-12)
        order, scores = np.empty(budget, np.int64), np.empty(budget, np.float32)
        for pick in range(budget):
            best = gains.argmax()
            order[pick], scores[pick] = rows[best], gains[best]
            gains -= np.float32(rate) * np.vecdot(sketches, sketches[best])
            gains[best] = -np.inf
        return order, scores
