"""REINFORCE in one file: a linear policy with 39 weights, in NumPy alone.

    python examples/custom_agent.py           # 100 updates, ten seconds
    python examples/custom_agent.py --updates 300 --seed 1

The logit of a candidate is the product of its 39 observed numbers with the weights;
that of the skip is 0. A native vector environment plays a batch of episodes together,
and the weights follow their policy gradient (Williams 1992). PPO in the same style is
`examples/clients/cleanrl_style_ppo.py`.
"""

import argparse

import gymnasium as gym
import numpy as np

import ogs_env  # noqa: F401  (registers the ids)

NUM_ENVS, LEARNING_RATE = 64, 0.2
DIRECTIONS = 32
# The columns after the candidate's direction; one more says that there is a candidate.
COLUMNS = (
    *("domain cosine", "anchor cosine", "gradient norm", "loss", "length"),
    "cosine with the nearest pick",
)


def play(
    envs: gym.vector.VectorEnv, weights: np.ndarray, rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    """Play one episode in each environment; without `rng`, with the likeliest actions.

    Returns:
        The returns (envs,) and the policy gradient (39,).
    """
    observations, infos = envs.reset()
    every, running = np.arange(envs.num_envs), np.ones(envs.num_envs, np.bool_)
    rewards, scores = [], []
    while running.any():
        # A row of features for each action; the skip's is 0.
        features = np.pad(observations["candidates"], [(0, 0), (0, 1), (0, 0)])
        logits = np.where(infos["action_mask"] == 1, features @ weights, -np.inf)
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        # Gumbel noise: the highest sum is a draw from the softmax.
        noise = 0.0 if rng is None else rng.gumbel(size=logits.shape)
        actions = (logits + noise).argmax(axis=1)
        # The gradient of the logarithm of an action's probability.
        score = features[every, actions] - np.einsum("na,nac->nc", chances, features)
        observations, reward, terminated, truncated, infos = envs.step(actions)
        scores.append(score * running[:, None])
        rewards.append(reward * running)
        running &= ~(terminated | truncated)
    returns = np.sum(rewards, axis=0)
    # An action is as good as the rewards that follow it, compared between episodes.
    to_come = np.cumsum(rewards[::-1], axis=0)[::-1]
    advantages = to_come - to_come.mean(axis=1, keepdims=True)
    gradient = np.einsum("tn,tnc->c", advantages, scores) / envs.num_envs
    return returns, gradient / (returns.std() + 1e-8)


def main() -> None:
    """Train on the training split, and print returns on the test split."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--env", default="OGS-Medical-v0", help="a selection environment"
    )
    parser.add_argument("--updates", type=int, default=100, help="training updates")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    args = parser.parse_args()

    rng = np.random.default_rng(args.seed)
    envs = gym.make_vec(args.env, NUM_ENVS, autoreset_mode="SameStep")
    observations, _ = envs.reset(seed=args.seed)
    weights = np.zeros(observations["candidates"].shape[-1])
    for update in range(args.updates):
        returns, gradient = play(envs, weights, rng)
        weights += LEARNING_RATE * (1 - update / args.updates) * gradient
        if (update + 1) % 10 == 0 or update == 0:
            print(f"update {update + 1}: training episodes return {returns.mean():.2f}")

    print("weights:")
    for name, weight in zip(COLUMNS, weights[DIRECTIONS:], strict=False):
        print(f"  {name:<30}{weight:+.2f}")
    test = gym.make_vec(args.env, 50, autoreset_mode="SameStep", split="test")
    for name, policy in (("random", 0 * weights), ("trained", weights)):
        test.reset(seed=0)
        returns, _ = play(test, policy, rng if name == "random" else None)
        print(f"{name} policy: test episodes return {returns.mean():.2f}")


if __name__ == "__main__":
    main()
