"""Environments in spawned processes that step for minutes."""

import gc
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

IDS = ("OGS-Medical-v0", "OGS-Medical-Mixture-v0")
WORKERS = 8
COMPARED_STEPS = 200
"""Steps of every worker that are compared with those of one process."""
_GROWTH = 0.02
"""Share of the first reading by which resident memory may differ at the end."""
_READINGS = 10


class _Steppers(Protocol):
    """Several environments that are stepped together."""

    masks: NDArray[np.bool_]

    def step(self, actions: NDArray[np.int64]) -> Any: ...
    def close(self) -> None: ...


class _OfGymnasium:
    """A vector environment of Gymnasium."""

    def __init__(self, vector: gymnasium.vector.VectorEnv) -> None:
        self.vector = vector
        self.first, infos = vector.reset(seed=7)
        self.masks = np.asarray(infos["action_mask"], bool)

    def step(self, actions: NDArray[np.int64]) -> Any:
        results = self.vector.step(actions)
        self.masks = np.asarray(results[-1]["action_mask"], bool)
        return results

    def close(self) -> None:
        self.vector.close()


class _OfStableBaselines3:
    """A vector environment of Stable-Baselines3."""

    def __init__(self, vector: Any) -> None:
        self.vector = vector
        vector.seed(7)
        self.first = dict(vector.reset())
        self._read_masks(vector.reset_infos)

    def step(self, actions: NDArray[np.int64]) -> Any:
        results = self.vector.step(actions)
        dones, infos = results[2], results[3]
        after = [
            reset if done else info
            for done, info, reset in zip(
                dones, infos, self.vector.reset_infos, strict=True
            )
        ]
        self._read_masks(after)
        # In one process rewards are float32 and infos a list.
        observations, rewards = dict(results[0]), results[1].astype(np.float32)
        return observations, rewards, dones, [*infos]

    def _read_masks(self, infos: Any) -> None:
        self.masks = np.array([info["action_mask"] for info in infos], bool)

    def close(self) -> None:
        self.vector.close()


def run(seconds: float) -> dict[str, Any]:
    """Step all kinds of workers and return the figures.

    Args:
        seconds: Duration of all sessions together.
    """
    sessions = []
    for id_ in IDS:
        for kind in _KINDS:
            sessions.append(_session(kind, id_, seconds / (len(IDS) * len(_KINDS))))
    return {
        "workers": WORKERS,
        "sessions": sessions,
        "failed": sum(len(session["failures"]) for session in sessions),
    }


def _make(id_: str) -> gymnasium.Env[Any, Any]:
    return gymnasium.make(f"ogs_env:{id_}")


_KINDS: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]] = {
    "AsyncVectorEnv": (
        partial(AsyncVectorEnv, context="spawn"),
        SyncVectorEnv,
        _OfGymnasium,
    ),
    "SubprocVecEnv": (
        partial(SubprocVecEnv, start_method="spawn"),
        DummyVecEnv,
        _OfStableBaselines3,
    ),
}
"""By name: workers, the same in one process, and how both are stepped."""


def _session(kind: str, id_: str, seconds: float) -> dict[str, Any]:
    spawned, alone, wrapped = _KINDS[kind]
    shared_before = _shared_memory()
    makers = [partial(_make, id_)] * WORKERS
    begin = time.monotonic()
    workers = wrapped(spawned(makers))
    pids = [process.pid for process in workers.vector.processes]
    failures = []
    rng = np.random.default_rng(0)
    try:
        if not _equal_steps(workers, wrapped(alone(makers)), rng):
            failures.append("steps differ from those of one process")
        readings = [_resident(pids)]
        started, steps = time.monotonic(), 0
        while (spent := time.monotonic() - started) < seconds:
            workers.step(_actions(workers, rng))
            steps += WORKERS
            if spent > seconds * len(readings) / _READINGS:
                readings.append(_resident(pids))
        readings.append(_resident(pids))
    finally:
        workers.close()
    del workers  # its queues have semaphores
    gc.collect()
    if readings[-1] > readings[0] * (1 + _GROWTH):
        failures.append(f"resident memory grows: {readings} MB")
    left = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    if left or multiprocessing.active_children():
        failures.append(f"processes are left: {left}")
    if shared := _shared_memory() - shared_before:
        failures.append(f"shared memory is left: {sorted(shared)}")
    session = {
        "environment": id_,
        "workers": kind,
        "seconds": round(time.monotonic() - begin, 1),
        "compared_steps": COMPARED_STEPS * WORKERS,
        "steps": steps,
        "resident_mb": readings,
        "failures": failures,
    }
    print(
        f"workers: {id_}, {kind}: {steps} steps in {seconds:.0f} s, resident memory "
        f"{readings[0]} to {readings[-1]} MB, {len(failures)} failed",
        flush=True,
    )
    return session


def _equal_steps(workers: Any, alone: Any, rng: np.random.Generator) -> bool:
    """Return whether both give the same observations, rewards and infos."""
    equal = data_equivalence(workers.first, alone.first, exact=True)
    for _ in range(COMPARED_STEPS):
        actions = _actions(workers, rng)
        results, expected = workers.step(actions), alone.step(actions)
        equal = equal and data_equivalence(results, expected, exact=True)
    alone.close()
    return bool(equal)


def _actions(steppers: _Steppers, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return a random valid action for each; 0 where the episode is over."""
    return np.array(
        [
            rng.choice(np.flatnonzero(mask)) if mask.any() else 0
            for mask in steppers.masks
        ]
    )


def _resident(pids: list[int]) -> float:
    """Return the resident memory of processes in MB."""
    page = resource.getpagesize()
    pages = [int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in pids]
    return round(sum(pages) * page / 1e6, 1)


def _shared_memory() -> set[str]:
    return set(os.listdir("/dev/shm"))
