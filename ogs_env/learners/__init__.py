"""Learners: what changes when a sample is chosen."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Learner(Protocol):
    """A model that learns samples of a bundle's pool, named by their rows.

    Attributes:
        sketches: What its gradients are: `"path"`, `"start"` or `"live"`.
    """

    sketches: str

    def reset(self, rng: np.random.Generator | None = None) -> None:
        """Forget everything learned."""

    def update(self, index: int) -> None:
        """Learn pool row `index`, at once or with others."""

    def finish(self) -> None:
        """End the episode: learn and measure what still waits for more samples."""

    def domain_loss(self) -> float:
        """Return the mean loss of the dev samples, nats per token."""

    def anchor_losses(self) -> NDArray[np.floating]:
        """Return the mean loss of each capability's anchor samples, (capabilities,)."""

    def test_loss(self) -> float:
        """Return the mean loss of the test samples, which no reward sees."""

    def retention_loss(self) -> float:
        """Return the mean loss of the retention samples, which no reward sees."""

    def anchor_cosine(self, index: int) -> Floats:
        """Return a pool row's cosine with each anchor gradient, (capabilities,)."""


class HeldOut:
    """What an episode does to the losses that no reward sees.

    Args:
        learner: Before its first update.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._test, self._retention = learner.test_loss(), learner.retention_loss()

    def changes(self) -> tuple[float, float]:
        """Return the changes of test and retention loss, percent of the first."""
        test = self._learner.test_loss() / self._test
        retention = self._learner.retention_loss() / self._retention
        return 100 * (test - 1), 100 * (retention - 1)
