"""`evaluate` with every kind of policy, against a plain loop."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers import FlattenObservation
from helpers.infos import rows_in, terms_of
from sb3_contrib import MaskablePPO
from stable_baselines3 import DQN, PPO

from ogs_env.agents import evaluate
from ogs_env.agents.evaluation import as_policy, load_policy
from ogs_env.agents.navigator import Navigator, build_network
from ogs_env.agents.policies import EqualQuota, make_policy
from ogs_env.agents.selector import make_selector
from ogs_env.errors import InputError

SEEDS = [3, 8, 21]
TINY: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 0}


@pytest.fixture
def kwargs(bundle_folder: Path) -> dict[str, Any]:
    counts = {"slate_size": 8, "num_slates": 5, "budget": 10}
    return {"bundle": str(bundle_folder), "split": "test", **counts}


@pytest.fixture
def env(kwargs: dict[str, Any]) -> gymnasium.Env:
    return gymnasium.make("OGS-Custom-v0", **kwargs)


def last_valid(observation: dict, info: dict, env: gymnasium.Env) -> int:
    """Pick the last remaining candidate; in a `MixtureEnv` the last cluster."""
    picks = info["action_mask"]
    if "candidates" in observation:
        picks = picks[:-1]
    return int(np.flatnonzero(picks)[-1])


def navigator(skips: bool = True) -> Navigator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rows = {True: 15, False: 14}[skips]
        network = build_network(row=rows, context=32, width=8, skips=skips)
        torch.nn.init.normal_(network.pick_head.weight)
    return Navigator(network, {"space": "made-64"})


def assert_same_as_plain_loop(
    evaluation: Any, env: gymnasium.Env, act: Any, seeds: list[int] = SEEDS
) -> None:
    ids = env.unwrapped.bundle.pool.hex_ids()
    for number, seed in enumerate(seeds):
        observation, info = env.reset(seed=seed)
        rewards, costs, terms, over = [], [], [], False
        while not over:
            action = act(observation, info, env)
            observation, reward, terminated, truncated, info = env.step(action)
            rewards.append(reward)
            costs.append(info["cost"])
            terms.append(terms_of(info))
            over = terminated or truncated
        assert evaluation.returns[number] == pytest.approx(sum(rewards))
        assert evaluation.costs[number] == pytest.approx(sum(costs))
        for name, values in evaluation.terms.items():
            total = sum(term[name] for term in terms)
            if name == "orthogonality":
                total /= len(terms)
            assert values[number] == pytest.approx(total)
        selection = [ids[row] for row in rows_in(info["selection"])]
        assert evaluation.selections[number] == selection
        assert evaluation.test_changes[number] == info["test_change"]
        assert evaluation.retention_changes[number] == info["retention_change"]
        assert evaluation.answers_changes[number] == info["answers_change"]
    assert len(evaluation.selections) == len(evaluation.returns) == len(seeds)


@pytest.mark.parametrize("id_", ["OGS-Custom-v0", "OGS-Custom-Mixture-v0"])
def test_callable(kwargs: dict[str, Any], bundle_folder: Path, id_: str) -> None:
    if "Mixture" in id_:
        kwargs = {"bundle": str(bundle_folder), "split": "test"}
    evaluation = evaluate(last_valid, id_, SEEDS, **kwargs)
    assert_same_as_plain_loop(evaluation, gymnasium.make(id_, **kwargs), last_valid)


@pytest.mark.parametrize("name", ["random", "greedy", "less/stream", "oracle"])
def test_selector_name(env: gymnasium.Env, kwargs: dict[str, Any], name: str) -> None:
    evaluation = evaluate(name, "OGS-Custom-v0", SEEDS, **kwargs)
    policy = make_policy(name, env, np.random.default_rng(0))
    assert_same_as_plain_loop(evaluation, env, policy)
    assert {len(selection) for selection in evaluation.selections} == {10}


def test_selector(env: gymnasium.Env, kwargs: dict[str, Any]) -> None:
    selector = make_selector("craig")
    evaluation = evaluate(selector, "OGS-Custom-v0", SEEDS, **kwargs)
    policy = EqualQuota(selector, np.random.default_rng(0))
    assert_same_as_plain_loop(evaluation, env, policy)


def test_navigator(env: gymnasium.Env, kwargs: dict[str, Any]) -> None:
    threads = torch.get_num_threads()
    agent = navigator()
    evaluation = evaluate(agent, "OGS-Custom-v0", SEEDS, **kwargs)
    assert_same_as_plain_loop(evaluation, env, agent)
    assert torch.get_num_threads() == threads
    with pytest.raises(InputError, match="cannot act in SelectionEnv of bundle"):
        evaluate(navigator(skips=False), "OGS-Custom-v0", SEEDS, **kwargs)


def predicted(model: Any, masks: bool) -> Any:
    def act(observation: Any, info: dict, env: gymnasium.Env) -> int:
        options = {"action_masks": info["action_mask"].astype(bool)} if masks else {}
        return int(model.predict(observation, deterministic=True, **options)[0])

    return act


@pytest.mark.parametrize("kind", [PPO, DQN, MaskablePPO])
def test_model_and_its_file(
    env: gymnasium.Env, kwargs: dict[str, Any], tmp_path: Path, kind: Any
) -> None:
    options = {"buffer_size": 10} if kind is DQN else {}
    model = kind("MultiInputPolicy", env, **options, **TINY)
    evaluation = evaluate(model, "OGS-Custom-v0", SEEDS, **kwargs)
    act = predicted(model, masks=kind is MaskablePPO)
    assert_same_as_plain_loop(evaluation, env, act)
    model.save(tmp_path / "model.zip")
    loaded = load_policy(str(tmp_path / "model.zip"))
    repeated = evaluate(loaded, "OGS-Custom-v0", SEEDS, **kwargs)
    np.testing.assert_array_equal(repeated.returns, evaluation.returns)
    assert repeated.selections == evaluation.selections


def test_model_of_flat_observations(env: gymnasium.Env, kwargs: dict[str, Any]) -> None:
    flat = FlattenObservation(env)
    model = PPO("MlpPolicy", flat, **TINY)
    evaluation = evaluate(model, "OGS-Custom-v0", SEEDS, **kwargs)
    assert_same_as_plain_loop(evaluation, flat, predicted(model, masks=False))


def test_model_of_another_environment(
    env: gymnasium.Env, kwargs: dict[str, Any]
) -> None:
    model = PPO("MultiInputPolicy", env, **TINY)
    with pytest.raises(InputError, match="the model reads observations"):
        evaluate(model, "OGS-Custom-v0", SEEDS, **(kwargs | {"slate_size": 9}))


def test_wrong_input(env: gymnasium.Env, kwargs: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="unknown selector 'gredy'"):
        evaluate("gredy", "OGS-Custom-v0", SEEDS, **kwargs)
    with pytest.raises(InputError, match="unknown environment 'OGS-Custm-v0'"):
        evaluate("greedy", "OGS-Custm-v0", SEEDS, **kwargs)
    with pytest.raises(InputError, match="expected a callable"):
        as_policy(7, env, np.random.default_rng(0))
    with pytest.raises(InputError, match="env_kwargs: OGS-Medical-v0 has no argument"):
        evaluate("greedy", "OGS-Medical-v0", range(1), hands=3)


def test_importing_the_package_imports_no_torch() -> None:
    code = (
        "import sys, ogs_env.agents\n"
        "assert not {'torch', 'ogs_env.agents.evaluation'} & set(sys.modules)\n"
        "assert callable(ogs_env.agents.evaluate)\n"
        "assert not {'torch', 'stable_baselines3'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
