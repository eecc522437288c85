"""Estimate the duration of `ogs adapt`."""

import time
from collections.abc import Sequence

import numpy as np
import torch

from ogs_env.data.domains import DomainData
from ogs_env.data.samples import Sample
from ogs_env.experiments.evaluation import mean_losses
from ogs_env.experiments.finetune import FinetuneSettings
from ogs_env.lm.encoding import encode
from ogs_env.lm.loading import load_model
from ogs_env.sketching.answers import longest_answer

_MEASURED = 16  # samples to measure the model's speed on
_COUNTED = 64  # samples of each role to count tokens of
_GRADIENTS = 2  # cost of the last layers' gradients, in forward passes


def estimate(
    data: DomainData, settings: FinetuneSettings, budget: int, runs: int
) -> tuple[float, float]:
    """Estimate the seconds of the longest stages from the target's speed.

    Args:
        data: The samples by role.
        settings: Settings of fine-tuning.
        budget: Number of samples of a selection.
        runs: Number of fine-tuning runs.

    Returns:
        Seconds of sketching, with a proxy of the target's size, and of fine-tuning.
    """
    model, tokenizer = load_model(settings.model)

    def tokens(samples: Sequence[Sample]) -> float:
        """Return an estimate of the total number of tokens."""
        part = [
            samples[i] for i in np.linspace(0, len(samples) - 1, _COUNTED, dtype=int)
        ]
        limit = settings.max_tokens
        lengths = [
            len(encode(tokenizer, s.turns, s.response, limit).tokens) for s in part
        ]
        return float(np.mean(lengths)) * len(samples)

    probe = data.pool[:_MEASURED]
    with torch.inference_mode():
        mean_losses(model, tokenizer, probe[:1], settings.max_tokens, "one")  # warm-up
        start = time.perf_counter()
        mean_losses(model, tokenizer, probe, settings.max_tokens, "a few samples")
    rate = tokens(probe) / (time.perf_counter() - start)
    anchor, retention = (
        [sample for own in part.values() for sample in own]
        for part in (data.anchor, data.retention)
    )
    answers = longest_answer(settings.max_tokens)
    sketched = tokens(data.pool) + tokens(data.dev) + tokens(data.test)
    sketched += 2 * tokens(anchor) + answers * len(anchor)
    trained = settings.epochs * budget / len(data.pool) * tokens(data.pool)
    # References, own answers, and both sides of minimal pairs.
    measured = tokens(data.test) + 4 * tokens(retention)
    tuning = runs * _GRADIENTS * trained + (runs + 1) * measured
    tuning += answers * len(retention)
    return _GRADIENTS * sketched / rate, tuning / rate
