"""What tells most that the picked do not tell yet.

Greedy on log det(I + sum over picks of u u^T), u the unit initial sketches: the sample
that adds most is picked, again and again. It is the environment's reward term
`information` (see `ogs_env.rewards`), after Domain Curiosity (Struckmeier, Arndt,
Kyrki), which rewards data that tell most about a domain.
The first pick of any candidates is the earliest, as all unit vectors tell as much.

With M = (I + sum u u^T)^-1 the gain of u is log(1 + u^T M u), and a pick takes b b^T
off M, b = M u / sqrt(1 + u^T M u): so every candidate's u^T M u loses (u^T b)^2, and
a pick costs one pass over the candidates.

The score is the gain when it was picked, nats, in (0, log 2].
"""

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order, pool_rows
from ogs_env.bundle import Bundle


class InformationSelector:
    """Selects directions that are new."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return rows in the order picked."""
        rows = pool_rows(bundle, budget, indices)
        units = bundle.pool.sketches("initial", rows)
        norms = np.linalg.norm(units, axis=1)
        units /= np.maximum(norms, 1e-12)[:, None]
        # u^T M u; exactly 1 at first, so that rounding does not choose.
        left = (norms > 0).astype(np.float32)
        removed = np.empty((budget, bundle.k), np.float32)
        order, scores = np.empty(budget, np.int64), np.empty(budget, np.float32)
        picked = np.zeros(len(rows), bool)
        for pick in range(budget):
            best = np.where(picked, -1, left).argmax()
            picked[best] = True
            order[pick], scores[pick] = rows[best], np.log1p(left[best])
            unit, before = units[best], removed[:pick]
            removed[pick] = unit - (before @ unit) @ before
            removed[pick] /= np.sqrt(1 + left[best])
            # Row by row, whose numbers then are the same in any company.
            left -= np.square(np.vecdot(units, removed[pick]))
            np.maximum(left, 0, out=left)
        return order, scores
