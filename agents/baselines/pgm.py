"""Gradient matching in partitions.

PGM (Mittal, Sivasubramanian, Iyer, Jyothi, Ramakrishnan 2022, arXiv 2210.16892): the
candidates are split into D partitions, the pursuit of `grad-match` picks budget / D
from each against the same domain gradient, and the picks are united. It was made for
gradients that do not fit into one memory; it also covers more of the pool, as every
partition has to match the gradient on its own.

Here D = ceil(candidates / 64), at most the budget; `gradients.in_parts` says who is in
which. A slate of an environment is one partition, so slate by hand it is `grad-match`.
"""

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.baselines.grad_match import match
from ogs_env.agents.baselines.gradients import in_parts
from ogs_env.agents.selector import Order, pool_rows
from ogs_env.bundle import Bundle

_PARTITION = 64


class PgmSelector:
    """Selects what has the domain's gradient, partition by partition."""

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
        return in_parts(rows, budget, parts, lambda *part: match(bundle, *part))
