"""Selectors compared in an environment, as they are deployed: on whole pools."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ogs_env.agents.selector import Selector
from ogs_env.bundle import Bundle
from ogs_env.learners.surrogate import SurrogateLearner
from ogs_env.rewards import NO_PICK, Rewards, checked_weights, weighted_sum

DRAWS = 30
# Of the split's samples, in each draw.
_PART = 3 / 4


def selection_value(bundle: Bundle, rows: NDArray[np.integer]) -> float:
    """Return what a selection is worth: the return of an episode that picks it.

    By the bundle's default weights, without terms that are about single samples.

    Args:
        bundle: Of an environment.
        rows: Pool rows (n,).
    """
    learner = SurrogateLearner(bundle)
    rewards = Rewards(learner, None)
    learner.update_many(rows)
    terms = {**NO_PICK, **rewards.changes()}
    return float(weighted_sum(terms, checked_weights(None, bundle)))


def compare(
    bundle: Bundle,
    selectors: Mapping[str, Selector],
    share: float,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """Let selectors select from the same random parts of the test split.

    Args:
        bundle: Of an environment.
        selectors: By name.
        share: Budget, share of the candidates.
        seed: Draws the parts.

    Returns:
        By name float64 (`DRAWS`,): the value of what was selected in each draw, points
        of percent; see `selection_value`.
    """
    rows = bundle.split("test")
    size = max(1, round(_PART * len(rows)))
    budget = max(1, round(share * size))
    rng = np.random.default_rng([seed, 60])
    parts = [rng.choice(rows, size, replace=False) for _ in range(DRAWS)]
    values = {}
    for name, selector in tqdm(selectors.items(), desc="selectors", leave=False):
        values[name] = np.array(
            [
                selection_value(
                    bundle,
                    selector.select(
                        bundle, budget, np.random.default_rng([seed, draw]), part
                    )[0],
                )
                for draw, part in enumerate(parts)
            ]
        )
    return values
