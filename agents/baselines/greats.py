"""Select greedily by the second-order validation gain of a set (GREATS).

After a step of rate eta on the picked samples S, sample i lowers the validation loss
by eta times

    <g_i, g_D> - eta sum over j in S of <g_i, H g_j>,    H = I,

to second order in eta. Each step picks the sample of highest gain (Wang, Wu, Song,
Mittal, Jia 2024, NeurIPS; there too, H, the Hessian of the validation loss, is the
identity). g are initial sketches, not normalised, and g_D is the mean of the dev
samples'. Samples similar to those picked have a lower gain.

The rate has to fit H = I. It comes from an exact line search of the same model along
the first-order selection, G = the sum of the `budget` gradients of highest <g_i, g_D>:
the model's loss -eta <G, g_D> + eta^2 |G|^2 / 2 is least at

    eta = max(0, <G, g_D>) / |G|^2.

A much smaller rate selects by inner product only, a larger one overshoots.

The score is the gain over eta. A pick costs one pass over the candidates.
"""

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.baselines.gradients import domain_gradient
from ogs_env.agents.selector import Order, highest, pool_rows
from ogs_env.bundle import Bundle


class GreatsSelector:
    """Select by gain for the domain minus the overlap with the picks."""

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
        # `vecdot` gives the same product for a row whatever the other rows are.
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
