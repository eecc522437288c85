"""Selectors compared by what an environment pays for whole selections."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ogs_env.agents.selector import Selector
from ogs_env.bundle import Bundle
from ogs_env.learners.surrogate import SurrogateLearner
from ogs_env.rewards import NO_PICK, Rewards, checked_weights, weighted_sum

DRAWS = 10
# Of the pool, in each draw.
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
    budget: int,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """Let selectors select from the same random parts of a pool.

    Args:
        bundle: Of an environment.
        selectors: By name.
        budget: Of the whole pool; a part has its share.
        seed: Draws the parts.

    Returns:
        By name float64 (`DRAWS`,): the value of what was selected in each draw, points
        of percent; see `selection_value`.
    """
    size = max(1, round(_PART * len(bundle.pool)))
    picks = max(1, round(_PART * budget))
    rng = np.random.default_rng([seed, 60])
    parts = [rng.choice(len(bundle.pool), size, replace=False) for _ in range(DRAWS)]
    values: dict[str, list[float]] = {name: [] for name in selectors}
    rounds = [(draw, name) for draw in range(DRAWS) for name in selectors]
    for draw, name in tqdm(rounds, desc="selections", leave=False):
        own = np.random.default_rng([seed, draw])
        rows, _ = selectors[name].select(bundle, picks, own, parts[draw])
        values[name].append(selection_value(bundle, rows))
    return {name: np.array(own) for name, own in values.items()}
