"""Learners: models that are trained on the picked samples of an episode."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Learner(Protocol):
    """A model that is trained on rows of a bundle's pool."""

    def reset(self, rng: np.random.Generator | None = None) -> None:
        """Return to the untouched model."""

    def update(self, index: int) -> None:
        """Train on pool row `index`, immediately or in a later batch."""

    def finish(self) -> None:
        """End the episode: train on an incomplete batch and measure the losses."""

    def domain_loss(self) -> float:
        """Return the mean loss of the dev samples, nats per token."""

    def anchor_losses(self) -> NDArray[np.floating]:
        """Return the mean loss of each capability's anchor samples, (capabilities,)."""

    def answer_losses(self) -> NDArray[np.floating]:
        """Return the mean loss of each capability's own answers, (capabilities,).

        Own answers are the untouched model's answers to the anchor's prompts; the
        array is empty for a bundle without them.
        """

    def test_loss(self) -> float:
        """Return the mean loss of the test samples, which no reward uses."""

    def retention_loss(self) -> float:
        """Return the mean loss of the retention samples, which no reward uses."""

    def answers_loss(self) -> float:
        """Return the mean loss of own answers to the retention's prompts.

        No reward uses it; 0 for a bundle without own answers.
        """

    def anchor_cosine(self, index: int) -> Floats:
        """Return a pool row's cosine with each anchor gradient, (capabilities,)."""


class HeldOut:
    """Changes of the losses that no reward uses, over an episode.

    Args:
        learner: Before its first update.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._test, self._retention = learner.test_loss(), learner.retention_loss()
        self._answers = learner.answers_loss()

    def changes(self) -> dict[str, float]:
        """Return the changes for `info`, in percent of the initial loss.

        They are those of the test samples, of the retention samples, and of own
        answers to the retention's prompts, 0 if the bundle has no own answers.
        """
        learner = self._learner
        answers = learner.answers_loss() / self._answers if self._answers else 1.0
        return {
            "test_change": 100 * (learner.test_loss() / self._test - 1),
            "retention_change": 100 * (learner.retention_loss() / self._retention - 1),
            "answers_change": 100 * (answers - 1),
        }


UNCHANGED = {"test_change": 0.0, "retention_change": 0.0, "answers_change": 0.0}
"""The values of `HeldOut.changes` before the end of an episode."""
