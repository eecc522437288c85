"""Reference fine-tuning: the whole model, one sample a pass, torch's AdamW."""

import math

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from ogs_env.lm.adapter import Proxy
from ogs_env.lm.encoding import Encoded


def token_losses(model, sample: Encoded) -> torch.Tensor:
    ids = torch.tensor([sample.input_ids])
    logits = model(input_ids=ids).logits[0]
    start = sample.response_start
    return cross_entropy(logits[start - 1 : -1], ids[0, start:], reduction="none")


def mean_loss(model, samples: list[Encoded]) -> float:
    with torch.no_grad():
        return float(np.mean([token_losses(model, s).mean() for s in samples]))


def rate_of(step: int, steps: int, peak: float) -> float:
    """A straight rise over 15 % of the steps, then a cosine that ends above zero."""
    rise = max(1, round(0.15 * steps))
    if step <= rise:
        return peak * step / rise
    return peak * math.cos(math.pi / 2 * (step - rise) / (steps + 1 - rise)) ** 2


def plain_training(
    proxy: Proxy, samples: list[Encoded], batch: int, peak: float
) -> None:
    """Train a proxy's fresh adapter on samples in order."""
    weights = [layer.weight for layer in [*proxy.a.values(), *proxy.b.values()]]
    optimizer = torch.optim.AdamW(weights, weight_decay=0.0)
    steps = math.ceil(len(samples) / batch)
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = rate_of(step, steps, peak)
        own = samples[(step - 1) * batch : step * batch]
        optimizer.zero_grad()
        torch.cat([token_losses(proxy.model, s) for s in own]).mean().backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
