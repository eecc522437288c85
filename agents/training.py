"""Train a Navigator: with PPO, or by imitation."""

import copy
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
from tqdm import tqdm

from ogs_env.agents.episodes import (
    CHOICE_SEEDS,
    is_native,
    make,
    make_together,
    play_together,
)
from ogs_env.agents.imitation import PACING_MARGIN, collect, fit
from ogs_env.agents.lagrangian import CostLimit
from ogs_env.agents.navigator import (
    DESCRIPTION,
    Navigator,
    build_network,
    one_thread,
)
from ogs_env.agents.network import (
    MaskableNavigatorPolicy,
    NavigatorPolicy,
    Network,
)
from ogs_env.agents.progress import (
    FILE,
    Progress,
    moments,
    read_progress,
    restore_moments,
)
from ogs_env.agents.vec_env import SelectionVecEnv
from ogs_env.envs.mixture import MixtureEnv
from ogs_env.envs.selection import SelectionEnv
from ogs_env.errors import InputError, unknown_name
from ogs_env.files import read_json

ALGORITHMS = {
    "maskable-ppo": (MaskablePPO, MaskableNavigatorPolicy),
    "ppo": (PPO, NavigatorPolicy),
}
IMITATION = "imitation"
# SB3's own epsilon; fused, as most of a step on so small a network is overhead.
_ADAM = {"eps": 1e-5, "fused": True}
_INFO_KEYWORDS = ("cost",)
# How far above its limit the mean cost of evaluated episodes may be.
_COST_TOLERANCE = 0.05


@dataclass(frozen=True)
class TrainSettings:
    """What a training run needs; the defaults suit the shipped environments.

    Attributes:
        env: Id of the environment.
        env_kwargs: Its arguments, without `split`.
        algorithm: `"ppo"` (Stable-Baselines3) or `"maskable-ppo"` (sb3-contrib), which
            is slower and learns the same: the Navigator knows the empty places from
            the observation, and never picks from them. `"imitation"` plays no PPO: it
            imitates the hindsight oracle in domains drawn from the pool, for agents
            that move to other domains; see `ogs_env.agents.imitation`. Of the
            settings below it knows `width`, `oracle_episodes`, `evaluation_episodes`.
        seed: Of everything random: weights, exploration, episodes.
        seconds: Train at most this long, evaluations included; None: no limit.
        steps: Train at most this many environment steps; None: no limit. With
            steps and without seconds a run is repeatable to the last bit.
        n_envs: Copies of the environment that play side by side.
        n_steps: Steps of each copy between two updates.
        batch_size: Steps in a minibatch.
        n_epochs: Passes over a rollout.
        learning_rate: Adam's at the start; falls linearly to a twentieth.
        gamma: Of future rewards; episodes are short and end by themselves.
        gae_lambda: Lambda of generalised advantage estimation (Schulman et al. 2016).
        clip_range: PPO's clip range.
        ent_coef: Weight of the entropy bonus at the start; falls as the rate does.
        width: Units of the network's hidden layers.
        oracle_episodes: What imitation learns from.
        cost_limit: Of an episode's mean cost, the sum of `info["cost"]`; None: no
            limit. See `ogs_env.agents.lagrangian`.
        multiplier_rate: What the multiplier of the cost gains at most by an
            evaluation: it follows what the policy costs as it is deployed, without
            chance and on candidates that it does not learn from.
    """

    env: str = "OGS-Medical-v0"
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    algorithm: str = "ppo"
    seed: int = 0
    seconds: float | None = 150.0
    steps: int | None = None
    n_envs: int = 128
    n_steps: int = 16
    batch_size: int = 512
    n_epochs: int = 1
    learning_rate: float = 3e-3
    gamma: float = 1.0
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    ent_coef: float = 0.1
    width: int = 64
    oracle_episodes: int = 1200
    cost_limit: float | None = None
    multiplier_rate: float = 0.3
    evaluations: int = 8
    evaluation_episodes: int = 48

    def __post_init__(self) -> None:
        if self.seconds is None and self.steps is None:
            raise InputError("training needs a limit: give seconds, steps or both")
        if self.seconds is not None and not self.seconds > 0:
            raise InputError(f"seconds is {self.seconds}, expected a positive number")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps is {self.steps}, expected at least 1")
        known = [*ALGORITHMS, IMITATION]
        if self.algorithm not in known:
            raise unknown_name("algorithm", self.algorithm, known)
        if self.algorithm == IMITATION and self.cost_limit is not None:
            raise InputError("cost_limit: is kept by ppo or maskable-ppo alone")
        if self.oracle_episodes < 1:
            raise InputError(
                f"oracle_episodes is {self.oracle_episodes}, expected at least 1"
            )
        if self.cost_limit is not None and not self.cost_limit > 0:
            raise InputError(f"cost_limit is {self.cost_limit}, expected more than 0")


