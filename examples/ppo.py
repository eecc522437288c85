"""Train MaskablePPO of sb3-contrib, and evaluate it before and after.

    python examples/ppo.py                    # half a minute on one core
    python examples/ppo.py --steps 200000     # three minutes

MaskablePPO asks the environment which actions are valid. It trains on one part of the
pool, `split="train"`; the evaluation is on candidates that it has not seen.
"""

import argparse

import gymnasium as gym
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import ogs_env  # noqa: F401  (registers the ids)

parser = argparse.ArgumentParser()
parser.add_argument("--env", default="OGS-Medical-v0", help="id of the environment")
parser.add_argument("--steps", type=int, default=20_000, help="training steps")
parser.add_argument("--episodes", type=int, default=50, help="test episodes")
args = parser.parse_args()

env = gym.make(args.env)
test = Monitor(gym.make(args.env, split="test"))
model = MaskablePPO("MultiInputPolicy", env, seed=0, device="cpu")

test.reset(seed=0)
# The actions of an untrained network are random, if they are sampled.
mean, spread = evaluate_policy(model, test, args.episodes, deterministic=False)
print(f"random actions return {mean:.2f}, standard deviation {spread:.2f}")

model.learn(args.steps, progress_bar=True)

test.reset(seed=0)  # the same episodes
mean, spread = evaluate_policy(model, test, args.episodes)
print(f"MaskablePPO returns {mean:.2f}, standard deviation {spread:.2f}")
