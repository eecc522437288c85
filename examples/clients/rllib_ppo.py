"""PPO of RLlib (new API stack) among valid actions only, all in this process.

`ActionMaskObservation` puts the mask into the observation, where the module
`ActionMaskingTorchRLModule` of RLlib's own examples reads it.
"""

# ruff: noqa: E402
import logging
import os
import sys
import tempfile
from functools import partial
from typing import Any

# Before Ray is imported: it writes results and a token to the home folder, and
# RLlib's own modules warn of each other.
folder = tempfile.TemporaryDirectory()
os.environ["HOME"] = folder.name
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
logging.disable(logging.WARNING)

import gymnasium as gym
import ray
from gymnasium.wrappers import FlattenObservation
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.examples.rl_modules.classes.action_masking_rlm import (
    ActionMaskingTorchRLModule,
)
from ray.tune.registry import register_env

from ogs_env.wrappers import ActionMaskObservation


def make_env(env_id: str, config: dict[str, Any]) -> gym.Env:
    """Return an environment that observes a vector and the mask."""
    return ActionMaskObservation(FlattenObservation(gym.make(env_id, **config)))


def ppo(env_id: str) -> PPOConfig:
    """Return the settings of training and evaluation."""
    register_env(env_id, partial(make_env, env_id))
    module = RLModuleSpec(
        module_class=ActionMaskingTorchRLModule,
        model_config={"fcnet_hiddens": [64, 64], "vf_share_layers": False},
    )
    return (
        PPOConfig()
        .environment(env_id)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=16)
        .rl_module(rl_module_spec=module)
        .training(
            train_batch_size_per_learner=2048,
            minibatch_size=256,
            num_epochs=4,
            lr=[[0, 2e-3], [50_000, 0.0]],
            gamma=1.0,
            lambda_=0.95,
            vf_loss_coeff=0.5,
            use_kl_loss=False,
            grad_clip=0.5,
        )
        .evaluation(
            evaluation_duration=20,
            evaluation_config={
                "env_config": {"split": "test"},
                "num_envs_per_env_runner": 1,
                "explore": False,
            },
        )
        .debugging(seed=0)
    )


def main(env_id: str = "OGS-Medical-v0") -> None:
    """Train on the training split, and print the mean return on the test split."""
    ray.init(
        num_cpus=1,
        object_store_memory=10**8,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=folder.name,
    )
    algorithm = ppo(env_id).build_algo()
    for _ in range(24):
        algorithm.train()
    mean = algorithm.evaluate()["env_runners"]["episode_return_mean"]
    algorithm.stop()
    ray.shutdown()
    print(f"rllib_ppo: {env_id} returns {mean:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
