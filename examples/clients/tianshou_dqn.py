"""Train Tianshou's DQN with action masks, which it reads from the observation's `mask`.

The spaces come from a wrapped environment: `DummyVectorEnv` has those without wrappers.
"""

import sys
from functools import partial

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers import FlattenObservation
from tianshou.algorithm import DQN
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams
from tianshou.utils.net.common import Net

from ogs_env.wrappers import ActionMaskObservation


def make_env(env_id: str, split: str) -> gym.Env:
    """Make an environment with the observations that Tianshou expects."""
    env = FlattenObservation(gym.make(env_id, split=split))
    return ActionMaskObservation(env, observation_key="obs", mask_key="mask")


def main(env_id: str = "OGS-Medical-v0") -> None:
    """Train on the training split, and print the mean return on the test split."""
    np.random.seed(0)  # noqa: NPY002, Tianshou draws from the global generator
    torch.manual_seed(0)
    env = make_env(env_id, "train")
    net = Net(
        state_shape=env.observation_space["obs"].shape,
        action_shape=int(env.action_space.n),
        hidden_sizes=[128, 128],
    )
    policy = DiscreteQLearningPolicy(
        model=net, action_space=env.action_space, eps_training=0.1
    )
    dqn = DQN(
        policy=policy,
        optim=AdamOptimizerFactory(lr=3e-4),
        n_step_return_horizon=3,
        target_update_freq=200,
    )

    envs = DummyVectorEnv([partial(make_env, env_id, "train")] * 4)
    envs.seed(0)
    buffer = VectorReplayBuffer(6_400, buffer_num=len(envs))
    training = OffPolicyTrainerParams(
        training_collector=Collector(policy, envs, buffer, exploration_noise=True),
        max_epochs=1,
        epoch_num_steps=6_400,
        collection_step_num_env_steps=32,
        update_step_num_gradient_steps_per_sample=0.25,
        verbose=False,
        show_progress=False,
    )
    dqn.run_training(training)

    test_envs = DummyVectorEnv([partial(make_env, env_id, "test")] * 4)
    test_envs.seed(1)
    tests = Collector(policy, test_envs)
    returns = tests.collect(n_episode=20, reset_before_collect=True).returns
    print(f"tianshou_dqn: {env_id} returns {returns.mean():.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
