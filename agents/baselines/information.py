"""Select greedily by the log-determinant of the sketches' information matrix.

Each step picks the sample that increases log det(I + sum over picks of u u^T) most, u
the unit initial sketches. It is the environment's reward term `information` (see
`ogs_env.rewards`), after Domain Curiosity (Struckmeier, Arndt, Kyrki), which rewards
data that are informative about a domain. The first pick is the first candidate, since
all unit vectors have the same gain.

With M = (I + sum u u^T)^-1 the gain of u is log(1 + u^T M u), and a pick subtracts
b b^T from M, b = M u / sqrt(1 + u^T M u): every candidate's u^T M u decreases by
(u^T b)^2, so a pick costs one pass over the candidates.

The score is the gain at the time of the pick, nats, in (0, log 2].
"""

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order, pool_rows
from ogs_env.bundle import Bundle


class InformationSelector:
    """Select samples whose directions differ from those of the picks."""

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
        # u^T M u; exactly 1 at first, so that rounding does not break ties.
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
            # `vecdot` gives the same product for a row whatever the other rows are.
            left -= np.square(np.vecdot(units, removed[pick]))
            np.maximum(left, 0, out=left)
        return order, scores