def rank(settings: TrainSettings, point: dict[str, float]) -> tuple[bool, float]:
    """Return what is higher for a better evaluation: one that keeps the limit first."""
    limit = settings.cost_limit
    kept = limit is None or point["cost"] <= limit * (1 + _COST_TOLERANCE)
    return kept, point["return"] if kept else -point["cost"]


class Clock:
    """How much of a run's limits is spent, from 0 to 1."""

    def __init__(
        self, seconds: float | None, steps: int | None, before: float = 0.0
    ) -> None:
        self.seconds = seconds
        self.steps = steps
        self.started = time.monotonic() - before

    def spent(self, steps: int) -> float:
        """Return the larger spent part of the two limits after `steps` steps."""
        parts = [0.0]
        if self.steps is not None:
            parts.append(steps / self.steps)
        if self.seconds is not None:
            parts.append((time.monotonic() - self.started) / self.seconds)
        return min(max(parts), 1.0)


class _Quiet(gym.Wrapper):
    """Drop most of info, which SB3's vector environment would copy at every step."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(int(action))
        return observation, reward, terminated, truncated, {"cost": info["cost"]}

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(**kwargs)[0], {}


class TrainingCallback(BaseCallback):
    """Keep the time, lower the rates, evaluate now and then, keep the best."""

    def __init__(
        self,
        settings: TrainSettings,
        clock: Clock,
        limit: CostLimit | None,
        folder: Path | None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.clock = clock
        self.limit = limit
        self.folder = folder
        self.curve: list[dict[str, float]] = []
        self.best: dict[str, torch.Tensor] = {}
        self.best_at: dict[str, float] = {}
        self.bar = tqdm(total=100, unit="%", desc="training", leave=False)

    def _on_rollout_start(self) -> None:
        spent = self.clock.spent(self.num_timesteps)
        model: Any = self.model
        model.ent_coef = self.settings.ent_coef * (1 - spent)
        self.bar.update(round(100 * spent) - self.bar.n)
        if spent * self.settings.evaluations >= len(self.curve) + 1:
            self.evaluate()
            self._keep()

    def _on_step(self) -> bool:
        seconds = self.clock.seconds
        return seconds is None or time.monotonic() - self.clock.started < seconds

    def evaluate(self) -> None:
        """Play the choosing episodes; remember the weights if they are the best."""
        network: Any = self.model.policy.mlp_extractor
        point = _evaluated(self.settings, network, self.num_timesteps)
        if self.limit:
            point["multiplier"] = self.limit.multiplier
            point["training_cost"] = self.limit.mean_cost()
            self.limit.ascend(point["cost"])
        self.curve.append(point)
        shown = {name: f"{value:.3g}" for name, value in point.items()}
        self.bar.set_postfix({**shown, "steps": self.num_timesteps})
        found = rank(self.settings, point)
        if not self.best or found > rank(self.settings, self.best_at):
            self.best_at = point
            self.best = copy.deepcopy(network.state_dict())

    def _keep(self) -> None:
        """Keep what a stopped run needs to go on from here."""
        scale = self.model.get_env()
        if self.folder is None or not isinstance(scale, VecNormalize):
            return
        statistics = scale.ret_rms
        Progress(
            settings=asdict(self.settings),
            steps=self.num_timesteps,
            seconds=time.monotonic() - self.clock.started,
            curve=self.curve,
            best_at=self.best_at,
            reward_scale=[
                float(x) for x in (statistics.mean, statistics.var, statistics.count)
            ],
            multiplier=self.limit.multiplier if self.limit else 0.0,
            policy=self.model.policy.state_dict(),
            best=self.best,
            optimizer=moments(self.model.policy.optimizer),
        ).write(self.folder)


def train(
    settings: TrainSettings,
    folder: Path | None = None,
    callbacks: Sequence[BaseCallback] = (),
    tensorboard: Path | None = None,
) -> Navigator:
    """Train a Navigator and, given a folder, save it there once it is whole.

    PPO (Schulman et al. 2017) with invalid actions masked (Huang and Ontanon
    2022), on the environment's train split. Several times in a run the model plays
    fixed episodes of the test split; the best one is kept, under a cost limit the
    best of those that keep it. A run that was stopped goes on from the last of these
    evaluations when it is called again with the same settings and folder; its episodes
    are then others.

    SB3 seeds the global generators of Python, NumPy and torch with the run's seed.

    Args:
        settings: See `TrainSettings`.
        folder: Where to save; an agent there is replaced at the end of the run.
        callbacks: SB3's, called beside the trainer's own; it evaluates before them.
            Imitation has none.
        tensorboard: Folder for SB3's tensorboard log; none is written without.

    Returns:
        The trained agent; `description["training"]` sums the run up.

    Raises:
        InputError: If a setting is out of range or the environment is unknown.
    """
    with one_thread():
        if settings.algorithm == IMITATION:
            if callbacks:
                raise InputError(
                    "algorithm: 'imitation' is neither logged nor swept; expected ppo "
                    "or maskable-ppo with --wandb and `ogs sweep`"
                )
            agent = _imitated(settings)
        else:
            agent = _train(settings, folder, callbacks, tensorboard)
    if folder is not None:
        agent.save(folder)
        (folder / FILE).unlink(missing_ok=True)
    return agent


def is_trained(settings: TrainSettings, folder: Path) -> bool:
    """Say whether a folder holds the agent that `train` makes with these settings."""
    file = folder / DESCRIPTION
    if not file.exists():
        return False
    known: bool = read_json(file, "agent")["settings"] == asdict(settings)
    return known


def _train(
    settings: TrainSettings,
    folder: Path | None,
    callbacks: Sequence[BaseCallback],
    tensorboard: Path | None,
) -> Navigator:
    earlier = read_progress(folder, asdict(settings)) if folder else None
    clock = Clock(settings.seconds, settings.steps, earlier.seconds if earlier else 0.0)
    single = make(settings.env, settings.env_kwargs)
    # Callbacks may look at all of the infos, the trainer at the cost alone.
    info_keywords = None if callbacks else _INFO_KEYWORDS
    limit, environments = _environments(settings, info_keywords)
    callback = TrainingCallback(settings, clock, limit, folder)

    def rate(_: float) -> float:
        spent = clock.spent(callback.num_timesteps)
        return settings.learning_rate * max(1 - spent, 0.05)

    model = _model(settings, environments, rate, tensorboard)
    if earlier:
        callback.bar.write(
            f"{folder}: going on after {earlier.steps:,} steps", file=sys.stderr
        )
        model.num_timesteps = callback.num_timesteps = earlier.steps
        model.policy.load_state_dict(earlier.policy)
        restore_moments(model.policy.optimizer, earlier.optimizer)
        scale = environments.ret_rms
        mean, variance, scale.count = earlier.reward_scale
        scale.mean, scale.var = np.asarray(mean), np.asarray(variance)
        callback.curve, callback.best_at = earlier.curve, earlier.best_at
        callback.best = earlier.best
        if limit:
            limit.multiplier = earlier.multiplier
    left = (settings.steps or 10**12) - model.num_timesteps
    with callback.bar:
        model.learn(
            left,
            callback=[callback, *callbacks],
            log_interval=1 if tensorboard else 10**9,
            reset_num_timesteps=not earlier,
        )
        callback.evaluate()
    network = model.policy.mlp_extractor
    network.load_state_dict(callback.best)
    environments.close()
    seconds = time.monotonic() - clock.started
    return _agent(settings, single, network, seconds, callback.best_at, callback.curve)


def _imitated(settings: TrainSettings) -> Navigator:
    """Train by imitation; of its epochs the best on the choosing episodes is kept."""
    started = time.monotonic()
    rng = np.random.default_rng(settings.seed)
    single = make(settings.env, settings.env_kwargs)

    def other(**changes: Any) -> gym.Env:
        kwargs = {**settings.env_kwargs, **changes, "split": "train"}
        return make(settings.env, kwargs)

    examples = collect(other, settings.oracle_episodes, rng)
    row, context = (examples[name].shape[-1] for name in ("candidates", "context"))
    network = build_network(row, context, settings.width, True, settings.seed)
    curve: list[dict[str, float]] = []
    for steps in fit(network, examples, torch.Generator().manual_seed(settings.seed)):
        curve.append(_evaluated(settings, network, steps))
        kept = max(curve, key=lambda point: rank(settings, point))
        if kept is curve[-1]:
            best = copy.deepcopy(network.state_dict())
    network.load_state_dict(best)
    seconds = time.monotonic() - started
    return _agent(settings, single, network, seconds, kept, curve)


def _evaluated(
    settings: TrainSettings, network: Network, steps: int
) -> dict[str, float]:
    """Play the choosing episodes; return mean return and cost after so many steps."""
    returns, costs = play_together(
        settings.env,
        {**settings.env_kwargs, "split": "test"},
        Navigator(network, _manner(settings)),
        CHOICE_SEEDS[: settings.evaluation_episodes],
    )
    means = {"return": float(returns.mean()), "cost": float(costs.mean())}
    return {"steps": steps, **means}


def _manner(settings: TrainSettings) -> dict[str, float]:
    """Return what the description tells of how the agent plays."""
    return {"pacing_margin": PACING_MARGIN} if settings.algorithm == IMITATION else {}


def _agent(
    settings: TrainSettings,
    single: gym.Env,
    network: Network,
    seconds: float,
    kept: dict[str, float],
    curve: list[dict[str, float]],
) -> Navigator:
    """Return what was trained, with its description."""
    description = {
        **described(single),
        **_manner(settings),
        "settings": asdict(settings),
        "training": {
            "steps": curve[-1]["steps"],
            "seconds": round(seconds, 1),
            "kept": kept,
            "curve": curve,
        },
    }
    single.close()
    return Navigator(network, description)


def new_model(settings: TrainSettings) -> Any:
    """Return an untrained SB3 model with its environments, as `train` begins with."""
    environments = _environments(settings, _INFO_KEYWORDS)[1]
    return _model(settings, environments, lambda _: settings.learning_rate, None)


def _environments(
    settings: TrainSettings, info_keywords: Sequence[str] | None
) -> tuple[CostLimit | None, VecNormalize]:
    kwargs = {**settings.env_kwargs, "split": "train"}
    copies = _copies(settings.env, kwargs, settings.n_envs, info_keywords)
    limit = None
    if settings.cost_limit is not None:
        limit = CostLimit(copies, settings.cost_limit, settings.multiplier_rate)
    return limit, VecNormalize(limit or copies, norm_obs=False, gamma=settings.gamma)


def _model(
    settings: TrainSettings,
    environments: VecEnv,
    learning_rate: Callable[[float], float],
    tensorboard: Path | None,
) -> Any:
    algorithm, policy_class = ALGORITHMS[settings.algorithm]
    return algorithm(
        policy_class,
        environments,
        learning_rate=learning_rate,
        n_steps=settings.n_steps,
        batch_size=settings.batch_size,
        n_epochs=settings.n_epochs,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        clip_range=settings.clip_range,
        policy_kwargs={"width": settings.width, "optimizer_kwargs": _ADAM},
        tensorboard_log=None if tensorboard is None else str(tensorboard),
        seed=settings.seed,
        device="cpu",
    )


def described(environment: gym.Env) -> dict[str, Any]:
    """Return what an agent's description says of its environment.

    Raises:
        InputError: If it is neither a `SelectionEnv` nor a `MixtureEnv`.
    """
    inner = environment.unwrapped
    counts: dict[str, int]
    if isinstance(inner, SelectionEnv):
        counts = {
            "slate_size": inner.slate_size,
            "num_slates": inner.num_slates,
            "budget": inner.budget,
        }
    elif isinstance(inner, MixtureEnv):
        clusters = len(inner.left)
        counts = {"clusters": clusters, "batch": inner.batch, "steps": inner.steps}
    else:
        raise InputError(f"{environment}: expected a SelectionEnv or a MixtureEnv")
    return {
        "bundle": inner.bundle.name,
        "space": inner.bundle.space,
        "environment": {"id": inner.spec.id if inner.spec else "", **counts},
        "reward_weights": inner.reward_weights,
    }


def _copies(
    env: str, kwargs: dict[str, Any], count: int, info_keywords: Sequence[str] | None
) -> VecEnv:
    """Make copies of an environment that play side by side, natively if they can."""
    if is_native(env, kwargs):
        return SelectionVecEnv(make_together(env, kwargs, count), info_keywords)
    return DummyVecEnv([lambda: _Quiet(make(env, kwargs))] * count)
