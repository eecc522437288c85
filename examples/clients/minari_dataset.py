"""A Minari dataset of a selector's episodes: recorded, stored and loaded again.

`record_infos=True` also stores the infos, with `action_mask` and `cost`. Observations
and infos have one entry more than actions: that of `reset`, which is the first.
"""

import os
import sys
import tempfile
import warnings

import gymnasium as gym
import minari
import numpy as np

from ogs_env.agents.policies import make_policy

# A dataset that is shared should have them.
warnings.filterwarnings("ignore", "`(author|author_email|code_permalink)` is set to")


def record(env_id: str, name: str, dataset_id: str) -> None:
    """Store ten episodes of a policy on the training split."""
    env = minari.DataCollector(gym.make(env_id), record_infos=True)
    policy = make_policy(name, env, np.random.default_rng(0))
    for seed in range(10):
        observation, info = env.reset(seed=seed)
        done = False
        while not done:
            action = policy(observation, info, env)
            observation, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
    env.create_dataset(
        dataset_id,
        eval_env=gym.make(env_id, split="test"),
        algorithm_name=name,
        description=f"Ten episodes of the policy {name} in {env_id}",
    )
    env.close()


def main(env_id: str = "OGS-Medical-v0") -> None:
    """Record a dataset, load it, and print the mean return of its episodes."""
    name = "random" if "-Mixture-" in env_id else "oracle"
    dataset_id = f"{env_id.removesuffix('-v0')}/{name}-v0"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        record(env_id, name, dataset_id)
        dataset = minari.load_dataset(dataset_id)
        mean = np.mean([episode.rewards.sum() for episode in dataset])
    print(f"minari_dataset: {env_id} returns {mean:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
