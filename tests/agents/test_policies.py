"""Selectors as policies: with quotas, with a threshold, with the stream known."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest

from ogs_env.agents.evaluation import play_episode
from ogs_env.agents.policies import (
    STREAM,
    THRESHOLD,
    EqualQuota,
    Planned,
    make_policy,
    selection_env,
)
from ogs_env.agents.selector import READERS, SELECTORS, make_selector
from ogs_env.bundle import Bundle
from ogs_env.errors import InputError

# More than the bundle's test split, 120 samples, would have.
LONG = {"num_slates": 16, "budget": 48}
SKETCHES = [name for name in SELECTORS if name not in READERS and name != "metadata"]


@pytest.fixture
def env(bundle_folder: Path) -> gymnasium.Env:
    return gymnasium.make("OGS-Custom-v0", bundle=str(bundle_folder), **LONG)


def policy_of(name: str, env: gymnasium.Env, seed: int = 0):
    return make_policy(name, env, np.random.default_rng(seed))


def returns(env: gymnasium.Env, name: str, episodes: int = 8) -> np.ndarray:
    policy = policy_of(name, env)
    episodes_played = [play_episode(env, policy, seed) for seed in range(episodes)]
    return np.array([episode.total_return for episode in episodes_played])


def picks_per_slate(env: gymnasium.Env) -> np.ndarray:
    """Return the number of picks from each slate of the last episode."""
    inner = selection_env(env)
    places = {row: place for place, row in enumerate(inner.stream.tolist())}
    slates = [places[row] // inner.slate_size for row in inner.picked]
    return np.bincount(slates, minlength=inner.slates_in_stream)


@pytest.mark.parametrize("name", SKETCHES)
@pytest.mark.parametrize("ending", ["", STREAM])
def test_every_policy_spends_the_budget(
    env: gymnasium.Env, name: str, ending: str
) -> None:
    play_episode(env, policy_of(name + ending, env), seed=0)
    inner = selection_env(env)
    assert len(inner.picked) == inner.budget == 48


def test_quotas_are_equal(bundle_folder: Path) -> None:
    env = gymnasium.make(
        "OGS-Custom-v0", bundle=str(bundle_folder), num_slates=16, budget=40
    )
    play_episode(env, policy_of("greedy", env), seed=0)
    counts = picks_per_slate(env)
    assert set(counts.tolist()) == {2, 3}
    np.testing.assert_array_equal(counts.cumsum(), 40 * np.arange(1, 17) // 16)


@pytest.mark.parametrize("budget", [1, 7, 18, 20])
def test_a_short_last_slate_has_a_smaller_quota(
    bundle_folder: Path, budget: int
) -> None:
    env = gymnasium.make(
        "OGS-Custom-v0", bundle=str(bundle_folder), num_slates=2, budget=budget
    )
    policy = policy_of("conflict", env)
    observation, info = env.reset(options={"indices": np.arange(50, 70)})
    over = False
    while not over:
        action = policy(observation, info, env)
        observation, _, over, _, info = env.step(action)
        assert not info["invalid_action"]
    first = budget * 16 // 20
    assert picks_per_slate(env).tolist() == [first, budget - first]


class RecordingSelector:
    """A selector that records the candidates and the choices of each call."""

    def __init__(self, name: str) -> None:
        self.selector = make_selector(name)
        self.candidates: list[list[int]] = []
        self.chosen: list[int] = []

    def select(self, bundle, budget, rng, indices=None):
        order, scores = self.selector.select(bundle, budget, rng, indices)
        self.candidates.append(indices.tolist())
        self.chosen += order.tolist()
        return order, scores


@pytest.mark.parametrize("name", ["greats", "random"])
def test_the_selector_is_called_once_per_slate(env: gymnasium.Env, name: str) -> None:
    selector = RecordingSelector(name)
    play_episode(env, EqualQuota(selector, np.random.default_rng(0)), seed=3)
    inner = selection_env(env)
    assert selector.candidates == inner.stream.reshape(16, 16).tolist()
    assert inner.picked == selector.chosen


def test_the_selector_is_called_once_per_stream(env: gymnasium.Env) -> None:
    selector = RecordingSelector("craig")
    policy = Planned(selector, np.random.default_rng(0))
    for seed in (3, 4):
        play_episode(env, policy, seed)
        inner = selection_env(env)
        assert selector.candidates.pop() == inner.stream.tolist()
        assert not selector.candidates
        assert set(inner.picked) == set(selector.chosen[-48:])


def test_planned_less_picks_the_selection_of_less(
    env: gymnasium.Env, bundle: Bundle
) -> None:
    play_episode(env, policy_of("less/stream", env), seed=5)
    inner = selection_env(env)
    rng = np.random.default_rng(1)
    best, _ = make_selector("less").select(bundle, 48, rng, inner.stream)
    assert set(inner.picked) == set(best.tolist())


def test_episodes_do_not_affect_each_other(
    env: gymnasium.Env,
) -> None:
    for name in ("grad-match", "less/stream", THRESHOLD):
        policy = policy_of(name, env)
        first = play_episode(env, policy, 1).total_return
        play_episode(env, policy, 2)
        assert play_episode(env, policy, 1).total_return == first
        # The stream of the same candidates is a new one.
        rows = selection_env(env).stream
        picks = []
        for _ in range(2):
            observation, info = env.reset(options={"indices": rows})
            over = False
            while not over:
                action = policy(observation, info, env)
                observation, _, over, _, info = env.step(action)
            picks.append(selection_env(env).picked)
        assert picks[0] == picks[1] != []


def test_all_selects_every_candidate_until_the_budget_is_spent(
    env: gymnasium.Env,
) -> None:
    for name in ("all", "all/stream"):
        play_episode(env, policy_of(name, env), seed=0)
        inner = selection_env(env)
        assert inner.picked == inner.stream[:48].tolist()


def test_random_policy_draws_uniformly_over_the_stream(env: gymnasium.Env) -> None:
    policy = policy_of("random", env)
    counts = np.zeros(16)
    for _ in range(60):
        play_episode(env, policy, seed=0)
        counts += picks_per_slate(env)
    # 180 a slate expected; five standard deviations of a binomial either way.
    assert np.abs(counts - 180).max() < 5 * np.sqrt(180)


@pytest.mark.parametrize("budget", [5, 48, 200])
def test_threshold_spends_the_budget(bundle_folder: Path, budget: int) -> None:
    env = gymnasium.make(
        "OGS-Custom-v0", bundle=str(bundle_folder), num_slates=16, budget=budget
    )
    policy = policy_of(THRESHOLD, env)
    for seed in range(8):
        play_episode(env, policy, seed)
        assert len(selection_env(env).picked) >= 0.95 * budget


def test_threshold_picks_more_from_rich_slates(
    env: gymnasium.Env, bundle: Bundle
) -> None:
    order, scores = make_selector("greedy").select(
        bundle, 480, np.random.default_rng(0)
    )
    score = dict(zip(order.tolist(), scores.tolist(), strict=True))
    threshold, equal = policy_of(THRESHOLD, env), policy_of("greedy", env)
    better = []
    for seed in range(8):
        play_episode(env, threshold, seed)
        # The last slate gets the rest of the budget, whatever its samples are.
        counts = picks_per_slate(env)[:-1]
        inner = selection_env(env)
        slates = inner.stream.reshape(16, 16)[:-1]
        rich = np.argsort(
            [sum(score[row] for row in slate) for slate in slates.tolist()]
        )
        assert counts[rich[8:]].sum() > 2 * counts[rich[:7]].sum()
        assert counts.max() > 3
        mean_score = np.mean([score[row] for row in inner.picked])
        play_episode(env, equal, seed)
        better.append(mean_score > np.mean([score[row] for row in inner.picked]))
    assert np.mean(better) > 0.7


def test_threshold_is_the_share_that_the_budget_is_of_the_candidates_left(
    bundle_folder: Path, bundle: Bundle
) -> None:
    order, scores = make_selector("greedy").select(
        bundle, 480, np.random.default_rng(0)
    )
    score = np.empty(480)
    score[order] = scores
    reference = score[bundle.split("train")]
    env = gymnasium.make(
        "OGS-Custom-v0", bundle=str(bundle_folder), num_slates=3, budget=9
    )
    policy = policy_of(THRESHOLD, env)
    # The last slate is short.
    rows = np.random.default_rng(2).choice(480, 40, replace=False)
    observation, info = env.reset(options={"indices": rows})
    remaining, budget, over = 40, 9, False
    while not over:
        slate = selection_env(env).slate.copy()
        action = policy(observation, info, env)
        best = max(score[slate[slate >= 0]])
        last = selection_env(env).slate_number == 2
        if last or best >= np.quantile(reference, 1 - min(1, budget / remaining)):
            assert score[slate[action]] == best
            remaining, budget = remaining - 1, budget - 1
        else:
            assert action == 16
            remaining -= (slate >= 0).sum()
        observation, _, over, _, info = env.step(action)
    assert budget == 0 < remaining


def test_oracle_beats_less_beats_random(bundle_folder: Path) -> None:
    env = gymnasium.make("OGS-Custom-v0", bundle=str(bundle_folder), **LONG)
    by_name = {name: returns(env, name) for name in ("random", "less", "oracle")}
    assert (by_name["oracle"] > by_name["less"]).all()
    assert by_name["less"].mean() > by_name["random"].mean() + 1
    np.testing.assert_array_equal(returns(env, "oracle"), by_name["oracle"])


def test_the_oracle_uses_the_weights_of_the_environment(bundle_folder: Path) -> None:
    def picks(name: str, **weights: float) -> list[int]:
        env = gymnasium.make(
            "OGS-Custom-v0", bundle=str(bundle_folder), reward_weights=weights
        )
        play_episode(env, policy_of(name, env), seed=0)
        return selection_env(env).picked

    assert picks("oracle", domain_gain=-1.0) == picks("oracle/stream", domain_gain=-1.0)
    assert picks("oracle", domain_gain=-1.0) != picks("oracle")


def test_random_draws_clusters_by_their_remaining_samples(
    bundle_folder: Path,
) -> None:
    env = gymnasium.make(
        "OGS-Custom-Mixture-v0",
        bundle=str(bundle_folder),
        clusters=4,
        batch=1,
        steps=300,
    )
    policy = policy_of("random", env)
    observation, info = env.reset(seed=0)
    shares = observation["clusters"][:, 0]
    actions = [policy(observation, info, env) for _ in range(2000)]
    counts = np.bincount(actions, minlength=4)
    assert np.abs(counts - 2000 * shares).max() < 5 * np.sqrt(2000 * shares.max())
    over = False
    while not over:
        observation, _, terminated, truncated, info = env.step(
            policy(observation, info, env)
        )
        assert not info["invalid_action"]
        over = terminated or truncated
    assert terminated


def test_unknown_names(env: gymnasium.Env) -> None:
    for name in ("best", "best/stream"):
        with pytest.raises(InputError, match="unknown selector 'best'"):
            policy_of(name, env)
    with pytest.raises(InputError, match="expected a SelectionEnv"):
        selection_env(gymnasium.make("CartPole-v1"))
