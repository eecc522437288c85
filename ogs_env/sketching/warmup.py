"""The warm-up path: a short LoRA training whose checkpoints are sketched."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from ogs_env.errors import InputError
from ogs_env.sketching.encoding import IGNORED, Encoded
from ogs_env.sketching.losses import response_losses
from ogs_env.sketching.proxy import Proxy

BATCH = 8
RISE = 3  # steps in which the learning rate rises to its full value


@dataclass(frozen=True)
class Checkpoint:
    """The adapter after some steps of the warm-up.

    Attributes:
        step: Optimizer steps taken.
        learning_rate: Of the last step.
        state: The adapter's weights by layer name.
    """

    step: int
    learning_rate: float
    state: dict[str, torch.Tensor]


def warm_up_picks(pool_size: int, steps: int, seed: int) -> np.ndarray:
    """Return the pool rows int64 (steps * 8,) that the warm-up trains on, in order."""
    needed = steps * BATCH
    if needed > pool_size:
        raise InputError(
            f"checkpoints: {steps} warm-up steps of {BATCH} need {needed} samples, the "
            f"pool has {pool_size}; use earlier checkpoints or a larger pool"
        )
    return np.random.default_rng([seed, 20]).permutation(pool_size)[:needed]


def warm_up(
    proxy: Proxy,
    samples: Sequence[Encoded],
    checkpoints: Sequence[int],
    learning_rate: float,
) -> list[Checkpoint]:
    """Train the adapter on samples in order and keep it at some steps.

    The learning rate rises over the first three steps and is constant after. The
    proxy is left with its fresh adapter.

    Args:
        proxy: A proxy with a fresh adapter.
        samples: 8 samples a step, for at least the last checkpoint's steps.
        checkpoints: Steps after which to keep the weights, ascending.
        learning_rate: Peak learning rate.
    """
    fresh = proxy.state()
    rates = [learning_rate * min(1.0, s / RISE) for s in range(1, checkpoints[-1] + 1)]
    kept = [
        Checkpoint(step, rates[step - 1], proxy.state())
        for step in train_steps(proxy, samples, rates, "warm-up")
        if step in checkpoints
    ]
    proxy.load_state(fresh)
    return kept


def train_steps(
    proxy: Proxy, samples: Sequence[Encoded], rates: Sequence[float], title: str
) -> Iterator[int]:
    """Train the proxy's adapter, one optimizer step for each learning rate.

    AdamW without weight decay, batches of 8 samples in order, gradients clipped to
    norm 1. The loss is the batch's mean over tokens, as in the target's fine-tuning:
    were each sample to count the same, one-word answers, whose gradients are ten
    times as long, would decide where the path goes.

    Args:
        proxy: Its adapter is trained in place.
        samples: 8 for each step; the last step may have fewer.
        rates: The steps' learning rates.
        title: What the progress bar says.

    Yields:
        The number of each step, from 1, when it is done.
    """
    weights = [layer.weight for layer in [*proxy.a.values(), *proxy.b.values()]]
    optimizer = torch.optim.AdamW(weights, weight_decay=0.0)
    bar = tqdm(rates, desc=title, unit="step")
    for number, rate in enumerate(bar):
        for group in optimizer.param_groups:
            group["lr"] = rate
        part = samples[number * BATCH : (number + 1) * BATCH]
        batch = proxy.batch(part)
        tokens = (batch["labels"] != IGNORED).sum(1)
        losses = response_losses(proxy.model, batch)
        loss = (losses * tokens).sum() / tokens.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}")
        yield number + 1
