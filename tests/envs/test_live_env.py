"""Episodes in which a real, tiny model is trained."""

import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from helpers.infos import terms_of
from helpers.live_bundle import LiveFiles

from ogs_env.envs.base import INVALID_ACTION_PENALTY
from ogs_env.envs.selection import SelectionEnv
from ogs_env.errors import InputError
from ogs_env.learners.live import LiveLearner
from ogs_env.learners.live_settings import LiveSettings
from ogs_env.rewards import weighted_sum

SIZES: dict[str, Any] = {"slate_size": 4, "num_slates": 5, "budget": 7}
LIVE: dict[str, Any] = {"batch": 3, "learning_rate": 2e-2, "evaluate_every": 2}


def make(files: LiveFiles, **kwargs: Any) -> SelectionEnv:
    live = {"texts": files.texts, **LIVE}
    return SelectionEnv(files.bundle, learner="live", live=live, **SIZES | kwargs)


@pytest.fixture
def env(live_files: LiveFiles) -> SelectionEnv:
    return make(live_files)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_the_first_observation_is_the_surrogates(
    env: SelectionEnv, live_files: LiveFiles
) -> None:
    surrogate = SelectionEnv(live_files.bundle, **SIZES)
    expected, expected_info = surrogate.reset(seed=0)
    observation, info = env.reset(seed=0)
    np.testing.assert_array_equal(env.stream, surrogate.stream)
    for key in ("candidates", "context"):
        # The bundle's sketches are rounded to float16.
        np.testing.assert_allclose(observation[key], expected[key], atol=1e-2)
    assert np.abs(observation["candidates"]).max() > 1
    assert info["domain_loss"] == pytest.approx(expected_info["domain_loss"], 1e-4)
    assert info.keys() == expected_info.keys()
    assert isinstance(env.learner, LiveLearner)


ENDS = {
    "the budget, in the middle of a batch": [0, 1, 4, 2, 0, 4, 3, 1, 2],
    "skipping": [0, 1, 4, 2, 3, 0, 4, 4, 4, 4],
    "skipping, nothing picked": [4, 4, 4, 4, 4],
    "an empty last slate": [4, 4, 4, 4, 0, 1, 2, 3],
    "invalid actions": [0] * 7,
}


@pytest.mark.parametrize("actions", ENDS.values(), ids=ENDS)
def test_the_gains_of_an_episode_sum_to_its_gain(
    env: SelectionEnv, actions: list[int]
) -> None:
    _, info = env.reset(seed=1)
    before = info["domain_loss"]
    test, retention = env.learner.test_loss(), env.learner.retention_loss()
    gains, losses = [], [before]
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        terms = terms_of(info)
        penalty = INVALID_ACTION_PENALTY * info["invalid_action"]
        assert reward == weighted_sum(terms, env.reward_weights) - penalty
        assert (info["cost"], env.cost_answers) == (terms["conflict"], "reference")
        assert env.observation_space.contains(observation)
        assert (terms["domain_gain"] != 0) == (info["domain_loss"] != losses[-1])
        gains.append(terms["domain_gain"])
        losses.append(info["domain_loss"])
        assert not truncated
    assert terminated
    gain = 100 * (before - losses[-1]) / before
    assert sum(gains) == pytest.approx(gain, abs=1e-4)
    # The same picks in a separate learner.
    learner = LiveLearner(env.bundle, env.learner.settings)
    for row in env.picked:
        learner.update(row)
    learner.finish()
    assert losses[-1] == pytest.approx(learner.domain_loss(), rel=1e-5)
    assert (losses[-1] != before) == (len(env.picked) > 0)
    test_change = 100 * (learner.test_loss() / test - 1)
    retention_change = 100 * (learner.retention_loss() / retention - 1)
    assert info["test_change"] == pytest.approx(test_change, abs=1e-2)
    assert info["retention_change"] == pytest.approx(retention_change, abs=1e-2)


def test_the_slate_is_observed_at_the_current_weights(
    env: SelectionEnv,
) -> None:
    bundle = env.bundle
    pool, d = bundle.pool, bundle.basis.shape[1]
    env.reset(seed=2)
    learner = LiveLearner(bundle, env.learner.settings)
    directions_of_picks: list[np.ndarray] = []
    for action in (1, 0, 4, 3, 1):
        if action < 4:
            row = np.array([env.slate[action]])
            directions_of_picks.append(unit(learner.pool_gradients(row).sketches))
            learner.update(int(row[0]))
        observation, *_ = env.step(action)
        places = np.flatnonzero(env.slate >= 0)
        gradients = learner.pool_gradients(env.slate[places])
        units = unit(gradients.sketches)
        # The scales are those of the bundle's own pool.
        logs, tokens = np.log(pool.norms), np.log(pool.tokens)
        columns = [
            unit(units) @ bundle.basis,
            gradients.domain_cosines,
            gradients.anchor_cosines.min(axis=1),
            (np.log(gradients.norms) - logs.mean()) / logs.std(),
            (gradients.losses - pool.losses.mean()) / pool.losses.std(),
            (tokens[env.slate[places]] - tokens.mean()) / tokens.std(),
            (units @ np.concatenate(directions_of_picks).T).max(axis=1),
            np.ones(len(places)),
        ]
        expected = np.clip(np.column_stack(columns), -10, 10)
        np.testing.assert_allclose(
            observation["candidates"][places], expected, atol=5e-3
        )
        domain = unit(learner.domain_gradient())
        anchor = unit(learner.anchor_gradients()).mean(axis=0)
        directions = unit(np.stack([domain, anchor])) @ bundle.basis
        np.testing.assert_allclose(
            observation["context"][: 2 * d], directions.ravel().clip(-10, 10), atol=5e-3
        )
        dev = bundle.dev
        means = [
            (np.log(dev.norms) - logs.mean()).mean() / logs.std(),
            (dev.losses - pool.losses.mean()).mean() / pool.losses.std(),
            (np.log(dev.tokens) - tokens.mean()).mean() / tokens.std(),
        ]
        np.testing.assert_allclose(observation["context"][-3:], means, atol=1e-4)


