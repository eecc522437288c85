"""Train TorchRL's PPO with action masks: `MaskedCategorical` reads them from the info.

TorchRL resets environments itself, so vector environments must not: it needs
`autoreset_mode="Disabled"`, which `GymEnv(env_id, num_envs=16)` does not set.
"""

import logging
import sys

import gymnasium as gym
import torch
from gymnasium.wrappers.vector import FlattenObservation
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.envs import (
    DTypeCastTransform,
    EnvBase,
    ExplorationType,
    GymWrapper,
    TransformedEnv,
    set_exploration_type,
)
from torchrl.modules import MLP, MaskedCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import ogs_env  # noqa: F401

logging.getLogger("torchrl").setLevel(logging.WARNING)


def make_env(env_id: str, split: str, num_envs: int, seed: int) -> EnvBase:
    """Make environments with flat observations and masks of booleans."""
    envs = gym.make_vec(env_id, num_envs, split=split, autoreset_mode="Disabled")
    env = GymWrapper(FlattenObservation(envs), categorical_action_encoding=True)
    to_bool = DTypeCastTransform(torch.int8, torch.bool, in_keys=["action_mask"])
    env = TransformedEnv(env.auto_register_info_dict(), to_bool)
    env.set_seed(seed)
    return env


def main(env_id: str = "OGS-Medical-v0") -> None:
    """Train on the training split, and print the mean return on the test split."""
    torch.manual_seed(0)
    env = make_env(env_id, "train", num_envs=16, seed=0)
    actions = env.action_spec.space.n
    network = MLP(out_features=actions, num_cells=[128, 128])
    actor = ProbabilisticActor(
        TensorDictModule(network, ["observation"], ["logits"]),
        in_keys={"logits": "logits", "mask": "action_mask"},
        distribution_class=MaskedCategorical,
        return_log_prob=True,
    )
    critic = ValueOperator(MLP(out_features=1, num_cells=[128, 128]))
    with torch.no_grad():
        critic(actor(env.reset()))
    advantage = GAE(gamma=0.99, lmbda=0.95, value_network=critic)
    ppo = ClipPPOLoss(actor, critic, entropy_coeff=0.01, normalize_advantage=True)
    optimizer = torch.optim.Adam(ppo.parameters(), lr=3e-4)

    batches = Collector(
        env,
        actor,
        frames_per_batch=1024,
        total_frames=32 * 1024,
        auto_register_policy_transforms=False,
    )
    for batch in batches:
        for _ in range(4):
            advantage(batch)
            for part in batch.flatten()[torch.randperm(1024)].split(256):
                losses = ppo(part)
                names = "loss_objective", "loss_critic", "loss_entropy"
                loss = sum(losses[name] for name in names)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(ppo.parameters(), 0.5)
                optimizer.step()

    test_env = make_env(env_id, "test", num_envs=1, seed=1)
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        episodes = [test_env.rollout(1000, actor) for _ in range(20)]
    returns = torch.stack([episode["next", "reward"].sum() for episode in episodes])
    print(f"torchrl_ppo: {env_id} returns {returns.mean():.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
