"""Learners: what changes when a sample is chosen."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Learner(Protocol):
    """A model that learns samples of a bundle's pool, named by their rows.

    Attributes:
        sketches: What its gradients are: `"trajectory"`, `"initial"` or `"live"`.
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

    def answer_losses(self) -> NDArray[np.floating]:
        """Return the mean loss of each capability's own answers, (capabilities,).

        Answers of the untouched model to the anchor's prompts; empty without any.
        """

    def test_loss(self) -> float:
        """Return the mean loss of the test samples, which no reward sees."""

    def retention_loss(self) -> float:
        """Return the mean loss of the retention samples, which no reward sees."""

    def answers_loss(self) -> float:
        """Return the mean loss of own answers to the retention's prompts.

        No reward sees it; 0 for a bundle without own answers.
        """

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
        self._answers = learner.answers_loss()

    def changes(self) -> dict[str, float]:
        """Return the keys of `info` that tell the changes, percent of the first loss.

        Of the test samples, of the retention samples, and of own answers to the
        retention's prompts; 0 where the bundle has none.
        """
        learner = self._learner
        answers = learner.answers_loss() / self._answers if self._answers else 1.0
        return {
            "test_change": 100 * (learner.test_loss() / self._test - 1),
            "retention_change": 100 * (learner.retention_loss() / self._retention - 1),
            "answers_change": 100 * (answers - 1),
        }


UNCHANGED = {"test_change": 0.0, "retention_change": 0.0, "answers_change": 0.0}
"""What `HeldOut.changes` tells before the end of an episode."""
