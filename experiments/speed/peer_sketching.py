"""What another package has to sketch, so that it can be compared."""

from typing import Protocol

import torch
from torch import nn

from ogs_env.lm.adapter import Proxy
from ogs_env.sketching.batch_sketches import in_adam_metric
from ogs_env.sketching.warmup import Checkpoint

K = 512
"""Dimensions of a sketch."""


class Sketcher(Protocol):
    """Sketches all samples with the model as it is."""

    def __call__(self, checkpoint: Checkpoint | None = None) -> torch.Tensor:
        """Return the samples' sketches (n, dimensions), in order.

        Args:
            checkpoint: That whose weights the adapter has: A's and B's gradients are
                sketched, in its Adam metric. None for the untouched model, where A's
                are zero: B's are sketched.
        """


def sketched_layers(
    proxy: Proxy, checkpoint: Checkpoint | None
) -> dict[str, nn.Linear]:
    """Return the layers whose gradients are sketched."""
    return {**proxy.b} if checkpoint is None else {**proxy.b, **proxy.a}


def in_metric(
    checkpoint: Checkpoint | None, name: str, values: torch.Tensor
) -> torch.Tensor:
    """Return a layer's gradients (n, p) in a checkpoint's Adam metric."""
    if checkpoint is None:
        return values
    return in_adam_metric(checkpoint.scales[name], values)
