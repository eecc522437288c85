"""Imitation of the hindsight oracle (behavioural cloning, Pomerleau 1989).

In training the reward and the whole stream are known, so for every episode the
candidates can be computed that greedy selection with hindsight picks
(`ogs_env.agents.baselines.oracle`). The agent learns to pick those from its own
observations. This takes less time than PPO and works with many sampled tasks at once,
for which PPO's gradients are too noisy.

Three measures help the agent to transfer to other bundles:

- Sampled tasks use the off-domain trajectory if the bundle has one. The effect of a
  sample depends on the earlier training of the model, so the agent needs examples from
  more than one trajectory.
- The imitated plan gives general abilities less weight than the reward does. What
  reference answers gain in these abilities comes from updates that cancel along the
  bundle's trajectory, and the initial sketches do not show that.
- The agent paces its spending (`PACING_MARGIN`). In a new domain all candidates can
  look better than those of the training; without pacing it would spend its budget on
  the first slates.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from tqdm import tqdm

from ogs_env.agents.baselines.oracle import OracleSelector
from ogs_env.agents.checkpoints import Checkpoints
from ogs_env.agents.episodes import make
from ogs_env.agents.navigator import Navigator, build_network
from ogs_env.agents.network import Network
from ogs_env.agents.settings import ImitationSettings
from ogs_env.envs.selection import SelectionEnv
from ogs_env.errors import InputError
from ogs_env.sampled_task import POOL

PACING_MARGIN = 1 / 8
"""Largest difference of the spent share of the budget and the dealt share of slates."""

EPOCHS = 6
BATCH = 1024
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-3
# Factor of the oracle's weights of general abilities, `anchor_gain` and `forgetting`.
# A lower one transfers better to bundles where the domain matters more, a higher one to
# bundles where those abilities do.
_ANCHOR = 0.6
# One in this many tasks is the bundle's own domain.
_OWN_EVERY = 8
# Range of the budgets in sampled tasks, as shares of the stream.
_BUDGETS = 0.09, 0.4
# Episodes of a task: sampling a task takes longer than running an episode.
_EPISODES = 2

Examples = dict[str, torch.Tensor]


def imitate(settings: ImitationSettings) -> Navigator:
    """Train on the train split; return the best agent of the evaluations.

    The network is evaluated after each epoch. No global generator is changed.

    Raises:
        InputError: If the environment is unknown, is no `SelectionEnv` or one of its
            arguments is wrong.
    """
    started = time.monotonic()
    rng = np.random.default_rng(settings.seed)
    environment = make(settings.env, settings.env_kwargs)

    def make_variant(**changes: Any) -> gym.Env:
        kwargs = {**settings.env_kwargs, **changes, "split": "train"}
        return make(settings.env, kwargs)

    examples = collect(make_variant, settings.oracle_episodes, rng)
    row, context = (examples[name].shape[-1] for name in ("candidates", "context"))
    network = build_network(row, context, settings.width, True, settings.seed)
    checkpoints = Checkpoints(settings, {"pacing_margin": PACING_MARGIN})
    generator = torch.Generator().manual_seed(settings.seed)
    for examples_seen in fit(network, examples, generator):
        checkpoints.evaluate(network, examples_seen)
    agent = checkpoints.best_agent(network, environment, time.monotonic() - started)
    environment.close()
    return agent


def collect(
    make_variant: Callable[..., gym.Env], episodes: int, rng: np.random.Generator
) -> Examples:
    """Run the oracle; return its observations and the actions to imitate.

    In each slate the oracle's picks are taken in random order, then the slate is
    skipped. Seven of eight tasks are sampled, with streams of the environment's length
    or half of it and budgets of 9 to 40 % of the stream; the others are the
    environment's own.

    Args:
        make_variant: Makes the training environment, a `SelectionEnv`, with the keyword
            arguments that are changed.
        episodes: Number of episodes.
        rng: Generator of tasks, episodes and the order of picks.

    Returns:
        float32 tensors: the observations `candidates` (n, slate_size, row) and
        `context` (n, context), and `targets` (n, slate_size + 1), the target
        probabilities of the actions.

    Raises:
        InputError: If the environment is no `SelectionEnv`, or no task can be sampled
            from its pool.
    """
    own = make_variant().unwrapped
    if not isinstance(own, SelectionEnv):
        raise InputError(f"imitation: {own}; expected a SelectionEnv")
    columns: dict[str, list[Any]] = {"candidates": [], "context": [], "targets": []}
    env = own
    for episode in tqdm(range(episodes), desc="oracle", unit="episode", leave=False):
        if episode % _EPISODES == 0:
            is_own = episode // _EPISODES % _OWN_EVERY == 0
            env = own if is_own else _sampled_task(make_variant, own, rng)
        _run_oracle(env, rng, columns)
    return {
        name: torch.from_numpy(np.stack(values).astype(np.float32))
        for name, values in columns.items()
    }


def _sampled_task(
    make_variant: Callable[..., gym.Env], own: SelectionEnv, rng: np.random.Generator
) -> SelectionEnv:
    """Make an environment of a sampled task."""
    most = min(own.num_slates, POOL // own.slate_size)
    num_slates = max(most // int(rng.choice([1, 2])), 1)
    budget = round(rng.uniform(*_BUDGETS) * num_slates * own.slate_size)
    task_seed = int(rng.integers(2**31))
    env = make_variant(
        task_seed=task_seed, num_slates=num_slates, budget=max(budget, 1)
    ).unwrapped
    assert isinstance(env, SelectionEnv)
    return env


def _run_oracle(
    env: SelectionEnv, rng: np.random.Generator, columns: dict[str, list[Any]]
) -> None:
    """Run an episode of the oracle; append its examples to the columns."""
    observation, _ = env.reset(seed=int(rng.integers(2**31)))
    weights = dict(env.reward_weights)
    for name in ("anchor_gain", "forgetting"):
        weights[name] *= _ANCHOR
    oracle = OracleSelector(weights)
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


def fit(
    network: Network, examples: Examples, generator: torch.Generator
) -> Iterator[int]:
    """Train the actor of a network; the critic is not changed.

    Minimises the cross-entropy with the target probabilities by AdamW (Loshchilov and
    Hutter 2019), with a one-cycle learning rate (Smith and Topin 2017).

    Args:
        network: The network to train.
        examples: The examples of `collect`.
        generator: Generator of the minibatches.

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
    for epoch in tqdm(range(EPOCHS), desc="imitation", unit="epoch", leave=False):
        order = torch.randperm(count, generator=generator)
        for rows in order.split(BATCH):
            batch = {name: values[rows] for name, values in examples.items()}
            logs = torch.log_softmax(network.forward_actor(batch), dim=1)
            loss = -(batch["targets"] * logs).sum(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        yield (epoch + 1) * count
