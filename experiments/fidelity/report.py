"""How well the environment's predictions agree with real fine-tuning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ogs_env.errors import InputError
from ogs_env.experiments.fidelity.table import MEASURES, Table, table

Array = NDArray[np.float64]
_RESAMPLES = 2000


def correlation(predicted: Array, real: Array) -> dict[str, Any]:
    """Return Spearman and Pearson correlations and Spearman's 95 % interval.

    The interval is the bootstrap's over subsets (percentiles, 2,000 resamples).

    Args:
        predicted: Of each subset (subsets,).
        real: The same.
    """
    rng = np.random.default_rng(0)
    chosen = rng.integers(len(real), size=(_RESAMPLES, len(real)))
    # A resample of one subset alone has no correlation.
    low, high = np.nanpercentile(spearman(predicted[chosen], real[chosen]), [2.5, 97.5])
    return {
        "spearman": round(float(spearman(predicted, real)), 3),
        "interval": [round(float(low), 3), round(float(high), 3)],
        "pearson": round(float(stats.pearsonr(predicted, real).statistic), 3),
    }


def ceiling(repeats: Sequence[Array]) -> float:
    """Return the highest correlation that seed noise allows any predictor.

    The square root of the reliability: of the variance of the subsets' means, the
    part that is not noise (Spearman 1904). The noise of one run comes from the
    subsets that were trained with several seeds.

    Raises:
        InputError: If none was.
    """
    several = [one for one in repeats if len(one) > 1]
    if not several:
        raise InputError("no subset was trained with two seeds; run with --seeds 2")
    noise = sum(((one - one.mean()) ** 2).sum() for one in several)
    noise /= sum(len(one) - 1 for one in several)
    in_means = noise * np.mean([1 / len(one) for one in repeats])
    spread = np.var([one.mean() for one in repeats], ddof=1)
    return round(float(np.sqrt(max(0.0, 1 - in_means / spread))), 3)


def paired(found: Table, first: str, second: str) -> dict[str, Any]:
    """Compare two kinds of subset that were picked from the same candidates.

    Returns:
        For each set the mean difference first - second, in points of percent, and
        its 95 % interval by Student's t over the pairs, if there are two or more;
        `pairs`, how many.
    """
    places = {name: place for place, name in enumerate(found.names)}
    numbers = [
        name.removeprefix(f"{first}-")
        for name in found.names
        if name.startswith(f"{first}-")
        and f"{second}-{name.removeprefix(f'{first}-')}" in places
    ]
    result: dict[str, Any] = {"pairs": len(numbers)}
    if len(numbers) < 2:
        return result
    for name, real in found.real.items():
        gaps = np.array(
            [
                real[places[f"{first}-{n}"]] - real[places[f"{second}-{n}"]]
                for n in numbers
            ]
        )
        mean = float(gaps.mean())
        half = stats.t.ppf(0.975, len(gaps) - 1) * stats.sem(gaps)
        result[name] = {
            "difference": round(mean, 3),
            "interval": [round(mean - half, 3), round(mean + half, 3)],
        }
    return result


def summarise(folder: Path) -> dict[str, Any]:
    """Return what one line of `ogs fidelity --summary` says about a pool and recipe.

    Args:
        folder: Of a pool's list; its name tells the list.
    """
    found = table(folder)
    summary: dict[str, Any] = {
        "pool": folder.parent.name,
        "recipe": folder.name,
        "subsets": len(found.names),
        "refitted": False,
    }
    for name, measured in MEASURES.items():
        result = correlation(found.predicted[name], found.real[measured])
        summary[f"{name}_spearman"] = result["spearman"]
        summary[f"{name}_interval"] = result["interval"]
        summary[f"{name}_pearson"] = result["pearson"]
        if any(len(one) > 1 for one in found.repeats[measured]):
            summary[f"{name}_ceiling"] = ceiling(found.repeats[measured])
    for name, measured in MEASURES.items():
        summary[f"{name}_naive"] = {
            naive: round(float(spearman(values, found.real[measured])), 3)
            for naive, values in found.naive.items()
        }
    pairs = paired(found, "reward", "random")
    if pairs["pairs"] > 1:
        summary["reward_less_random"] = pairs
    return summary


def spearman(first: Array, second: Array) -> Array:
    """Return Spearman's rank correlations along the last axis, (..., n) to (...).

    NaN where one of the two is the same everywhere.
    """
    ranks = [stats.rankdata(values, axis=-1) for values in (first, second)]
    x, y = (one - one.mean(axis=-1, keepdims=True) for one in ranks)
    with np.errstate(invalid="ignore"):
        found: Array = np.vecdot(x, y) / np.sqrt(np.vecdot(x, x) * np.vecdot(y, y))
    return found
