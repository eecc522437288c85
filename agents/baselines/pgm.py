"""Select by gradient matching in partitions (PGM).

PGM (Mittal, Sivasubramanian, Iyer, Jyothi, Ramakrishnan 2022, arXiv 2210.16892): the
candidates are split into D partitions, the pursuit of `grad-match` picks budget / D
from each against the same domain gradient, and the picks are merged. It was made for
gradients that do not fit into memory; it also covers more of the pool, since each
partition has to match the gradient by itself.

Here D = ceil(candidates / 64), at most the budget; see `gradients.in_parts` for the
partitions. A slate of an environment is one partition, so with one slate at a time it
equals `grad-match`.
"""

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.baselines.grad_match import matching
from ogs_env.agents.baselines.gradients import in_parts
from ogs_env.agents.selector import Order, pool_rows
from ogs_env.bundle import Bundle

_PARTITION = 64


class PgmSelector:
    """Select samples that match the domain's gradient, partition by partition."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return the first picks of all partitions, the second picks, and so on."""
        rows = pool_rows(bundle, budget, indices)
        parts = min(-(-len(rows) // _PARTITION), budget)
        return in_parts(bundle, rows, budget, parts, matching(bundle))
