"""One battery over every registered id."""

import copy
import doctest
import pickle
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence
from live_bundle import LiveFiles
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

import ogs_env
from ogs_env.envs.selection import SelectionEnv


@pytest.fixture(params=["OGS-Custom-v0", "OGS-Medical-v0", "OGS-Medical-Live-v0"])
def spec(
    request: pytest.FixtureRequest, bundle_folder: Path, live_files: LiveFiles
) -> EnvSpec:
    spec = copy.deepcopy(gymnasium.spec(request.param))
    if request.param == "OGS-Medical-Live-v0":  # on a model of a few weights
        spec.kwargs |= {
            "bundle": live_files.bundle,
            "live": {"texts": live_files.texts, "batch": 2, "evaluate_every": 3},
            "hands": 4,
        }
    if request.param == "OGS-Custom-v0":
        spec.kwargs["bundle"] = str(bundle_folder)
    return spec


# Of transformers, about a method that peft calls.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.filterwarnings("error")
def test_gymnasium_checker(spec: EnvSpec) -> None:
    check_env(gymnasium.make(spec, disable_env_checker=True).unwrapped)


# Two-dimensional boxes are what the Navigator's policy takes.
@pytest.mark.filterwarnings("ignore:Your observation candidates has an unconvent")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.filterwarnings("error")
def test_stable_baselines3_checker(spec: EnvSpec) -> None:
    check_env_for_sb3(gymnasium.make(spec).unwrapped)


def test_two_copies_play_the_same(spec: EnvSpec) -> None:
    one, two = gymnasium.make(spec), gymnasium.make(spec)
    one.action_space.seed(1)
    start = one.reset(seed=1)
    assert data_equivalence(start, two.reset(seed=1), exact=True)
    for _ in range(50):
        action = one.action_space.sample()
        first, second = one.step(action), two.step(action)
        assert data_equivalence(first, second, exact=True)
        assert set(first[4]) == set(start[1])
        if first[2]:
            assert data_equivalence(one.reset(), two.reset(), exact=True)


def test_seeds_make_different_streams(spec: EnvSpec) -> None:
    env = gymnasium.make(spec)
    first, second = (env.reset(seed=seed)[0]["candidates"] for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_pickled_and_copied_envs_go_on_alike(spec: EnvSpec) -> None:
    env = gymnasium.make(spec).unwrapped
    env.reset(seed=2)
    env.step(0)
    others = [pickle.loads(pickle.dumps(env)), copy.deepcopy(env)]
    for action in (1, env.hand_size, 4):
        expected = env.step(action)
        for other in others:
            assert data_equivalence(other.step(action), expected, exact=True)
    expected = env.reset()
    for other in others:
        assert data_equivalence(other.reset(), expected, exact=True)


def test_spec_goes_through_json(spec: EnvSpec) -> None:
    spec.kwargs["reward_weights"] = {"conflict": 0.5}
    made = gymnasium.make(spec)
    again = gymnasium.make(EnvSpec.from_json(made.spec.to_json()))
    assert data_equivalence(made.reset(seed=0), again.reset(seed=0), exact=True)
    assert again.unwrapped.reward_weights["conflict"] == 0.5


def test_ansi_frame_shows_the_table(spec: EnvSpec) -> None:
    env = gymnasium.make(spec, render_mode="ansi")
    env.reset(seed=0)
    _, _, _, _, info = env.step(2)
    inner = env.unwrapped
    lines = env.render().splitlines()
    assert f"hand 1 of {inner.hands}, 1 of {inner.budget} picked" in lines[0]
    assert len(lines) == 2 + inner.hand_size - 1
    assert info["sample_id"] not in env.render()
    shown = {line.split()[1] for line in lines[2:]}
    on_table = inner.table[inner.table >= 0]
    assert shown == {f"{i:016x}" for i in inner.bundle.pool.ids[on_table].tolist()}


def test_docstring_example() -> None:
    test = doctest.DocTestFinder().find(SelectionEnv, globs={"ogs_env": ogs_env})[0]
    assert len(test.examples) >= 4
    assert doctest.DocTestRunner().run(test).failed == 0
