"""Imitation of the hindsight oracle: what a policy can learn before it plays.

In training the reward, and the whole stream, are there to look at, so for every
episode it can be said which candidates greed with hindsight would pick
(`ogs_env.agents.baselines.oracle`). A policy that learns to pick those from what *it*
sees (behavioural cloning, Pomerleau 1989) learns in seconds what takes PPO minutes;
and it does so in many domains at once, where PPO's gradients are too noisy to.

Three things make what is learned move to other bundles. Sampled tasks are played
along an off-domain trajectory, where the bundle has one: what a sample teaches depends
on what the warm-up has taught before, so an agent has to meet two of them. The plan
that is imitated weighs general abilities less than the reward does: what reference
answers gain in it comes from updates that cancel along this bundle's training
trajectory, which nobody sees at the start. And an agent that plays keeps step with the
stream (`PACING_MARGIN`): where all of a new domain looks better than what it knows, it
would spend its budget on the first slates.
"""

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from tqdm import tqdm

from ogs_env.agents.baselines.oracle import OracleSelector
from ogs_env.agents.network import Network
from ogs_env.envs.selection import SelectionEnv
from ogs_env.errors import InputError
from ogs_env.sampled_task import POOL

PACING_MARGIN = 1 / 8
"""By how much the spent share of the budget may be above the share of slates dealt."""

EPOCHS = 6
BATCH = 1024
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-3
# What the oracle's weights of general abilities, `anchor_gain` and `forgetting`, are
# multiplied by. Lower, agents move better to where the domain counts for more; higher,
# to where those abilities do.
_ANCHOR = 0.6
# Of the episodes in sampled tasks, one in so many is in the bundle's own.
_OWN_EVERY = 8
# Budgets in sampled tasks, shares of the stream.
_BUDGETS = 0.09, 0.4
# Episodes of a sampled task: drawing one costs more than playing it.
_EPISODES = 2

Examples = dict[str, torch.Tensor]


def collect(
    make: Callable[..., gym.Env], episodes: int, rng: np.random.Generator
) -> Examples:
    """Play what the oracle picks; return what was seen, and what was right to do.

    From a slate, what the oracle wants is picked in random order; then it is skipped.
    Seven of eight episodes have domains drawn from the pool, with streams as they are
    or half as long and budgets of 9 to 40 % of them; the rest are the environment's
    own.

    Args:
        make: Makes the training environment, a `SelectionEnv`; takes arguments to
            change.
        episodes: How many are played.
        rng: Draws them.

    Returns:
        `candidates` (n, slate_size, row) and `context` (n, context) as observed, and
        `wanted` (n, slate_size + 1): each action's share of those that are right.

    Raises:
        InputError: If the environment is no `SelectionEnv`, or no domain can be drawn
            from its pool.
    """
    own = make().unwrapped
    if not isinstance(own, SelectionEnv):
        raise InputError(f"imitation: {own}; expected a SelectionEnv")
    found: dict[str, list[Any]] = {"candidates": [], "context": [], "wanted": []}
    env = own
    for episode in tqdm(range(episodes), desc="oracle", unit="episode", leave=False):
        if episode % _EPISODES == 0:
            other = episode // _EPISODES % _OWN_EVERY
            env = _another(make, own, rng) if other else own
        _play(env, rng, found)
    return {
        name: torch.from_numpy(np.stack(values).astype(np.float32))
        for name, values in found.items()
    }


def _another(
    make: Callable[..., gym.Env], own: SelectionEnv, rng: np.random.Generator
) -> SelectionEnv:
    """Make an environment of a sampled task."""
    most = min(own.num_slates, POOL // own.slate_size)
    num_slates = max(most // int(rng.choice([1, 2])), 1)
    budget = round(rng.uniform(*_BUDGETS) * num_slates * own.slate_size)
    task_seed = int(rng.integers(2**31))
    env = make(
        task_seed=task_seed, num_slates=num_slates, budget=max(budget, 1)
    ).unwrapped
    assert isinstance(env, SelectionEnv)
    return env


def _play(
    env: SelectionEnv, rng: np.random.Generator, found: dict[str, list[Any]]
) -> None:
    observation, _ = env.reset(seed=int(rng.integers(2**31)))
    weights = dict(env.reward_weights)
    for name in ("anchor_gain", "forgetting"):
        weights[name] *= _ANCHOR
    oracle = OracleSelector(weights)
    plan = oracle.select(env.bundle, env.budget, rng, env.stream)[0]
    over = False
    while not over:
        wanted = np.append(np.isin(env.slate, plan), False)
        wanted[-1] = not wanted.any()
        found["candidates"].append(observation["candidates"].astype(np.float16))
        found["context"].append(observation["context"])
        found["wanted"].append(wanted / wanted.sum())
        action = rng.choice(np.flatnonzero(wanted))
        observation, _, over, _, _ = env.step(action)


def fit(
    network: Network, examples: Examples, generator: torch.Generator
) -> Iterator[int]:
    """Teach a network's actor; the critic is left alone.

    Minimises the cross-entropy to what was right with AdamW (Loshchilov and Hutter
    2019), under a one-cycle rate (Smith and Topin 2017).

    Args:
        network: What is trained.
        examples: As `collect` returns them.
        generator: Draws the minibatches.

    Yields:
        After each epoch, how many examples were learned from.
    """
    count = len(examples["wanted"])
    optimizer = torch.optim.AdamW(
        network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=EPOCHS * -(-count // BATCH)
    )
    for epoch in tqdm(range(EPOCHS), desc="imitation", unit="epoch", leave=False):
        order = torch.randperm(count, generator=generator)
        for rows in order.split(BATCH):
            batch = {name: values[rows] for name, values in examples.items()}
            logs = torch.log_softmax(network.forward_actor(batch), dim=1)
            loss = -(batch["wanted"] * logs).sum(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        yield (epoch + 1) * count
