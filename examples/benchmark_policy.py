"""Compare a policy of your own with random picks, a selector and the oracle.

    python examples/benchmark_policy.py
    python examples/benchmark_policy.py --episodes 200

`evaluate` plays the same episodes with every policy. A policy is a function from
(observation, info, env) to an action, a model of Stable-Baselines3, a selector or its
name. The policy here spreads the budget over the stream, and picks the candidates
whose gradient norm, loss and length are most like those of the domain's samples.

`ogs benchmark --policy benchmark_policy:LikeTheDomain`, run in this folder, adds it to
the table of all selectors.
"""

import argparse
from typing import Any

import gymnasium as gym
import numpy as np

from ogs_env.agents import evaluate
from ogs_env.agents.episodes import summarise


class LikeTheDomain:
    """Picks the candidates that are most like the domain's samples."""

    def __call__(
        self, observation: dict[str, Any], info: dict[str, Any], env: gym.Env
    ) -> int:
        """Return the place of a candidate, or the skip once the slate had its share."""
        # Norm, loss and length; those of the domain end the context.
        distances = np.linalg.norm(
            observation["candidates"][:, 34:37] - observation["context"][-3:], axis=1
        )
        distances[info["action_mask"][:-1] == 0] = np.inf
        budget_left, slates_left = observation["context"][96:98]
        skip = len(distances)
        return skip if budget_left <= slates_left else int(distances.argmin())


def main() -> None:
    """Play test episodes with every policy, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--env", default="OGS-Medical-v0", help="id of the environment")
    parser.add_argument("--episodes", type=int, default=50, help="test episodes")
    args = parser.parse_args()

    policies = {
        "random": "random",
        "greedy": "greedy",
        "LikeTheDomain": LikeTheDomain(),
        "oracle": "oracle",
    }
    seeds = range(args.episodes)
    returns = {
        name: evaluate(policy, args.env, seeds, split="test").returns
        for name, policy in policies.items()
    }
    own = returns["LikeTheDomain"]
    print(f"{args.episodes} test episodes of {args.env}")
    print("policy         mean return  95 % interval   LikeTheDomain returns more in")
    for name, values in returns.items():
        result = summarise(values)
        interval = f"{result['low']:.2f} to {result['high']:.2f}"
        more = "" if name == "LikeTheDomain" else f"{(own > values).mean():.0%}"
        print(f"{name:<15}{result['mean']:>11.2f}  {interval:<16}{more}")


if __name__ == "__main__":
    main()
