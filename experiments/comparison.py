"""Compare selectors by the return of their whole selections in an environment."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ogs_env.agents.episodes import summarise
from ogs_env.agents.selector import Selector
from ogs_env.bundle import Bundle
from ogs_env.episode_rewards import Rewards
from ogs_env.learners.surrogate import SurrogateLearner
from ogs_env.rewards import NO_PICK, checked_weights, weighted_sum
from ogs_env.seeding import named_rng

DRAWS = 10
# Of the pool, in each draw.
_PART = 3 / 4


def predicted_terms(bundle: Bundle, rows: NDArray[np.integer]) -> dict[str, float]:
    """Return the sums of the reward terms over an episode that makes a selection.

    Terms of single samples (`orthogonality`, `information`) are those of a skip.

    Args:
        bundle: Of an environment.
        rows: Pool rows (n,).
    """
    learner = SurrogateLearner(bundle)
    rewards = Rewards(learner, None)
    learner.update_many(rows)
    return {**NO_PICK, **rewards.changes()}


def compare(
    bundle: Bundle,
    selectors: Mapping[str, Selector],
    budget: int,
    seed: int,
    weights: Mapping[str, float],
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Let selectors select from the same random parts of a pool.

    Args:
        bundle: Of an environment.
        selectors: By name.
        budget: Of the whole pool; a part has its share.
        seed: Draws the parts.
        weights: Of the reward terms; those not named keep the bundle's default.

    Returns:
        By name `value`, the return of an episode with that selection, by draw
        (`DRAWS`,), and `forgetting`, the term of that name; points of percent.
    """
    size = max(1, round(_PART * len(bundle.pool)))
    picks = max(1, round(_PART * budget))
    rng = named_rng(seed, "selection parts")
    parts = [rng.choice(len(bundle.pool), size, replace=False) for _ in range(DRAWS)]
    checked = checked_weights(weights, bundle)
    terms_of: dict[str, list[tuple[float, float]]] = {name: [] for name in selectors}
    rounds = [(draw, name) for draw in range(DRAWS) for name in selectors]
    for draw, name in tqdm(rounds, desc="selections", leave=False):
        own = np.random.default_rng([seed, draw])
        rows, _ = selectors[name].select(bundle, picks, own, parts[draw])
        terms = predicted_terms(bundle, rows)
        terms_of[name].append((weighted_sum(terms, checked), terms["forgetting"]))
    return {
        name: dict(zip(("value", "forgetting"), np.array(pairs).T, strict=True))
        for name, pairs in terms_of.items()
    }


def comparison_summary(
    draws: Mapping[str, Mapping[str, NDArray[np.float64]]],
) -> dict[str, dict[str, float]]:
    """Summarise a result of `compare`: `summarise` of values, mean of forgetting."""
    return {
        name: {
            **summarise(terms["value"]),
            "forgetting": round(float(terms["forgetting"].mean()), 4),
        }
        for name, terms in draws.items()
    }


def comparison_table(summary: Mapping[str, Mapping[str, float]]) -> str:
    """Return a comparison's summary as a text table, highest mean value first."""
    lines = [f"{'selector':<16}{'value':>8}  {'95 % interval':<18}forgetting, %"]
    for name in sorted(summary, key=lambda name: -summary[name]["mean"]):
        of_name = summary[name]
        span = f"[{of_name['low']:.2f}, {of_name['high']:.2f}]"
        lines.append(
            f"{name:<16}{of_name['mean']:>8.2f}  {span:<18}"
            f"{of_name['forgetting']:>13.1f}"
        )
    return "\n".join(lines)


def best_selector(summary: Mapping[str, Mapping[str, float]]) -> str:
    """Return the selector of highest mean value.

    What is forgotten lowers the value, by the weight that `forgetting_limit` finds.

    Args:
        summary: Result of `comparison_summary`.
    """
    return max(summary, key=lambda name: summary[name]["mean"])
