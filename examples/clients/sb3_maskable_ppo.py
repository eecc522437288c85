"""MaskablePPO of sb3-contrib, which asks `action_masks()` for the valid actions.

`SelectionVecEnv` steps all sub-environments of a selection environment natively; a
mixture environment needs no more than the `DummyVecEnv` of `make_vec_env`.
"""

import sys

import gymnasium as gym
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from ogs_env.agents.vec_env import SelectionVecEnv


def make_envs(env_id: str, split: str, num_envs: int) -> VecEnv:
    """Return a vector environment of Stable-Baselines3."""
    if "-Mixture-" in env_id:
        return make_vec_env(env_id, num_envs, env_kwargs={"split": split})
    envs = gym.make_vec(env_id, num_envs, autoreset_mode="SameStep", split=split)
    return SelectionVecEnv(envs)


def main(env_id: str = "OGS-Medical-v0") -> None:
    """Train on the training split, and print the mean return on the test split."""
    model = MaskablePPO(
        "MultiInputPolicy",
        make_envs(env_id, "train", 32),
        n_steps=64,
        batch_size=256,
        n_epochs=4,
        learning_rate=lambda progress_left: 2e-3 * progress_left,
        gamma=1.0,
        ent_coef=0.05,
        seed=0,
        device="cpu",
    )
    # The default one makes a folder.
    model.set_logger(Logger(folder=None, output_formats=[]))
    model.learn(50_000)
    test = make_envs(env_id, "test", 10)
    test.seed(0)
    mean, _ = evaluate_policy(model, test, n_eval_episodes=50)
    print(f"sb3_maskable_ppo: {env_id} returns {mean:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
