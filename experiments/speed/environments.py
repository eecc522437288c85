"""Environments compared with CartPole-v1, and training with Stable-Baselines3's."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import performance

import ogs_env  # noqa: F401  (registers the ids)
from ogs_env.experiments.speed.comparison import (
    ROUNDS,
    Comparison,
    Finding,
    Rate,
)
from ogs_env.experiments.speed.settings import Settings
from ogs_env.learners.tables import tables_of

REFERENCE = "CartPole-v1"
# Ids whose vector environments are measured; other domains have the same classes.
SELECTION_ID, MIXTURE_ID = "OGS-Medical-v0", "OGS-Medical-Mixture-v0"
NUM_ENVS = (1, 16, 256, 1024)
SYNC_NUM_ENVS = (1, 16, 256)
QUICK_NUM_ENVS = (16, 256)
# Sub-environments of the step that does only the indispensable.
BOUND_ENVS = 256
# A round of training is a rollout with its update, which takes seconds.
TRAIN_ROUNDS = ROUNDS


def findings(settings: Settings) -> Iterator[Finding]:
    """Create the environments and yield the comparisons one by one."""
    for name in ids():
        if not settings.quick or name in (SELECTION_ID, MIXTURE_ID):
            yield from _single(name)
    for num_envs in QUICK_NUM_ENVS if settings.quick else NUM_ENVS:
        cartpole = _vector(REFERENCE, num_envs, "vector_entry_point")
        for name in (SELECTION_ID, MIXTURE_ID):
            native = _vector(name, num_envs, "vector_entry_point")
            pair = f"{num_envs} environments of {name}"
            title = f"native step {pair} / {REFERENCE}"
            yield Comparison(title, native, cartpole, "steps")
            if num_envs in SYNC_NUM_ENVS:
                theirs = _vector(name, num_envs, "sync")
                title = f"native / sync step {pair}"
                yield Comparison(title, native, theirs, "steps")
    cartpole = _vector(REFERENCE, BOUND_ENVS, "vector_entry_point")
    title = f"bound of native step {BOUND_ENVS} environments of {SELECTION_ID}"
    bound = _lower_bound(BOUND_ENVS)
    yield Comparison(f"{title} / {REFERENCE}", bound, cartpole, "steps")
    yield _training()


def ids() -> list[str]:
    """Return the registered ids without those that train a language model."""
    return [
        name
        for name, spec in gym.registry.items()
        if name.startswith("OGS-") and spec.kwargs.get("learner") != "live"
    ]


def _single(name: str) -> Iterator[Comparison]:
    """Compare creating, resetting and stepping an environment with CartPole's."""
    # Ids without a bundle use Medical's.
    bundle = gym.spec(name).kwargs["bundle"] or "medical"

    def ours() -> gym.Env:
        return gym.make(name, bundle=bundle)

    def cartpole() -> gym.Env:
        return gym.make(REFERENCE)

    # Not measured: reading the bundle, and the tables that the first pick computes.
    envs = ours(), cartpole()
    for env in envs:
        env.reset(seed=0)
        env.step(0)
    pair = f"{name} / {REFERENCE}"
    yield Comparison(f"make {pair}", _makes(ours), _makes(cartpole), "environments")
    yield Comparison(f"reset {pair}", _resets(envs[0]), _resets(envs[1]), "resets")
    yield Comparison(f"step {pair}", _steps(envs[0]), _steps(envs[1]), "steps")


def _training() -> Comparison:
    """Compare `ogs train` with the default of SB3: PPO in one environment."""
    import torch
    from stable_baselines3 import PPO

    from ogs_env.agents.training import TrainSettings, new_model

    torch.set_num_threads(1)
    settings = TrainSettings(env=SELECTION_ID)
    default = PPO("MultiInputPolicy", gym.make(SELECTION_ID), device="cpu", seed=0)
    name = f"train steps of {SELECTION_ID}, ogs train / SB3 with one environment"
    ours, theirs = _learned(new_model(settings)), _learned(default)
    return Comparison(name, ours, theirs, "steps", TRAIN_ROUNDS)


def _learned(model: Any) -> Rate:
    """Return a model's training speed in environment steps per second."""

    def rate(seconds: float) -> float:
        before, start = model.num_timesteps, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds or spent < 1e-3:
            model.learn(1, reset_num_timesteps=False)  # a whole rollout
        return (model.num_timesteps - before) / spent

    return rate


def _makes(make: Callable[[], gym.Env]) -> Rate:
    """Return the rate of creating and resetting an environment."""
    benchmark: Any = performance.benchmark_init  # annotated with integer seconds
    return lambda seconds: benchmark(make, seconds, seed=0)


def _resets(env: gym.Env) -> Rate:
    def rate(seconds: float) -> float:
        env.reset(seed=0)
        resets, start = 0, time.perf_counter()
        while not resets or (spent := time.perf_counter() - start) < seconds:
            env.reset()
            resets += 1
        return resets / spent

    return rate


def _steps(env: gym.Env) -> Rate:
    benchmark: Any = performance.benchmark_step
    return lambda seconds: benchmark(env, seconds, seed=0)


def _vector(name: str, num_envs: int, mode: str) -> Rate:
    envs = gym.make_vec(name, num_envs, vectorization_mode=mode)
    benchmark: Any = performance.benchmark_vector_step
    return lambda seconds: benchmark(envs, seconds, seed=0)


def _lower_bound(num_envs: int) -> Rate:
    """Return the rate of steps that do only the indispensable work.

    This reads the learner's update for the picked samples, a row of products with every
    dev and anchor sample, and copies the observations: two NumPy calls, without new
    slates, rewards or infos.
    """
    envs: Any = gym.make_vec(SELECTION_ID, num_envs)
    observations, _ = envs.reset(seed=0)
    pool, effects = (
        len(envs.single.bundle.pool),
        tables_of(envs.single.bundle).reward_effects,
    )
    picks = np.random.default_rng(0).integers(pool, size=(64, num_envs))

    def rate(seconds: float) -> float:
        steps, start = 0, time.perf_counter()
        while not steps or (spent := time.perf_counter() - start) < seconds:
            effects.rows(picks[steps % len(picks)])
            for values in observations.values():
                values.copy()
            steps += 1
        return steps * num_envs / spent

    return rate
