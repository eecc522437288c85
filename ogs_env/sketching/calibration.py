"""The surrogate learner's units, measured on real training."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ogs_env.files import read_json, write_json
from ogs_env.learners.surrogate import calibrate_step
from ogs_env.sketching.encoding import Encoded
from ogs_env.sketching.losses import response_losses
from ogs_env.sketching.proxy import Proxy
from ogs_env.sketching.warmup import BATCH, RISE, train_steps

RUNS = 4
PICKS = 32
EPOCHS = 3
_EVALUATION_BATCH = 16
_ASSUMED_GAIN = 0.05

Shards = Mapping[str, Sequence[Mapping[str, torch.Tensor]]]


def calibration_picks(pool_size: int, seed: int) -> NDArray[np.int64]:
    """Return the pool rows (4, 32) of the calibration runs; fewer of a small pool."""
    rng = np.random.default_rng([seed, 21])
    return np.stack([rng.permutation(pool_size)[:PICKS] for _ in range(RUNS)])


def measured_losses(
    proxy: Proxy,
    pool: Sequence[Encoded],
    dev: Sequence[Encoded],
    learning_rate: float,
    seed: int,
    note: Path,
) -> list[float]:
    """Train the proxy on random pool samples, and return the dev loss of each run.

    Four runs of 32 samples, three epochs each: AdamW, batches of 8, the learning rate
    rising over three steps and then falling as a cosine. So a pick in an environment
    stands for a sample that is trained on three times.

    Args:
        proxy: With a fresh adapter, which it has again at the end.
        pool: The pool's samples.
        dev: The dev samples.
        learning_rate: Peak learning rate.
        seed: Chooses the samples.
        note: Where finished runs are kept for a sketcher that goes on.
    """
    losses: list[float] = []
    if note.exists():
        losses = read_json(note, "note of the calibration runs")
    fresh = proxy.state()
    picks = calibration_picks(len(pool), seed)
    for number in range(len(losses), RUNS):
        samples = [pool[row] for row in picks[number]] * EPOCHS
        steps = math.ceil(len(samples) / BATCH)
        rates = [
            learning_rate
            * min(step / RISE, 0.5 + 0.5 * math.cos(math.pi * step / (steps + 1)))
            for step in range(1, steps + 1)
        ]
        for _ in train_steps(proxy, samples, rates, f"calibration {number + 1}/{RUNS}"):
            pass
        losses.append(_mean_loss(proxy, dev))
        write_json(note, losses)
        proxy.load_state(fresh)
    return losses


def _mean_loss(proxy: Proxy, samples: Sequence[Encoded]) -> float:
    ordered = sorted(samples, key=lambda sample: len(sample.input_ids))
    total = 0.0
    for begin in range(0, len(ordered), _EVALUATION_BATCH):
        part = ordered[begin : begin + _EVALUATION_BATCH]
        batch = proxy.batch(part)
        with torch.no_grad():
            total += float(response_losses(proxy.model, batch).double().sum())
    return total / len(samples)


def checkpoint_weights(shards: Shards, checkpoints: int) -> list[float]:
    """Return what each checkpoint's path sketches are multiplied by.

    Gradients shrink along the path, by a factor of three from step 8 to 24 on
    SmolLM2-135M, and inner products by its square: unweighted, the last checkpoint,
    which alone tells domain and anchor apart, would not count. The weights give the
    dev samples' sketches a root mean square norm of 1 at every checkpoint.
    """
    if not checkpoints:
        return []
    blocks = np.split(_column(shards, "dev", "path"), checkpoints, axis=1)
    squares = [float(np.square(block).sum(1).mean()) for block in blocks]
    return [1 / math.sqrt(max(square, 1e-24)) for square in squares]


def calibrated_learner(
    shards: Shards,
    picks: NDArray[np.int64],
    measured: Sequence[float],
    weights: Sequence[float],
) -> dict[str, Any]:
    """Return the manifest's entry for the learner.

    With a path, the step is such that the surrogate, fed with the calibration runs'
    samples, ends at the dev loss that the proxy really had after them, on the mean of
    the runs. Without, no training was seen: they are assumed to lower it by 5 %.

    Args:
        shards: The bundle's shards by role.
        picks: Pool rows (runs, n) of the calibration runs.
        measured: The dev loss after each run; empty without a path.
        weights: Of the checkpoints; empty without a path.
    """
    kind = "path" if len(measured) else "start"

    def sketches(role: str) -> NDArray[np.float32]:
        found = _column(shards, role, kind)
        if kind == "start":
            return found
        return found * np.repeat(weights, found.shape[1] // len(weights))

    pool, pool_losses = sketches("pool"), _column(shards, "pool", "losses")
    dev_losses = _column(shards, "dev", "losses")
    before = float(dev_losses.mean())
    after = float(np.mean(measured)) if measured else before * (1 - _ASSUMED_GAIN)
    step, reached = calibrate_step(
        pool[picks], pool_losses[picks], sketches("dev"), dev_losses, after
    )
    return {
        "sketches": kind,
        "step": step,
        "step_from": "calibration runs" if measured else "assumed",
        "reached": reached,
        "picks": picks.shape[1],
        "dev_loss_before": before,
        "dev_loss_after": list(measured) or after,
    }


def _column(shards: Shards, role: str, name: str) -> NDArray[np.float32]:
    return torch.cat([shard[name] for shard in shards[role]]).float().numpy()
