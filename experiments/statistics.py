"""Statistics of scores from few runs, after rliable.

Agarwal, Schwarzer, Castro, Courville, Bellemare 2021, "Deep Reinforcement Learning at
the Edge of the Statistical Precipice", arXiv 2108.13264: interquartile means instead
of means or medians, performance profiles, probability of improvement, and intervals
by a stratified bootstrap: scores are resampled within each task.

The scores of a task are a table (runs, episodes), one row for each training run. Runs
and episodes are two sources of variance, so both are resampled, as in a crossed design
(Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1, 386-411). A
policy without training has one run; its episodes are then what rliable calls runs. A
table of one run, or of one episode, is resampled as in rliable.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Scores = NDArray[np.float64]
Floats = Sequence[float] | NDArray[np.floating]

RESAMPLES = 2000
_COVERED = (0.025, 0.975)


def percent_change(before: Floats, after: Floats) -> float:
    """Return the change of the mean of some losses, in percent."""
    return float(100 * (np.mean(after) / np.mean(before) - 1))


def t_half_width(values: NDArray[np.floating]) -> Any:
    """Return half the width of the 95 % interval of the mean, by Student's t.

    Args:
        values: At least two, along the first axis.
    """
    return stats.sem(values, axis=0) * stats.t.ppf(0.975, len(values) - 1)


def interquartile_mean(tasks: Sequence[Scores]) -> float:
    """Return the mean of the middle half of all scores: the 25 % trimmed mean.

    Args:
        tasks: Scores (runs, episodes) of each task; all scores have the same weight.
    """
    scores = np.concatenate([table.ravel() for table in tasks])
    return float(stats.trim_mean(scores, 0.25))


def interval(
    tasks: Sequence[Scores], resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the 95 % percentile interval of the interquartile mean.

    Args:
        tasks: Scores (runs, episodes) of each task.
        resamples: Number of bootstrap resamples.

    Returns:
        Its lower and upper end.
    """
    drawn = np.concatenate(_resampled(tasks, resamples), axis=1)
    low, high = np.quantile(stats.trim_mean(drawn, 0.25, axis=1), _COVERED)
    return float(low), float(high)


def performance_profile(
    tasks: Sequence[Scores],
    levels: NDArray[np.floating],
    resamples: int = RESAMPLES,
) -> tuple[Scores, Scores, Scores]:
    """Return the share of the scores above each level.

    The score distribution of Agarwal et al. 2021: the mean over tasks of the share of
    a task's scores that are greater than the level.

    Args:
        tasks: Scores (runs, episodes) of each task.
        levels: Scores (levels,) to compare with.
        resamples: Number of bootstrap resamples.

    Returns:
        The profile (levels,), and the lower and upper end of its pointwise 95 % band.
    """
    profile = np.mean([_share_above(table.ravel(), levels) for table in tasks], axis=0)
    parts = [
        [_share_above(scores, levels) for scores in drawn]
        for drawn in _resampled(tasks, resamples)
    ]
    low, high = np.quantile(np.mean(parts, axis=0), _COVERED, axis=0)
    return profile, low, high


def probability_of_improvement(
    first: Sequence[Scores], second: Sequence[Scores]
) -> float:
    """Return the probability that a score of the first exceeds one of the second.

    As in Agarwal et al. 2021: Mann and Whitney's U over the number of pairs, where a
    tie counts as half, averaged over tasks.

    Args:
        first: Scores (runs, episodes) of each task.
        second: Scores to compare with, in the same order of tasks.
    """
    shares = [
        stats.mannwhitneyu(x.ravel(), y.ravel(), method="asymptotic").statistic
        / (x.size * y.size)
        for x, y in zip(first, second, strict=True)
    ]
    return float(np.mean(shares))


def _resampled(tasks: Sequence[Scores], resamples: int) -> list[Scores]:
    """Return each task's scores drawn with replacement (resamples, runs * episodes)."""
    rng = np.random.default_rng(0)
    drawn = []
    for table in tasks:
        runs, episodes = table.shape
        which_runs = rng.integers(runs, size=(resamples, runs, 1))
        which_episodes = rng.integers(episodes, size=(resamples, 1, episodes))
        drawn.append(table[which_runs, which_episodes].reshape(resamples, -1))
    return drawn


def _share_above(scores: Scores, levels: NDArray[np.floating]) -> Scores:
    """Return the share of scores (n,) above each level (levels,)."""
    below = np.searchsorted(np.sort(scores), levels, side="right")
    return 1 - below / len(scores)
