"""Random selection among responses as long as the domain's.

A control: what a selector gains over it is not owed to lengths. The rule is nearest
available matching in random order (Rubin 1973, Biometrics 29, 159-183) to a stratified
draw of the dev samples' lengths. With b = budget, pi a random permutation of 0..b-1
and u_i uniform in [0, 1), pick i takes

    the candidate left whose response is nearest, in tokens, to the
    (pi_i + u_i) / b quantile of the dev samples' response tokens,

at random among equally near ones. Quantiles are lengths that dev has (the inverse of
its empirical distribution), so b picks have one target in each b-th of dev's lengths,
and a single pick has any of them with the same chance.
"""

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order, pool_rows
from ogs_env.bundle import Bundle


class LengthMatchedSelector:
    """Draws samples whose lengths are distributed as the dev samples' are."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return rows in random order; every score is 0."""
        # Shuffled, so that the first of equally near ones is a random one.
        rows = rng.permutation(pool_rows(bundle, budget, indices))
        shares = (rng.permutation(budget) + rng.random(budget)) / budget
        targets = np.quantile(bundle.dev.tokens, shares, method="inverted_cdf")
        lengths = bundle.pool.tokens[rows].astype(np.float32)
        places = np.empty(budget, np.int64)
        for pick, target in enumerate(targets):
            places[pick] = np.abs(lengths - target).argmin()
            lengths[places[pick]] = np.inf
        return rows[places], np.zeros(budget, np.float32)
