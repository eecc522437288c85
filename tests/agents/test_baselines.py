from pathlib import Path

import gymnasium
import numpy as np
import pytest

from ogs_env.agents.baselines.oracle import OracleSelector
from ogs_env.agents.policies import episode_return, make_policy, selection_env
from ogs_env.agents.selector import SELECTORS, make_selector
from ogs_env.bundle import Bundle
from ogs_env.errors import InputError
from ogs_env.rewards import weighted_sum


@pytest.fixture
def env(bundle_folder: Path) -> gymnasium.Env:
    return gymnasium.make("OGS-Custom-v0", bundle=str(bundle_folder))


def returns(env: gymnasium.Env, name: str, episodes: int = 8) -> np.ndarray:
    policy = make_policy(name, env, np.random.default_rng(0))
    return np.array([episode_return(env, policy, seed) for seed in range(episodes)])


@pytest.mark.parametrize("name", SELECTORS)
def test_a_selection_is_ordered_different_and_repeatable(
    bundle: Bundle, name: str
) -> None:
    part = bundle.split("test")
    order, scores = make_selector(name).select(
        bundle, 10, np.random.default_rng(0), part
    )
    again, _ = make_selector(name).select(bundle, 10, np.random.default_rng(0), part)
    np.testing.assert_array_equal(order, again)
    assert (order.dtype, scores.dtype) == (np.int64, np.float32)
    assert len(set(order.tolist())) == 10 == len(scores)
    assert set(order.tolist()) <= set(part.tolist())
    whole, _ = make_selector(name).select(bundle, 10, np.random.default_rng(0))
    assert not set(whole.tolist()) <= set(part.tolist())


@pytest.mark.parametrize("name", SELECTORS)
def test_budgets_that_do_not_fit_are_refused(bundle: Bundle, name: str) -> None:
    for budget in (0, 5):
        with pytest.raises(InputError, match=f"budget: {budget}; expected 1 to the 4"):
            make_selector(name).select(
                bundle, budget, np.random.default_rng(0), np.arange(4)
            )


def formulas(bundle: Bundle) -> dict[str, np.ndarray]:
    start = bundle.pool.sketches("start").astype(np.float64)
    start /= np.linalg.norm(start, axis=1, keepdims=True)

    def cosines(reference: np.ndarray) -> np.ndarray:
        return start @ reference / np.linalg.norm(reference)

    anchor, of = bundle.anchor.sketches("start"), bundle.anchor.capabilities
    domain = cosines(bundle.dev.sketches("start").mean(0))
    general = cosines(anchor.mean(0))
    each = np.stack([cosines(anchor[of == n].mean(0)) for n in range(2)])
    return {
        "domain-cosine": domain,
        "orth": 1 - np.abs(general),
        "conflict": general,
        "greedy": domain - 0.3 * np.abs(each).max(axis=0),
    }


@pytest.mark.parametrize("name", ["domain-cosine", "orth", "conflict", "greedy"])
def test_scores_are_the_formulas_and_the_highest_are_taken(
    bundle: Bundle, name: str
) -> None:
    order, scores = make_selector(name).select(bundle, 40, np.random.default_rng(0))
    expected = formulas(bundle)[name]
    np.testing.assert_allclose(scores, expected[order], atol=1e-4)
    assert (np.diff(scores) <= 0).all()
    rest = np.setdiff1d(np.arange(len(expected)), order)
    assert expected[rest].max() <= expected[order].min() + 1e-4


def test_every_policy_spends_the_budget(env: gymnasium.Env) -> None:
    for name in SELECTORS:
        policy = make_policy(name, env, np.random.default_rng(0))
        episode_return(env, policy, seed=0)
        inner = selection_env(env)
        assert len(inner.picked) == inner.budget == 48


def test_quotas_are_equal(bundle_folder: Path) -> None:
    env = gymnasium.make("OGS-Custom-v0", bundle=str(bundle_folder), budget=40)
    episode_return(env, make_policy("greedy", env, np.random.default_rng(0)), seed=0)
    inner = selection_env(env)
    places = {row: place for place, row in enumerate(inner.stream.tolist())}
    hands = np.array([places[row] // 16 for row in inner.picked])
    assert set(np.bincount(hands, minlength=16).tolist()) == {2, 3}


def test_random_policy_draws_uniformly_over_the_stream(env: gymnasium.Env) -> None:
    policy = make_policy("random", env, np.random.default_rng(0))
    counts = np.zeros(16)
    for _ in range(60):
        episode_return(env, policy, seed=0)
        inner = selection_env(env)
        places = {row: place for place, row in enumerate(inner.stream.tolist())}
        counts += np.bincount([places[row] // 16 for row in inner.picked], minlength=16)
    # 180 a hand expected; five standard deviations of a binomial either way.
    assert np.abs(counts - 180).max() < 5 * np.sqrt(180)


def test_oracle_scores_are_the_rewards_of_its_picks(
    bundle_folder: Path, bundle: Bundle
) -> None:
    weights = {"conflict": 1.0, "information": 0.5}
    order, scores = OracleSelector(weights).select(
        bundle, 12, np.random.default_rng(0), np.arange(0, 480, 5)
    )
    env = gymnasium.make(
        "OGS-Custom-v0",
        bundle=str(bundle_folder),
        hand_size=12,
        hands=1,
        budget=12,
        reward_weights=weights,
    )
    env.reset(options={"indices": order})
    for place, score in enumerate(scores):
        _, reward, _, _, info = env.step(place)
        assert reward == pytest.approx(score, abs=1e-3)
        all_weights = selection_env(env).reward_weights
        assert reward == weighted_sum(info["reward_terms"], all_weights)


def test_oracle_takes_the_best_first_pick(bundle_folder: Path, bundle: Bundle) -> None:
    rows = np.arange(3, 480, 40)
    order, _ = OracleSelector().select(bundle, 1, np.random.default_rng(0), rows)
    env = gymnasium.make(
        "OGS-Custom-v0", bundle=str(bundle_folder), hand_size=12, hands=1, budget=1
    )
    rewards = []
    for place in range(len(rows)):
        env.reset(options={"indices": rows})
        rewards.append(env.step(place)[1])
    assert order[0] == rows[np.argmax(rewards)]


def test_hindsight_beats_what_is_observed_beats_chance(env: gymnasium.Env) -> None:
    found = {name: returns(env, name) for name in ("random", "conflict", "oracle")}
    assert (found["oracle"] > found["conflict"]).all()
    assert found["conflict"].mean() > found["random"].mean() + 1
    np.testing.assert_array_equal(returns(env, "oracle"), found["oracle"])


def test_unknown_names(env: gymnasium.Env) -> None:
    with pytest.raises(InputError, match="unknown selector 'radnom'; did you mean ran"):
        make_selector("radnom")
    with pytest.raises(InputError, match="unknown selector 'best'"):
        make_policy("best", env, np.random.default_rng(0))
    with pytest.raises(InputError, match="expected a SelectionEnv"):
        selection_env(gymnasium.make("CartPole-v1"))
