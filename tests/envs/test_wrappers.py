"""Gymnasium's wrappers, and the package's own, around every registered id."""

import doctest
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence

import ogs_env
from ogs_env import wrappers as own
from ogs_env.errors import InputError

pytestmark = pytest.mark.filterwarnings(
    "error", "ignore:`is_gradient_checkpointing`:FutureWarning"
)


def run_episode(env: Any) -> list[tuple[Any, ...]]:
    """Run an episode of random valid actions."""
    rng = np.random.default_rng(0)
    steps = [env.reset(seed=4)]
    while len(steps) == 1 or not (steps[-1][2] or steps[-1][3]):
        valid = np.flatnonzero(env.unwrapped.action_masks())
        steps.append(env.step(rng.choice(valid)))
    return steps


def test_flattened_observations_are_all_of_it(spec: EnvSpec) -> None:
    env = wrappers.FlattenObservation(gymnasium.make(spec))
    assert env.observation_space.dtype == np.float32
    for observation, *_ in run_episode(env):
        assert env.observation_space.contains(observation)
    # The last one; a Dict is flattened in the order of its keys.
    rows = env.unwrapped.observation().values()
    np.testing.assert_array_equal(
        observation, np.concatenate([row.ravel() for row in rows])
    )


def test_episode_statistics_are_those_of_the_episode(spec: EnvSpec) -> None:
    steps = run_episode(wrappers.RecordEpisodeStatistics(gymnasium.make(spec)))[1:]
    episode = steps[-1][4]["episode"]
    assert episode["r"] == pytest.approx(sum(reward for _, reward, *_ in steps))
    assert episode["l"] == len(steps)


def test_a_time_limit_truncates(spec: EnvSpec) -> None:
    assert gymnasium.make(spec).spec.max_episode_steps is None
    steps = run_episode(wrappers.TimeLimit(gymnasium.make(spec), 3))[1:]
    assert [step[3] for step in steps] == [False, False, True]
    assert not steps[-1][2]


def test_normalised_observations_and_rewards(spec: EnvSpec) -> None:
    flat = wrappers.FlattenObservation(gymnasium.make(spec))
    env = wrappers.NormalizeReward(wrappers.NormalizeObservation(flat))
    observations = np.stack([step[0] for _ in range(3) for step in run_episode(env)])
    assert observations.dtype == np.float32
    assert np.isfinite(observations).all()
    assert np.abs(env.get_wrapper_attr("obs_rms").mean).max() > 0


def test_frames_of_an_episode_are_collected(spec: EnvSpec) -> None:
    env = gymnasium.make(spec, render_mode="rgb_array_list")
    assert env.metadata["render_fps"] > 0
    env.reset(seed=0)
    env.step(0)
    frames = env.render()
    assert len(frames) == 2
    assert {(frame.shape, frame.dtype.name) for frame in frames} == {
        ((560, 1000, 3), "uint8")
    }


@pytest.mark.parametrize("flat", [False, True])
def test_the_mask_is_in_the_observation(class_spec: EnvSpec, flat: bool) -> None:
    inner = gymnasium.make(class_spec)
    if flat:
        inner = wrappers.FlattenObservation(inner)
    env = own.ActionMaskObservation(inner, observation_key="obs", mask_key="mask")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*different from the unwrapped version")
        check_env(env, skip_render_check=True)
    again = gymnasium.make(env.spec)
    assert again.observation_space == env.observation_space
    masks = []
    for observation, *_, info in run_episode(env):
        assert env.observation_space.contains(observation)
        np.testing.assert_array_equal(observation["mask"], info["action_mask"])
        masks.append(observation["mask"])
    last = env.unwrapped.observation()
    if flat:
        last = np.concatenate([part.ravel() for part in last.values()])
    assert data_equivalence(observation["obs"], last, exact=True)
    picks_leave_places = "Mixture" not in class_spec.id
    assert not picks_leave_places or min(mask.min() for mask in masks) == 0


def test_masks_in_the_observation_of_vector_environments(class_spec: EnvSpec) -> None:
    envs = gymnasium.make_vec(
        class_spec,
        3,
        vectorization_mode="sync",
        wrappers=[wrappers.FlattenObservation, own.ActionMaskObservation],
    )
    observations, infos = envs.reset(seed=0)
    np.testing.assert_array_equal(observations["action_mask"], infos["action_mask"])
    assert envs.observation_space.contains(observations)


def test_environments_without_masks_are_refused(class_spec: EnvSpec) -> None:
    with pytest.raises(InputError, match="expected an environment with discrete act"):
        own.ActionMaskObservation(gymnasium.make("CartPole-v1"))
    with pytest.raises(InputError, match="both are 'mask'; expected two names"):
        own.ActionMaskObservation(
            gymnasium.make(class_spec), observation_key="mask", mask_key="mask"
        )


def test_docstring_example() -> None:
    finder = doctest.DocTestFinder()
    test = finder.find(own.ActionMaskObservation, globs={"ogs_env": ogs_env})[0]
    assert len(test.examples) >= 4
    assert doctest.DocTestRunner().run(test).failed == 0
