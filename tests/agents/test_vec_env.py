"""The native vector environment under Stable-Baselines3."""

import pickle
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from ogs_env.agents.vec_env import SelectionVecEnv
from ogs_env.errors import InputError

KWARGS = {"slate_size": 4, "num_slates": 6, "budget": 7}


def native(bundle_folder: Path, num_envs: int, **kwargs: Any) -> SelectionVecEnv:
    envs = gymnasium.make_vec(
        "OGS-Custom-v0",
        num_envs,
        bundle=str(bundle_folder),
        autoreset_mode="SameStep",
        **KWARGS,
        **kwargs,
    )
    return SelectionVecEnv(envs)


def dummy(bundle_folder: Path, num_envs: int) -> VecMonitor:
    def make() -> gymnasium.Env:
        return gymnasium.make("OGS-Custom-v0", bundle=str(bundle_folder), **KWARGS)

    return VecMonitor(DummyVecEnv([make] * num_envs))


def untimed(infos: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Remove the entry that depends on the clock."""
    for info in infos:
        if "episode" in info:
            assert info["episode"].pop("t") > 0
    return infos


@pytest.mark.parametrize("num_envs", [1, 5])
def test_episodes_are_those_of_dummy_vec_env(
    bundle_folder: Path, num_envs: int
) -> None:
    ours, theirs = native(bundle_folder, num_envs), dummy(bundle_folder, num_envs)
    for env in (ours, theirs):
        env.seed(7)
    assert data_equivalence(ours.reset(), dict(theirs.reset()), exact=True)
    assert data_equivalence(ours.reset_infos, theirs.venv.reset_infos, exact=True)
    rng = np.random.default_rng(0)
    episodes = invalid = 0
    for step in range(400):
        actions = rng.integers(5, size=num_envs)
        if step > 250:
            actions[0] = 2  # every second one is invalid
        results, expected = ours.step(actions), theirs.step(actions)
        assert data_equivalence(results[0], dict(expected[0]), exact=True)
        for a, b in zip(results[1:3], expected[1:3], strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        assert data_equivalence(untimed(results[3]), untimed(expected[3]), exact=True)
        expected_resets = theirs.venv.reset_infos
        assert data_equivalence(ours.reset_infos, expected_resets, exact=True)
        masks = [get_action_masks(env) for env in (ours, theirs)]
        np.testing.assert_array_equal(*masks)
        episodes += results[2].sum()
        invalid += sum(int(info["invalid_action"]) for info in results[3])
        assert not any(info["TimeLimit.truncated"] for info in results[3])
    assert episodes > 10 * num_envs
    assert invalid > 60


def test_truncated_episodes_are_marked(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env, expected = native(bundle_folder, 2), native(bundle_folder, 2)
    step = env.envs.step

    def truncating(actions: np.ndarray) -> Any:
        observations, rewards, terminated, truncated, infos = step(actions)
        return observations, rewards, truncated, terminated, infos

    monkeypatch.setattr(env.envs, "step", truncating)
    for each in (env, expected):
        each.seed(7)
        each.reset()
    ends = 0
    for _ in range(60):
        results, terminated = (e.step(np.array([4, 0])) for e in (env, expected))
        np.testing.assert_array_equal(results[2], terminated[2])
        for over, info, other in zip(*results[2:], terminated[3], strict=True):
            assert info["TimeLimit.truncated"] == over
            assert not other["TimeLimit.truncated"]
            assert ("terminal_observation" in info) == over
        ends += results[2].sum()
    assert ends > 3


@pytest.mark.parametrize("keywords", [(), ("cost",)])
def test_infos_have_the_info_keywords(
    bundle_folder: Path, keywords: tuple[str, ...]
) -> None:
    every = native(bundle_folder, 3)
    some = SelectionVecEnv(native(bundle_folder, 3).envs, info_keywords=keywords)
    for env in (every, some):
        env.seed(7)
        env.reset()
    ends = {*keywords, "TimeLimit.truncated", "terminal_observation", "episode"}
    rng = np.random.default_rng(0)
    for _ in range(60):
        actions = rng.integers(5, size=3)
        whole, part = (untimed(env.step(actions)[3]) for env in (every, some))
        expected = [{n: v for n, v in info.items() if n in ends} for info in whole]
        assert data_equivalence(part, expected, exact=True)
        lasts = [{n: info[n] for n in keywords} for info in every.reset_infos]
        assert some.reset_infos == lasts


def test_options_and_seeds_are_per_environment_and_used_once(
    bundle_folder: Path, bundle: Any
) -> None:
    ours, theirs = native(bundle_folder, 3), dummy(bundle_folder, 3)
    for env in (ours, theirs):
        env.seed(1)
        env.set_options([{"indices": range(9)}, {}, {"indices": range(20, 40)}])
    assert data_equivalence(ours.reset(), dict(theirs.reset()), exact=True)
    assert data_equivalence(ours.reset(), dict(theirs.reset()), exact=True)


def test_masks_are_found_through_wrappers(bundle_folder: Path) -> None:
    ours = native(bundle_folder, 3)
    wrapped = VecNormalize(ours, norm_obs=False)
    wrapped.reset()
    wrapped.step(np.array([0, 1, 4]))
    assert is_masking_supported(wrapped)
    masks = get_action_masks(wrapped)
    assert masks.dtype == bool
    assert (~masks).nonzero()[0].tolist() == [0, 1]
    assert (~masks).nonzero()[1].tolist() == [0, 1]
    np.testing.assert_array_equal(wrapped.get_attr("action_masks", 1)[0](), masks[1])
    one = ours.env_method("action_masks", indices=[1])
    np.testing.assert_array_equal(one, masks[1:2])


@pytest.mark.parametrize("algorithm", [PPO, MaskablePPO])
@pytest.mark.filterwarnings("error")
def test_algorithms_learn_on_it(bundle_folder: Path, algorithm: type) -> None:
    ours = native(bundle_folder, 4)
    model = algorithm(
        "MultiInputPolicy", ours, n_steps=64, batch_size=64, device="cpu", seed=0
    )
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(512)
    after = model.policy.parameters()
    assert any((a != b).any() for a, b in zip(before, after, strict=True))
    # The algorithm reads the episodes' infos.
    assert len(model.ep_info_buffer) > 4
    assert all(episode["l"] > 1 for episode in model.ep_info_buffer)
    returns, lengths = evaluate_policy(
        model, ours, n_eval_episodes=8, return_episode_rewards=True
    )
    assert len(returns) == len(lengths) == 8


def test_attributes_and_methods_are_those_of_dummy_vec_env(
    bundle_folder: Path,
) -> None:
    ours, theirs = native(bundle_folder, 3), dummy(bundle_folder, 3)
    assert ours.metadata == theirs.venv.metadata
    rng = np.random.default_rng(0)
    for env in (ours, theirs):
        env.seed(7)
        env.reset()
    for _ in range(23):
        actions = rng.integers(5, size=3)
        for env in (ours, theirs):
            env.step(actions)
        for name in (
            "budget",
            "over",
            "picked",
            "slate",
            "slate_number",
            "slates_in_stream",
            "stream",
        ):
            values, expected = ours.get_attr(name), theirs.get_attr(name)
            assert data_equivalence(values, expected, exact=True), name
        observations = (env.env_method("observation") for env in (ours, theirs))
        assert data_equivalence(*observations, exact=True)
    ids = [env.env_method("sample_ids", [3, -1, 5]) for env in (ours, theirs)]
    assert ids[0] == ids[1]
    assert ours.get_attr("slate_size", indices=0) == [4]
    assert ours.has_attr("observation_space")
    assert not ours.has_attr("unknown")
    assert ours.env_is_wrapped(gymnasium.wrappers.TimeLimit) == [False] * 3
    with pytest.raises(AttributeError, match="no attributes of their own"):
        ours.set_attr("budget", 3)
    with pytest.raises(AttributeError, match="step: sub-environments have none of"):
        ours.env_method("step", 0)


@pytest.mark.filterwarnings("error")
def test_no_warnings_about_monitors(bundle_folder: Path, tmp_path: Path) -> None:
    ours = VecMonitor(native(bundle_folder, 2), str(tmp_path / "monitor.csv"))
    model = PPO("MultiInputPolicy", ours, n_steps=64, device="cpu", seed=0)
    model.learn(128)
    assert len((tmp_path / "monitor.csv").read_text().splitlines()) > 4
    evaluate_policy(model, native(bundle_folder, 2), n_eval_episodes=2)


def test_images_are_tiled(bundle_folder: Path) -> None:
    ours = native(bundle_folder, 2, render_mode="rgb_array")
    ours.reset()
    ours.step(np.array([0, 4]))
    frames = ours.get_images()
    assert [frame.dtype for frame in frames] == [np.uint8, np.uint8]
    assert (frames[0] != frames[1]).any()
    assert ours.render().size >= 2 * frames[0].size


def test_a_pickled_environment_continues_equally(bundle_folder: Path) -> None:
    ours = native(bundle_folder, 2)
    ours.seed(0)
    ours.reset()
    other = pickle.loads(pickle.dumps(ours))
    rng = np.random.default_rng(0)
    for _ in range(60):
        actions = rng.integers(5, size=2)
        results, expected = ours.step(actions), other.step(actions)
        untimed(results[3])
        untimed(expected[3])
        assert data_equivalence(results, expected, exact=True)


def test_other_environments_raise(bundle_folder: Path) -> None:
    for envs in (
        gymnasium.make_vec("OGS-Custom-v0", 2, bundle=str(bundle_folder)),
        gymnasium.make_vec("CartPole-v1", 2),
    ):
        with pytest.raises(InputError, match=r"expected gymnasium\.make_vec"):
            SelectionVecEnv(envs)
