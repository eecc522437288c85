"""A limit on forgetting, and the reward weight with which greedy selection keeps to it.

With a weight of 1 on `forgetting`, the selection that is worth most can forget more
than random picks do. Users want a limit instead. The larger the weight, the less the
greedy selection forgets; bisection finds the least weight that keeps to the limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from ogs_env.agents.baselines.oracle import OracleSelector
from ogs_env.bundle import Bundle
from ogs_env.errors import InputError
from ogs_env.experiments.comparison import predicted_terms
from ogs_env.files import read_object
from ogs_env.seeding import named_rng

MARGIN = 0.85
"""The limit, as a share of what random picks are predicted to forget.

Selecting by a prediction makes it optimistic. With a share of 1, selections of two
Financial pools forgot slightly more than random picks in real fine-tuning. With 0.85,
chosen on these pools, selections of six other pools forgot as much as random picks on
average.
"""
RANDOM_DRAWS = 100
TRIES = 9
# Bisection ends when the bounds of the weight differ by less than this share of it.
_NEAR = 0.1
_FASTER = 2.5


@dataclass(frozen=True)
class ForgettingLimit:
    """A limit on forgetting, and the weight with which greedy selection keeps to it.

    Attributes:
        weight: Weight of the reward term `forgetting`.
        limit: Largest predicted value of that term, percent.
        predicted: Its predicted value for the greedy selection with this weight.
    """

    weight: float
    limit: float
    predicted: float

    @property
    def weights(self) -> Mapping[str, float]:
        """The weights of reward terms that are not the bundle's default."""
        return {"forgetting": self.weight}


def read_limit(file: Path) -> ForgettingLimit:
    """Read a limit from JSON.

    Raises:
        InputError: If the file is missing or damaged.
    """
    remedy = "delete it and run the command again"
    values = read_object(file, f"limit on forgetting; {remedy}")
    names = [field.name for field in fields(ForgettingLimit)]
    numbers = all(isinstance(value, int | float) for value in values.values())
    if set(values) != set(names) or not numbers:
        raise InputError(f"{file}: expected the numbers {', '.join(names)}; {remedy}")
    return ForgettingLimit(**values)


def forgetting_limit(bundle: Bundle, budget: int, seed: int) -> ForgettingLimit:
    """Find the least weight of `forgetting` that keeps greedy selection to a limit.

    The limit is `MARGIN` times the mean prediction for random selections. If no weight
    that is tried keeps to it, the result has the largest of them.

    Args:
        bundle: Bundle with own answers.
        budget: Number of samples in a selection.
        seed: Seed of the random selections.
    """
    rng = named_rng(seed, "forgetting limit")
    drawn = [
        predicted_terms(bundle, rng.choice(len(bundle.pool), budget, replace=False))
        for _ in range(RANDOM_DRAWS)
    ]
    limit = MARGIN * float(np.mean([terms["forgetting"] for terms in drawn]))
    within: ForgettingLimit | None = None
    low, weight = 0.0, 1.0
    for _ in range(TRIES):
        greedy = OracleSelector({"forgetting": weight})
        rows, _scores = greedy.select(bundle, budget, rng)
        tried = ForgettingLimit(
            weight, limit, predicted_terms(bundle, rows)["forgetting"]
        )
        if tried.predicted <= limit:
            within = tried
        else:
            low = weight
        if within is None:
            weight *= _FASTER
        elif within.weight - low <= _NEAR * within.weight:
            break
        else:
            weight = (low + within.weight) / 2
    return within or tried
