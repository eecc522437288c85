"""Select at random, with response lengths distributed as the dev samples'.

This is a control: a selector's advantage over it is not due to response lengths. The
rule is nearest available matching in random order (Rubin 1973, Biometrics 29, 159-183)
to a stratified sample of the dev samples' lengths. With b = budget, pi a random
permutation of 0..b-1 and u_i uniform in [0, 1), pick i is

    the remaining candidate whose response is nearest, in tokens, to the
    (pi_i + u_i) / b quantile of the dev samples' response tokens,

with random ties. Quantiles are lengths of dev samples (the inverse of the empirical
distribution), so b picks have one target in each b-th of these lengths, and a single
pick has each with equal probability.
"""

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order, pool_rows
from ogs_env.bundle import Bundle


class LengthMatchedSelector:
    """Select at random with the length distribution of the dev samples."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return rows in random order; every score is 0."""
        # Shuffled, so that ties are random.
        rows = rng.permutation(pool_rows(bundle, budget, indices))
        shares = (rng.permutation(budget) + rng.random(budget)) / budget
        targets = np.quantile(bundle.dev.tokens, shares, method="inverted_cdf")
        lengths = bundle.pool.tokens[rows].astype(np.float32)
        places = np.empty(budget, np.int64)
        for pick, target in enumerate(targets):
            places[pick] = np.abs(lengths - target).argmin()
            lengths[places[pick]] = np.inf
        return rows[places], np.zeros(budget, np.float32)
