"""The command `ogs speed`: measure the environments' speed relative to CartPole-v1.

On a busy machine ratios are more reliable than rates: the two sides of a comparison
alternate in rounds of a fraction of a second, and the ratio is the median over rounds.
"""

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
from ogs_env.files import check_writable, write_json
from ogs_env.learners.tables import tables_of

RESULT = Path(__file__).parent / "results" / "speed.json"
REFERENCE = "CartPole-v1"
# Id whose native vector environment is measured; other ids have the same class.
VECTOR_ID = "OGS-Medical-v0"
NUM_ENVS = (1, 16, 256, 1024)
SYNC_NUM_ENVS = (1, 16, 256)
STEP_TARGET = 1 / 3
NATIVE_TARGET_ENVS, NATIVE_TARGET = 256, 1.0
TRAIN_TARGET = 10.0
ROUNDS = 7
# A round of training is a rollout with its update, which takes seconds.
TRAIN_ROUNDS = 3
# Total time of the measurements, without creating environments. A ratio with a target
# gets `TARGET_SHARES` times the time of one without.
SECONDS = {"quick": 22.0, "full": 240.0}
TARGET_SHARES = 4

# From seconds of measurement to a rate per second.
Rate = Callable[[float], float]


@dataclass(frozen=True)
class Comparison:
    """Two rates to measure alternately.

    Attributes:
        name: Name of the comparison.
        ours, theirs: The rates.
        target: Minimum ratio that the project aims for, or None.
        rounds: Number of rounds.
    """

    name: str
    ours: Rate
    theirs: Rate
    target: float | None = None
    rounds: int = ROUNDS


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `ogs speed`.

    Attributes:
        quick: Take less than 45 seconds; print the ratios and write no file.
        result: Result file; by default the repository's.
    """

    quick: bool = False
    result: Path = RESULT


def run(options: Options) -> None:
    """Measure, and print one JSON line per ratio: name, ratio, target."""
    total = SECONDS["quick" if options.quick else "full"]
    with_target = 1 + sum("Mixture" not in name for name in ids())
    share = total / (count() + (TARGET_SHARES - 1) * with_target) / ROUNDS / 2
    if not options.quick:  # an error now, not after the measurement
        check_writable(options.result)
    results = []
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
        results.append(
            {**line, "rounds": [round(r, 4) for r in ratios], "rates": rates}
        )
        print(
            f"ogs speed: {len(results)} of {count()}: {rates[0]:,} against "
            f"{rates[1]:,} a second, rounds from {ratios[0]:.3f} to {ratios[-1]:.3f}",
            file=sys.stderr,
        )
    if not options.quick:
        result = {"ratios": results, "reference": REFERENCE, "machine": _machine()}
        write_json(options.result, result)
        print(f"ogs speed: {options.result}", file=sys.stderr)


def ids() -> list[str]:
    """Return the registered ids without those that train a language model."""
    return [
        name
        for name, spec in gym.registry.items()
        if name.startswith("OGS-") and spec.kwargs.get("learner") != "live"
    ]


def count() -> int:
    """Return the number of `comparisons`."""
    return 3 * len(ids()) + len(NUM_ENVS) + len(SYNC_NUM_ENVS) + 2


def comparisons() -> Iterator[Comparison]:
    """Create the environments and yield the comparisons one by one."""

    def cartpole() -> gym.Env:
        return gym.make(REFERENCE)

    for name in ids():
        # Ids without a bundle use Medical's.
        bundle = gym.spec(name).kwargs["bundle"] or "medical"

        def ours(name: str = name, bundle: str = bundle) -> gym.Env:
            return gym.make(name, bundle=bundle)

        # Not measured: reading the bundle, and the tables that the first pick computes.
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
            yield Comparison(
                f"bound of native step {pair}", _lower_bound(num_envs), theirs
            )
        if num_envs in SYNC_NUM_ENVS:
            theirs = _vector(VECTOR_ID, num_envs, "sync")
            pair = f"{num_envs} environments of {VECTOR_ID}"
            yield Comparison(f"native / sync step {pair}", native, theirs)
    yield _training()


def _training() -> Comparison:
    """Compare `ogs train` with the default of SB3: PPO in one environment."""
    import torch
    from stable_baselines3 import PPO

    from ogs_env.agents.training import TrainSettings, new_model

    torch.set_num_threads(1)
    settings = TrainSettings(env=VECTOR_ID)
    default = PPO("MultiInputPolicy", gym.make(VECTOR_ID), device="cpu", seed=0)
    name = f"train steps of {VECTOR_ID}, ogs train / SB3 with one environment"
    ours, theirs = _learned(new_model(settings)), _learned(default)
    return Comparison(name, ours, theirs, TRAIN_TARGET, TRAIN_ROUNDS)


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
        while (spent := time.perf_counter() - start) < seconds:
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
    envs: Any = gym.make_vec(VECTOR_ID, num_envs)
    observations, _ = envs.reset(seed=0)
    pool, effects = (
        len(envs.single.bundle.pool),
        tables_of(envs.single.bundle).reward_effects,
    )
    picks = np.random.default_rng(0).integers(pool, size=(64, num_envs))

    def rate(seconds: float) -> float:
        steps, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds:
            effects.rows(picks[steps % len(picks)])
            for values in observations.values():
                values.copy()
            steps += 1
        return steps * num_envs / spent

    return rate


def _machine() -> dict[str, str]:
    names = ("gymnasium", "numpy")
    versions = {name: importlib.metadata.version(name) for name in names}
    return {
        "processor": _processor(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **versions,
    }


def _processor() -> str:
    """Return the processor's name, as far as the system provides it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text("utf-8").splitlines() if file.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor()
