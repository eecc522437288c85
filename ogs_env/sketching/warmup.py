"""The warm-up: a short LoRA training at whose checkpoints samples are sketched."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from ogs_env.errors import InputError
from ogs_env.lm.adapter import Proxy
from ogs_env.lm.encoding import Encoded
from ogs_env.lm.training import AdapterTraining
from ogs_env.lm.trunk import TrunkStates
from ogs_env.seeding import named_rng

BATCH = 8
RISE = 3  # steps of the linear rise of the learning rate


@dataclass(frozen=True)
class Checkpoint:
    """The adapter after some steps of the warm-up.

    Attributes:
        step: Optimizer steps taken; 0 for the untouched model.
        state: The adapter's weights by layer name.
        scales: By layer name (weights,), Adam's denominator: the root of the
            bias-corrected second moment. Checkpoints before step 3 have that of step
            3, because earlier ones come from too few samples.
    """

    step: int
    state: dict[str, torch.Tensor]
    scales: dict[str, torch.Tensor]


def warm_up_picks(pool_size: int, steps: int, seed: int) -> np.ndarray:
    """Return the pool rows int64 (steps * 8,) that the warm-up trains on, in order."""
    needed = steps * BATCH
    if needed > pool_size:
        raise InputError(
            f"checkpoints: {steps} warm-up steps of {BATCH} need {needed} samples, the "
            f"pool has {pool_size}; use earlier checkpoints or a larger pool"
        )
    return named_rng(seed, "warm-up").permutation(pool_size)[:needed]


def warm_up(
    proxy: Proxy,
    samples: Sequence[Encoded],
    checkpoints: Sequence[int],
    learning_rate: float,
) -> list[Checkpoint]:
    """Train the adapter on samples in order and return its checkpoints.

    Batches of 8 samples in order; the learning rate rises over the first three steps
    and is then constant. The proxy ends with its fresh adapter.

    Args:
        proxy: A proxy with a fresh adapter.
        samples: 8 samples per step, for `warm_up_steps` steps.
        checkpoints: Steps whose weights to return, ascending.
        learning_rate: Peak learning rate.
    """
    texts = TrunkStates(proxy, samples)
    training = AdapterTraining(proxy)
    states, scales = {0: proxy.state()}, {}
    bar = tqdm(range(1, warm_up_steps(checkpoints) + 1), desc="warm-up", unit="step")
    for step in bar:
        batch = range((step - 1) * BATCH, step * BATCH)
        loss = training.step(texts, batch, learning_rate * min(1.0, step / RISE))
        bar.set_postfix(loss=f"{loss:.3f}")
        states[step] = proxy.state()
        scales[step] = training.scales()
    proxy.load_state(states[0])
    return [
        Checkpoint(step, states[step], scales[max(step, RISE)]) for step in checkpoints
    ]


def warm_up_steps(checkpoints: Sequence[int]) -> int:
    """Return the number of steps of a warm-up with these checkpoints."""
    return max([*checkpoints, RISE])
