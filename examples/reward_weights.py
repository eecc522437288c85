"""What a reward weight and a cost limit change in what an agent selects.

    python examples/reward_weights.py         # five agents, two minutes on one core
    python examples/reward_weights.py --weights 0 10 --limits 0.5

Each row of the table is a Navigator that was trained with another price of forgetting.
A weight multiplies the term `forgetting` of the reward. A limit is on the cost of an
episode, the sum of that term: a Lagrange multiplier rises while evaluated episodes cost
more, and falls while they cost less. All agents play the same test episodes.
"""

import argparse
from dataclasses import replace

from ogs_env.agents import evaluate
from ogs_env.agents.settings import TrainSettings
from ogs_env.agents.training import train

parser = argparse.ArgumentParser()
parser.add_argument("--env", default="OGS-Medical-v0", help="id of the environment")
parser.add_argument("--steps", type=int, default=200_000, help="training steps of each")
parser.add_argument("--episodes", type=int, default=100, help="test episodes")
parser.add_argument("--weights", type=float, nargs="*", default=[0, 1, 3])
parser.add_argument("--limits", type=float, nargs="*", default=[2, 1])
args = parser.parse_args()

# More evaluations than by default: the multiplier changes after each.
settings = TrainSettings(env=args.env, seconds=None, steps=args.steps, evaluations=20)
rows = []
for weight in args.weights:
    env_kwargs = {"reward_weights": {"forgetting": weight}}
    rows.append((f"weight {weight:g}", replace(settings, env_kwargs=env_kwargs)))
for limit in args.limits:
    limited = replace(settings, cost_limit=limit, multiplier_rate=0.5)
    rows.append((f"cost limit {limit:g}", limited))

print("percent of the loss; the last two are of samples that no reward uses")
print("                learned  forgotten  test loss  own answers")
for name, row in rows:
    agent = train(row)
    result = evaluate(agent, args.env, range(args.episodes), split="test")
    print(
        f"{name:<15}"
        f"{result.terms['domain_gain'].mean():>8.2f}"
        f"{result.costs.mean():>11.2f}"
        f"{result.test_changes.mean():>+11.2f}"
        f"{result.answers_changes.mean():>+13.2f}"
    )
