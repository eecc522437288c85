"""Train skrl's PPO with action masks, which its policy network applies itself.

`FlattenObservation` makes one vector of the `Dict`, in the order of its keys: first the
mask, then the observation.
"""

import logging
import sys

import gymnasium as gym
import torch
from gymnasium.wrappers import FlattenObservation
from skrl.agents.torch.ppo import PPO
from skrl.envs.wrappers.torch import Wrapper, wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, Model
from skrl.trainers.torch import SequentialTrainer
from skrl.utils import set_seed
from skrl.utils.model_instantiators.torch import deterministic_model
from torch import Tensor, nn

from ogs_env.wrappers import ActionMaskObservation

logging.getLogger("skrl").setLevel(logging.WARNING)


class Policy(CategoricalMixin, Model):
    """A network whose invalid actions have probability 0."""

    def __init__(self, **spaces: gym.Space) -> None:
        Model.__init__(self, **spaces)
        CategoricalMixin.__init__(self)
        hidden = nn.Linear(self.num_observations, 128)
        self.net = nn.Sequential(hidden, nn.Tanh(), nn.Linear(128, self.num_actions))

    def compute(self, inputs: dict[str, Tensor], role: str) -> tuple[Tensor, dict]:
        """Return the logits of the actions."""
        observations = inputs["observations"]
        invalid = observations[:, : self.num_actions] == 0
        return self.net(observations).masked_fill(invalid, -torch.inf), {}


def make_envs(env_id: str, split: str, num_envs: int) -> Wrapper:
    """Make environments that skrl need not reset: each episode follows the last."""
    envs = gym.make_vec(
        env_id,
        num_envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": "SameStep"},
        wrappers=[ActionMaskObservation, FlattenObservation],
        split=split,
    )
    return wrap_env(envs)


def main(env_id: str = "OGS-Medical-v0") -> None:
    """Train on the training split, and print the mean return on the test split."""
    set_seed(0)
    envs = make_envs(env_id, "train", num_envs=16)
    spaces = {
        "observation_space": envs.observation_space,
        "action_space": envs.action_space,
    }
    layers = {"name": "net", "input": "OBSERVATIONS", "layers": [128]}
    value = deterministic_model(
        network=[layers | {"activations": "tanh"}], output="ONE", **spaces
    )
    policy = Policy(**spaces)
    agent = PPO(
        models={"policy": policy, "value": value},
        memory=RandomMemory(memory_size=64, num_envs=envs.num_envs),
        cfg={
            "rollouts": 64,
            "learning_epochs": 4,
            "mini_batches": 4,
            "learning_rate": 3e-4,
            "entropy_loss_scale": 0.01,
            "experiment": {"write_interval": 0, "checkpoint_interval": 0},
        },
        **spaces,
    )
    settings = {"timesteps": 4096, "headless": True, "disable_progressbar": True}
    SequentialTrainer(env=envs, agents=agent, cfg=settings).train()

    test_envs = make_envs(env_id, "test", num_envs=20)
    observations, _ = test_envs.reset()
    returns = torch.zeros(20, 1)
    running = torch.ones(20, 1, dtype=torch.bool)
    while running.any():
        with torch.no_grad():
            logits, _ = policy.compute({"observations": observations}, role="policy")
        actions = logits.argmax(dim=1, keepdim=True)
        observations, rewards, terminated, _, _ = test_envs.step(actions)
        returns += rewards * running
        running &= ~terminated
    print(f"skrl_ppo: {env_id} returns {returns.mean():.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