def test_training_changes_the_observation(env: SelectionEnv) -> None:
    d = env.bundle.basis.shape[1]
    before = env.reset(seed=2)[0]["candidates"]
    env.step(0)
    two = env.step(1)[0]["candidates"]
    np.testing.assert_array_equal(two[2:, : d + 5], before[2:, : d + 5])
    three = env.step(2)[0]["candidates"]  # a full batch
    assert np.abs(three[3] - two[3]).max() > 0.05


def episode(env: SelectionEnv, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    results: list[Any] = [env.reset(seed=seed)]
    over = False
    while not over:
        action = rng.choice(np.flatnonzero(env.action_masks()[:-1]))
        results.append(env.step(action))
        over = results[-1][2]
    return results


def test_the_same_seed_gives_the_same_episode(
    env: SelectionEnv, live_files: LiveFiles
) -> None:
    other = make(live_files)
    first = episode(env, 3)
    episode(other, 4)
    assert data_equivalence(episode(other, 3), first, exact=True)
    assert data_equivalence(episode(env, 3), first, exact=True)


def test_two_environments_in_turns_do_not_disturb_each_other(
    live_files: LiveFiles,
) -> None:
    env, other, alone = (make(live_files, num_slates=7) for _ in range(3))
    env.reset(seed=5)
    alone.reset(seed=5)
    other.reset(seed=6)
    for action in (0, 1, 2, 3, 0, 1):
        other.step((action + 1) % 4)
        assert data_equivalence(env.step(action), alone.step(action), exact=True)
        other.step(4)


def test_a_custom_bundle_by_its_id(live_files: LiveFiles) -> None:
    env = gymnasium.make(
        "OGS-Custom-v0",
        bundle=live_files.bundle,
        learner="live",
        live={"texts": live_files.texts},
        **SIZES,
    )
    env.reset(seed=0)
    env.step(0)
    assert isinstance(env.unwrapped.learner, LiveLearner)


@pytest.mark.parametrize(
    ("kwargs", "line"),
    [
        ({"learner": "alive"}, "unknown learner 'alive'; did you mean live"),
        ({"live": {}}, "live: given to the surrogate learner; expected learner='live'"),
        (
            {"learner": "live", "observe": "trajectory"},
            "observe: 'trajectory' with learner='live'",
        ),
        (
            {"learner": "live", "live": {"text": "medical"}},
            "unknown live setting 'text'; did you mean texts",
        ),
        (
            {"learner": "live", "live": {"texts": "medicine"}},
            "texts of bundle 'tiny' are not known",
        ),
    ],
)
def test_bad_arguments(
    live_files: LiveFiles, kwargs: dict[str, Any], line: str
) -> None:
    with pytest.raises(InputError, match=line):
        SelectionEnv(live_files.bundle, **SIZES, **kwargs)


def test_missing_texts_are_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OGS_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"medquad: not in OGS_DATA .*set OGS_DATA"):
        gymnasium.make("OGS-Medical-Live-v0")


@pytest.mark.slow
@pytest.mark.skipif(
    "OGS_DATA" not in os.environ, reason="OGS_DATA names no folder with the texts"
)
def test_a_real_model_on_real_texts() -> None:
    sizes = {"slate_size": 4, "num_slates": 2, "budget": 4}
    settings = LiveSettings(batch=2, evaluate_every=2, evaluation_samples=4)
    live = {"batch": 2, "evaluate_every": 2, "evaluation_samples": 4}
    env = gymnasium.make("OGS-Medical-Live-v0", live=live, **sizes).unwrapped
    assert env.learner.settings == settings
    surrogate = gymnasium.make("OGS-Medical-v0", **sizes)
    expected, _ = surrogate.reset(seed=0)
    observation, info = env.reset(seed=0)
    before = info["domain_loss"]
    d = env.bundle.basis.shape[1]
    # The same gradients, as far as the processor's precision goes.
    pairs = zip(
        observation["candidates"][:, :d], expected["candidates"][:, :d], strict=True
    )
    assert min(a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs) > 0.98
    scalars = slice(d + 2, d + 5)
    np.testing.assert_allclose(
        observation["candidates"][:, scalars],
        expected["candidates"][:, scalars],
        atol=0.1,
    )
    gain = 0.0
    for action in (0, 1, 2, 3):
        observation, _, over, _, info = env.step(action)
        gain += info["domain_gain"]
    assert over
    assert gain == pytest.approx(100 * (before - info["domain_loss"]) / before)
    assert gain != 0 != info["test_change"]
