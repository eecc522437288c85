"""Imitation of the hindsight oracle (behavioural cloning, Pomerleau 1989).

In training the reward and the whole stream are known, so for every episode the
candidates can be computed that greedy selection with hindsight picks
(`ogs_env.agents.baselines.oracle`). The agent learns to pick those from its own
observations, in less time than with PPO.
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Logger
from tqdm import tqdm

from ogs_env.agents.baselines.oracle import OracleSelector
from ogs_env.agents.callback import tell_evaluation
from ogs_env.agents.checkpoints import Checkpoints
from ogs_env.agents.episodes import make
from ogs_env.agents.navigator import Navigator, build_network
from ogs_env.agents.network import Network
from ogs_env.agents.settings import ImitationSettings
from ogs_env.envs.selection import SelectionEnv
from ogs_env.errors import InputError

EPOCHS = 6
BATCH = 1024
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-3

Examples = dict[str, torch.Tensor]


def imitate(settings: ImitationSettings, logger: Logger | None = None) -> Navigator:
    """Train on the train split; return the best agent of the evaluations.

    The network is evaluated after each epoch. No global generator is changed.

    Args:
        settings: Settings of the run.
        logger: Logger of SB3 for the loss of each minibatch, and for evaluations.

    Raises:
        InputError: If the environment is unknown, is no `SelectionEnv` or one of its
            arguments is wrong.
    """
    started = time.monotonic()
    rng = np.random.default_rng(settings.seed)
    env = make(settings.env, {**settings.env_kwargs, "split": "train"}).unwrapped
    if not isinstance(env, SelectionEnv):
        raise InputError(f"imitation: {env}; expected a SelectionEnv")
    examples = collect(env, settings.oracle_episodes, rng)
    row, context = (examples[name].shape[-1] for name in ("candidates", "context"))
    network = build_network(row, context, settings.width, True, settings.seed)
    checkpoints = Checkpoints(settings)
    generator = torch.Generator().manual_seed(settings.seed)
    logger = logger or Logger(folder=None, output_formats=[])
    for examples_seen in fit(network, examples, generator, logger):
        checkpoints.evaluate(network, examples_seen)
        tell_evaluation(checkpoints, logger, "examples")
    agent = checkpoints.best_agent(network, env, time.monotonic() - started)
    env.close()
    return agent


def collect(env: SelectionEnv, episodes: int, rng: np.random.Generator) -> Examples:
    """Run the oracle; return its observations and the actions to imitate.

    In each slate the oracle's picks are taken in random order, then the slate is
    skipped.

    Args:
        env: The environment for training.
        episodes: Number of episodes.
        rng: Generator of episodes and of the order of picks.

    Returns:
        float32 tensors: the observations `candidates` (n, slate_size, row) and
        `context` (n, context), and `targets` (n, slate_size + 1), the target
        probabilities of the actions.
    """
    oracle = OracleSelector(env.reward_weights)
    columns: dict[str, list[Any]] = {"candidates": [], "context": [], "targets": []}
    for _ in tqdm(range(episodes), desc="oracle", unit="episode", leave=False):
        observation, _ = env.reset(seed=int(rng.integers(2**31)))
        plan = oracle.select(env.bundle, env.budget, rng, env.stream)[0]
        done = False
        while not done:
            targets = np.append(np.isin(env.slate, plan), False)
            targets[-1] = not targets.any()
            columns["candidates"].append(observation["candidates"].astype(np.float16))
            columns["context"].append(observation["context"])
            columns["targets"].append(targets / targets.sum())
            action = rng.choice(np.flatnonzero(targets))
            observation, _, done, _, _ = env.step(action)
    return {
        name: torch.from_numpy(np.stack(values).astype(np.float32))
        for name, values in columns.items()
    }


def fit(
    network: Network, examples: Examples, generator: torch.Generator, logger: Logger
) -> Iterator[int]:
    """Train the actor of a network; the critic is not changed.

    Minimises the cross-entropy with the target probabilities by AdamW (Loshchilov and
    Hutter 2019), with a one-cycle learning rate (Smith and Topin 2017).

    Args:
        network: The network to train.
        examples: The examples of `collect`.
        generator: Generator of the minibatches.
        logger: Logger for the loss of each minibatch, `train/loss`.

    Yields:
        After each epoch, the number of examples so far.
    """
    count = len(examples["targets"])
    optimizer = torch.optim.AdamW(
        network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=EPOCHS * -(-count // BATCH)
    )
    # In a file, instead of a terminal, the lines of evaluations are enough.
    bar = tqdm(range(EPOCHS), desc="imitation", unit="epoch", leave=False, disable=None)
    for epoch in bar:
        order = torch.randperm(count, generator=generator)
        for place, rows in enumerate(order.split(BATCH), start=1):
            batch = {name: values[rows] for name, values in examples.items()}
            logs = torch.log_softmax(network.forward_actor(batch), dim=1)
            loss = -(batch["targets"] * logs).sum(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            logger.record("train/loss", loss.item())
            logger.dump(min(epoch * count + place * BATCH, (epoch + 1) * count))
        yield (epoch + 1) * count
