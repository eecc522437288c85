"""Let a selector choose among the candidates that are most like the domain.

Greedy selection by a predicted reward also selects what the prediction overrates. Among
candidates whose texts are like those of the domain it does so less: in real fine-tuning
such selections learn more of the domain than greedy ones from the whole pool, and
forget no more (`docs/study.md`).
"""

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order, Selector, pool_rows
from ogs_env.bundle import Bundle

SCREENED = "screened-"
"""Prefix of the names of screened selectors, such as `screened-oracle`."""
FACTOR = 2
"""Candidates that are kept, as a multiple of the budget; chosen on development pools
from 2 and 3."""


class ScreenedSelector:
    """Select from the candidates that another selector ranks first.

    Args:
        selector: Selects.
        screen: Keeps `FACTOR` times the budget of the candidates, or all of them if
            they are fewer; such as `RdsSelector`, which keeps those whose hidden states
            are nearest to the domain's.
    """

    def __init__(self, selector: Selector, screen: Selector) -> None:
        self._selector, self._screen = selector, screen

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return the selector's choice from the candidates that are kept."""
        rows = pool_rows(bundle, budget, indices)
        count = min(FACTOR * budget, len(rows))
        kept, _ = self._screen.select(bundle, count, rng, rows)
        return self._selector.select(bundle, budget, rng, np.sort(kept))
