"""Fast fine-tuning of a causal LM on many subsets.

The model stays in memory, each run draws a new adapter, and the outputs of the frozen
layers below the adapter are computed once per sample for all runs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ogs_env.learners.fitted import LAYERS
from ogs_env.lm.adapter import Proxy, draw_adapter
from ogs_env.lm.training import AdapterTraining
from ogs_env.lm.trunk import TrunkStates
from ogs_env.seeding import named_rng

WARMUP = 0.15
"""Share of the steps in which the learning rate rises to its peak."""


@dataclass(frozen=True)
class Recipe:
    """Recipe of the fine-tuning.

    LoRA of rank 16 and alpha 32 on all linear layers of the last decoder layers,
    AdamW without weight decay, gradients clipped at norm 1, a learning rate that rises
    over 15 % of the steps and then follows a cosine, and the token mean of a batch as
    loss.

    Attributes:
        epochs: Number of passes over the samples; the order of each is drawn from the
            run's seed.
        learning_rate: Peak learning rate.
        batch: Number of samples per optimizer step.
        layers: Decoder layers, counted from the last, that carry the adapter.
    """

    epochs: int = 1
    learning_rate: float = 1e-3
    batch: int = 8
    layers: int = LAYERS


def learning_rates(recipe: Recipe, steps: int) -> list[float]:
    """Return the learning rate of every step."""
    rise = max(1, round(WARMUP * steps))
    return [
        recipe.learning_rate
        * min(
            step / rise,
            0.5 + 0.5 * math.cos(math.pi * max(0, step - rise) / (steps + 1 - rise)),
        )
        for step in range(1, steps + 1)
    ]


def fine_tune(
    proxy: Proxy,
    texts: TrunkStates,
    picks: Sequence[int],
    recipe: Recipe,
    seed: int,
    change_gradient: Callable[[], None] | None = None,
) -> None:
    """Train a newly drawn adapter on samples; it stays in the model.

    Args:
        proxy: The model.
        texts: Samples with the frozen layers' outputs.
        picks: Positions of the training samples in `texts`.
        recipe: Recipe of the fine-tuning.
        seed: Seed of the adapter and of the order of each epoch.
        change_gradient: As for `AdapterTraining.step`.
    """
    draw_adapter(proxy, seed)
    rng = named_rng(seed, "fine-tuning")
    order: list[int] = []
    for _ in range(recipe.epochs):
        order += rng.permutation(list(picks)).tolist()
    training = AdapterTraining(proxy)
    rates = learning_rates(recipe, math.ceil(len(order) / recipe.batch))
    for step, rate in enumerate(rates):
        batch = order[step * recipe.batch : (step + 1) * recipe.batch]
        training.step(texts, batch, rate, change_gradient)
