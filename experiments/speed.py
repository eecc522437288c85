"""How fast the environments are, against CartPole-v1 in the same run: `ogs speed`.

On a busy machine rates mean little and ratios much: what is compared takes turns, some
rounds of a fraction of a second each, and a ratio is the median of the rounds'.
"""

import argparse
import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import performance

import ogs_env  # noqa: F401  (registers the ids)
from ogs_env.files import write_json
from ogs_env.learners.tables import tables_of

RESULT = Path(__file__).parent / "results" / "speed.json"
REFERENCE = "CartPole-v1"
# Whose native vectors are measured; those of other ids are the same class.
VECTOR_ID = "OGS-Medical-v0"
NUM_ENVS = (1, 16, 256, 1024)
SYNC_NUM_ENVS = (1, 16, 256)
STEP_TARGET = 1 / 3
NATIVE_TARGET_ENVS, NATIVE_TARGET = 256, 1.0
TRAIN_TARGET = 10.0
ROUNDS = 7
# A round of training is a rollout and its update, seconds long.
TRAIN_ROUNDS = 3
# Of measuring, all ratios together; making environments comes on top. A ratio with a
# target has so many times the share of one without.
SECONDS = {"quick": 22.0, "full": 240.0}
TARGET_SHARES = 4

# From seconds to a rate: how often a second.
Rate = Callable[[float], float]


