import itertools
import warnings

import numpy as np
import pytest

from ogs_env.experiments.statistics import (
    interquartile_mean,
    interval,
    performance_profile,
    probability_of_improvement,
)

# Runs by tasks, and the results of rliable 1.2.0 for them (`aggregate_iqm`,
# `get_interval_estimates` and `create_performance_profile` with 100,000 draws,
# `probability_of_improvement`); it does not run beside the pandas that is pinned here.
FIRST = np.array(
    [
        *([1.0, 1.3, 0.7], [0.1, 0.5, 0.0], [1.1, 2.3, 0.5], [0.4, 1.5, 1.4]),
        *([1.1, 0.1, 1.0], [1.7, -0.3, 0.5], [-0.9, -0.3, -0.8], [0.8, -0.3, 1.3]),
    ]
)
SECOND = np.array(
    [
        *([0.9, 0.5, -1.8], [0.2, 0.7, 0.8], [-0.8, 0.2, -0.3]),
        *([-0.1, 1.8, -0.1], [0.7, 1.6, 0.1], [0.6, 0.8, 0.8]),
    ]
)
LEVELS = np.array([-1, 0, 0.5, 1, 1.1, 2])
PROFILE = [1, 18 / 24, 12 / 24, 8 / 24, 6 / 24, 1 / 24]
PROFILE_LOW = [1, 0.58333333, 0.29166667, 0.16666667, 0.08333333, 0]
PROFILE_HIGH = [1, 0.91666667, 0.70833333, 0.54166667, 0.41666667, 0.125]


def runs_of(scores: np.ndarray) -> list[np.ndarray]:
    """One task a column, each run of one episode."""
    return [column[:, None] for column in scores.T]


def episodes_of(scores: np.ndarray) -> list[np.ndarray]:
    return [column[None] for column in scores.T]


@pytest.mark.parametrize("tables", [runs_of, episodes_of])
def test_the_numbers_are_those_of_rliable(tables):
    tasks = tables(FIRST)
    assert interquartile_mean(tasks) == pytest.approx(0.65)
    assert interval(tasks, 20_000) == pytest.approx((0.25833333, 1.00833333), abs=0.02)
    profile, low, high = performance_profile(tasks, LEVELS, 5_000)
    np.testing.assert_allclose(profile, PROFILE)
    # Counts of 24 scores: a neighbouring count is as good.
    np.testing.assert_allclose(low, PROFILE_LOW, atol=1 / 24 + 1e-6)
    np.testing.assert_allclose(high, PROFILE_HIGH, atol=1 / 24 + 1e-6)
    better = probability_of_improvement(tasks, tables(SECOND))
    worse = probability_of_improvement(tables(SECOND), tasks)
    assert (better, worse) == pytest.approx((0.5798611111, 0.4201388889))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 11, 100])
def test_the_interquartile_mean_leaves_a_quarter_at_each_end(count):
    scores = np.random.default_rng(count).normal(size=count)
    middle = sorted(scores)[count // 4 : count - count // 4]
    assert interquartile_mean([scores[None]]) == pytest.approx(
        sum(middle) / len(middle)
    )


def test_tasks_are_resampled_separately_and_outliers_are_ignored():
    tasks = [np.array([[1.0, 1.0, 1.0]]), np.array([[5.0, 5.0, 5.0]])]
    assert interval(tasks) == (3.0, 3.0)
    assert interquartile_mean([np.array([[1e9, 1.0, 2.0, -1e9]])]) == 1.5


def test_the_interval_is_that_of_all_draws_of_runs_and_episodes():
    table = np.array([[0.0, 1.0, 2.5, 7.0], [1.5, 1.0, 4.0, 9.0]])
    runs = itertools.product(range(2), repeat=2)
    episodes = list(itertools.product(range(4), repeat=4))
    means = [
        np.mean(np.sort(table[np.ix_(one, other)], axis=None)[2:6])
        for one in runs
        for other in episodes
    ]
    assert len(means) == 4 * 256
    expected = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose(interval([table], 60_000), expected, atol=0.05)


def test_runs_add_variance_to_the_interval():
    rng = np.random.default_rng(0)
    run_effects = np.array([[-1.0], [0.0], [1.0]])
    table = run_effects + 0.1 * rng.normal(size=(3, 50))
    low, high = interval([table])
    pooled_low, pooled_high = interval([table.reshape(1, -1)])
    assert high - low > 2 * (pooled_high - pooled_low)


def test_intervals_are_repeatable_and_move_with_the_scores():
    table = np.random.default_rng(1).normal(size=(2, 30))
    low, high = interval([table])
    assert (low, high) == interval([table])
    assert low < interquartile_mean([table]) < high
    assert interval([3 * table + 1]) == pytest.approx((3 * low + 1, 3 * high + 1))


def test_profiles_count_what_is_above_and_weigh_tasks_alike():
    tasks = [np.array([[0.0, 1.0, 1.0, 2.0]]), np.array([[1.0], [3.0]])]
    levels = np.array([-1.0, 0.0, 1.0, 2.0, 3.0])
    profile, low, high = performance_profile(tasks, levels)
    for level, share in zip(levels, profile, strict=True):
        shares = [sum(x > level for x in one.ravel()) / one.size for one in tasks]
        assert share == pytest.approx(sum(shares) / 2)
    assert (low <= profile).all()
    assert (profile <= high).all()
    assert low[2] < profile[2] < high[2]


def test_improvement_is_a_count_of_pairs_with_ties_as_halves():
    rng = np.random.default_rng(2)
    first = [rng.integers(4, size=(2, 3)) * 1.0, rng.integers(4, size=(1, 5)) * 1.0]
    second = [rng.integers(4, size=(1, 4)) * 1.0, rng.integers(4, size=(3, 2)) * 1.0]
    shares = []
    for one, other in zip(first, second, strict=True):
        pairs = list(itertools.product(one.ravel(), other.ravel()))
        shares.append(sum((x > y) + 0.5 * (x == y) for x, y in pairs) / len(pairs))
    expected = sum(shares) / 2
    assert probability_of_improvement(first, second) == pytest.approx(expected)
    back = probability_of_improvement(second, first)
    assert back == pytest.approx(1 - expected)


def test_equal_scores_are_no_improvement_and_no_warning():
    tasks = [np.full((2, 3), 1.5)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert probability_of_improvement(tasks, tasks) == 0.5
