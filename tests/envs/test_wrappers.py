"""Gymnasium's wrappers around every registered id."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.envs.registration import EnvSpec

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
