"""Stable-Baselines3's algorithms, each learning for a few hundred steps.

They depend on the spaces alone, which are the same for all ids of a class: one id of
every environment class is enough.
"""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import FlattenObservation
from sb3_contrib import MaskablePPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback

TINY: dict[str, Any] = {"policy_kwargs": {"net_arch": [16]}, "device": "cpu", "seed": 0}


class Infos(BaseCallback):
    """Keep the info of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        self.found += self.locals["infos"]
        return True


def learn(model: Any, steps: int) -> list[dict[str, Any]]:
    """Learn; check that the policy has changed and still acts; return all infos."""
    before = [weights.clone() for weights in model.policy.parameters()]
    infos = Infos()
    model.learn(steps, callback=infos)
    after = list(model.policy.parameters())
    assert all(torch.isfinite(weights).all() for weights in after)
    assert any((a != b).any() for a, b in zip(after, before, strict=True))
    assert len(infos.found) >= steps
    assert any("episode" in info for info in infos.found)
    observations = model.get_env().reset()
    action, _ = model.predict(observations)
    assert model.action_space.contains(action[0])
    return infos.found


@pytest.fixture(params=["MultiInputPolicy", "MlpPolicy"])
def policy(request: pytest.FixtureRequest) -> str:
    return request.param


def make(spec: EnvSpec, policy: str) -> gymnasium.Env:
    env = gymnasium.make(spec)
    return FlattenObservation(env) if policy == "MlpPolicy" else env


@pytest.mark.filterwarnings("error")
def test_ppo(class_spec: EnvSpec, policy: str) -> None:
    env = make(class_spec, policy)
    learn(PPO(policy, env, n_steps=128, batch_size=32, n_epochs=2, **TINY), 256)


@pytest.mark.filterwarnings("error")
def test_a2c(class_spec: EnvSpec, policy: str) -> None:
    learn(A2C(policy, make(class_spec, policy), **TINY), 256)


@pytest.mark.filterwarnings("error")
def test_dqn(class_spec: EnvSpec, policy: str) -> None:
    settings = {"buffer_size": 300, "learning_starts": 50, "batch_size": 16}
    learn(DQN(policy, make(class_spec, policy), **settings, **TINY), 256)


@pytest.mark.filterwarnings("error")
def test_maskable_ppo_never_takes_a_masked_action(
    class_spec: EnvSpec, policy: str
) -> None:
    env = make(class_spec, policy)
    model = MaskablePPO(policy, env, n_steps=128, batch_size=32, n_epochs=2, **TINY)
    infos = learn(model, 256)
    assert not any(info["invalid_action"] for info in infos)
    assert any(np.min(info["action_mask"]) == 0 for info in infos)
