"""Agreement of the environment's predictions with real fine-tuning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ogs_env.errors import InputError
from ogs_env.experiments.fidelity.table import MEASURES, Table, table
from ogs_env.experiments.statistics import t_half_width

Array = NDArray[np.float64]
_RESAMPLES = 2000


def correlation(predicted: Array, real: Array) -> dict[str, Any]:
    """Return Spearman and Pearson correlations and Spearman's 95 % interval.

    The interval is a percentile bootstrap over subsets (2,000 resamples).

    Args:
        predicted: Predicted change of each subset (subsets,).
        real: Real change of each subset (subsets,).
    """
    rng = np.random.default_rng(0)
    chosen = rng.integers(len(real), size=(_RESAMPLES, len(real)))
    # A resample of a single subset has no correlation.
    low, high = np.nanpercentile(spearman(predicted[chosen], real[chosen]), [2.5, 97.5])
    return {
        "spearman": round(float(spearman(predicted, real)), 3),
        "interval": [round(float(low), 3), round(float(high), 3)],
        "pearson": round(float(stats.pearsonr(predicted, real).statistic), 3),
    }


def ceiling(repeats: Sequence[Array]) -> float:
    """Return the highest correlation that seed noise allows any predictor.

    The square root of the reliability, the share of the variance of the subsets' means
    that is not noise (Spearman 1904). The noise of a run is estimated from subsets
    trained with several seeds.

    Args:
        repeats: Changes of each subset's runs.

    Raises:
        InputError: If no subset was trained with several seeds.
    """
    several = [one for one in repeats if len(one) > 1]
    if not several:
        raise InputError("no subset was trained with two seeds; run with --seeds 2")
    noise = sum(((one - one.mean()) ** 2).sum() for one in several)
    noise /= sum(len(one) - 1 for one in several)
    in_means = noise * np.mean([1 / len(one) for one in repeats])
    spread = np.var([one.mean() for one in repeats], ddof=1)
    return round(float(np.sqrt(max(0.0, 1 - in_means / spread))), 3)


def paired(data: Table, first: str, second: str) -> dict[str, Any]:
    """Compare two kinds of subsets picked from the same candidates.

    Returns:
        For each measure the mean difference first - second, in points of percent, and
        its 95 % interval by Student's t over the pairs, if there are two or more; and
        `pairs`, the number of pairs.
    """
    places = {name: place for place, name in enumerate(data.names)}
    numbers = [
        name.removeprefix(f"{first}-")
        for name in data.names
        if name.startswith(f"{first}-")
        and f"{second}-{name.removeprefix(f'{first}-')}" in places
    ]
    result: dict[str, Any] = {"pairs": len(numbers)}
    if len(numbers) < 2:
        return result
    for name, real in data.real.items():
        gaps = np.array(
            [
                real[places[f"{first}-{n}"]] - real[places[f"{second}-{n}"]]
                for n in numbers
            ]
        )
        mean = float(gaps.mean())
        half = t_half_width(gaps)
        result[name] = {
            "difference": round(mean, 3),
            "interval": [round(mean - half, 3), round(mean + half, 3)],
        }
    return result


def summarise(folder: Path) -> dict[str, Any]:
    """Return the line of `ogs fidelity --summary` for a pool and recipe.

    Args:
        folder: Folder of a pool's list; its name is that of the list.
    """
    data = table(folder)
    summary: dict[str, Any] = {
        "pool": folder.parent.name,
        "recipe": folder.name,
        "subsets": len(data.names),
        "refitted": False,
    }
    for name, measured in MEASURES.items():
        result = correlation(data.predicted[name], data.real[measured])
        summary[f"{name}_spearman"] = result["spearman"]
        summary[f"{name}_interval"] = result["interval"]
        summary[f"{name}_pearson"] = result["pearson"]
        if any(len(one) > 1 for one in data.repeats[measured]):
            summary[f"{name}_ceiling"] = ceiling(data.repeats[measured])
    for name, measured in MEASURES.items():
        summary[f"{name}_naive"] = {
            naive: round(float(spearman(values, data.real[measured])), 3)
            for naive, values in data.naive.items()
        }
    pairs = paired(data, "reward", "random")
    if pairs["pairs"] > 1:
        summary["reward_less_random"] = pairs
    return summary


def spearman(first: Array, second: Array) -> Array:
    """Return Spearman's rank correlations along the last axis, (..., n) to (...).

    NaN if one of the two is constant.
    """
    ranks = [stats.rankdata(values, axis=-1) for values in (first, second)]
    x, y = (one - one.mean(axis=-1, keepdims=True) for one in ranks)
    with np.errstate(invalid="ignore"):
        correlations: Array = np.vecdot(x, y) / np.sqrt(
            np.vecdot(x, x) * np.vecdot(y, y)
        )
    return correlations