@dataclass(frozen=True)
class Comparison:
    """Two rates to be measured in turns.

    Attributes:
        name: What is compared.
        ours, theirs: The rates.
        target: The least ratio that the project wants; None where there is none.
        rounds: How often they take turns.
    """

    name: str
    ours: Rate
    theirs: Rate
    target: float | None = None
    rounds: int = ROUNDS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ogs speed` to a parser."""
    parser.add_argument(
        "--quick",
        action="store_true",
        help="in less than 45 seconds; prints the ratios and writes no file",
    )
    parser.add_argument("--result", type=Path, default=RESULT, help="result file")


def run(arguments: argparse.Namespace) -> None:
    """Measure, and print one JSON line a ratio: name, ratio, target."""
    total = SECONDS["quick" if arguments.quick else "full"]
    barred = 1 + sum("Mixture" not in name for name in ids())
    share = total / (count() + (TARGET_SHARES - 1) * barred) / ROUNDS / 2
    found = []
    for comparison in comparisons():
        seconds = share * (TARGET_SHARES if comparison.target else 1)
        rounds = [
            (comparison.ours(seconds), comparison.theirs(seconds))
            for _ in range(comparison.rounds)
        ]
        ratios = sorted(ours / theirs for ours, theirs in rounds)
        line = {
            "name": comparison.name,
            "ratio": round(median(ratios), 4),
            "target": comparison.target and round(comparison.target, 4),
        }
        print(json.dumps(line), flush=True)
        rates = [round(median(rates)) for rates in zip(*rounds, strict=True)]
        found.append({**line, "rounds": [round(r, 4) for r in ratios], "rates": rates})
        print(
            f"ogs speed: {len(found)} of {count()}: {rates[0]:,} against {rates[1]:,} "
            f"a second, rounds from {ratios[0]:.3f} to {ratios[-1]:.3f}",
            file=sys.stderr,
        )
    if not arguments.quick:
        result = {"ratios": found, "reference": REFERENCE, "machine": _machine()}
        write_json(arguments.result, result)
        print(f"ogs speed: {arguments.result}", file=sys.stderr)


def ids() -> list[str]:
    """Return the registered ids but those that train a language model."""
    return [
        name
        for name, spec in gym.registry.items()
        if name.startswith("OGS-") and spec.kwargs.get("learner") != "live"
    ]


def count() -> int:
    """Return how many `comparisons` there are."""
    return 3 * len(ids()) + len(NUM_ENVS) + len(SYNC_NUM_ENVS) + 2


def comparisons() -> Iterator[Comparison]:
    """Make the environments and yield what is compared, one after the other."""

    def cartpole() -> gym.Env:
        return gym.make(REFERENCE)

    for name in ids():
        # The ids without a bundle of their own play Medical's.
        bundle = gym.spec(name).kwargs["bundle"] or "medical"

        def ours(name: str = name, bundle: str = bundle) -> gym.Env:
            return gym.make(name, bundle=bundle)

        # Not measured: reading the bundle, and the tables that the first pick makes.
        envs = ours(), cartpole()
        for env in envs:
            env.reset(seed=0)
            env.step(0)
        target = STEP_TARGET if "Mixture" not in name else None
        pair = f"{name} / {REFERENCE}"
        yield Comparison(f"make {pair}", _makes(ours), _makes(cartpole))
        yield Comparison(f"reset {pair}", _resets(envs[0]), _resets(envs[1]))
        yield Comparison(f"step {pair}", _steps(envs[0]), _steps(envs[1]), target)
    for num_envs in NUM_ENVS:
        native = _vector(VECTOR_ID, num_envs, "vector_entry_point")
        theirs = _vector(REFERENCE, num_envs, "vector_entry_point")
        target = NATIVE_TARGET if num_envs == NATIVE_TARGET_ENVS else None
        pair = f"{num_envs} environments of {VECTOR_ID} / {REFERENCE}"
        yield Comparison(f"native step {pair}", native, theirs, target)
        if target:
            yield Comparison(f"bound of native step {pair}", _least(num_envs), theirs)
        if num_envs in SYNC_NUM_ENVS:
            theirs = _vector(VECTOR_ID, num_envs, "sync")
            pair = f"{num_envs} environments of {VECTOR_ID}"
            yield Comparison(f"native / sync step {pair}", native, theirs)
    yield _training()


def _training() -> Comparison:
    """Compare `ogs train` with the usual way: SB3's PPO in one environment."""
    import torch
    from stable_baselines3 import PPO

    from ogs_env.agents.training import TrainSettings, new_model

    torch.set_num_threads(1)
    settings = TrainSettings(env=VECTOR_ID)
    usual = PPO("MultiInputPolicy", gym.make(VECTOR_ID), device="cpu", seed=0)
    name = f"train steps of {VECTOR_ID}, ogs train / SB3 with one environment"
    ours, theirs = _learned(new_model(settings)), _learned(usual)
    return Comparison(name, ours, theirs, TRAIN_TARGET, TRAIN_ROUNDS)


def _learned(model: Any) -> Rate:
    """Return how many environment steps a second a model learns from."""

    def rate(seconds: float) -> float:
        before, began = model.num_timesteps, time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds or spent < 1e-3:
            model.learn(1, reset_num_timesteps=False)  # a whole rollout
        return (model.num_timesteps - before) / spent

    return rate


def _makes(make: Callable[[], gym.Env]) -> Rate:
    """Return how often a second an environment is made and reset."""
    benchmark: Any = performance.benchmark_init  # typed as if seconds were whole
    return lambda seconds: benchmark(make, seconds, seed=0)


def _resets(env: gym.Env) -> Rate:
    def rate(seconds: float) -> float:
        env.reset(seed=0)
        resets, began = 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds:
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


def _least(num_envs: int) -> Rate:
    """Return how often a second a step is made of what none can do without.

    That is to read what the learner adds for the samples picked, a row of products
    with every dev and anchor sample, and to hand out observations that are not
    overwritten later: two calls of NumPy, without deals, rewards or infos.
    """
    envs: Any = gym.make_vec(VECTOR_ID, num_envs)
    observations, _ = envs.reset(seed=0)
    pool, effects = (
        len(envs.single.bundle.pool),
        tables_of(envs.single.bundle).reward_effects,
    )
    picks = np.random.default_rng(0).integers(pool, size=(64, num_envs))

    def rate(seconds: float) -> float:
        steps, began = 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds:
            effects.rows(picks[steps % len(picks)])
            for values in observations.values():
                values.copy()
            steps += 1
        return steps * num_envs / spent

    return rate


def _machine() -> dict[str, str]:
    names = ("gymnasium", "numpy")
    found = {name: importlib.metadata.version(name) for name in names}
    return {
        "processor": _processor(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **found,
    }


def _processor() -> str:
    """Return the processor's name, where the system tells it."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor()
