"""Reward terms of running episodes: from the losses of a learner to terms of a pick.

`Rewards` is for one episode, `VectorRewards` for many sub-environments at once.
`ogs_env.rewards` defines the terms.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ogs_env.learners import Learner
from ogs_env.learners.surrogate import SurrogateLearner, VectorSurrogateLearner
from ogs_env.rewards import NO_PICK, TERMS, Transition

AnyLearner = TypeVar("AnyLearner", bound=Learner)

# Attributes of the terms, looked up once: it would slow down every step.
_VALUES = tuple((term.name, term.value) for term in TERMS)
_OF_LOSSES = tuple(term for term in TERMS if term.of_samples is None)
_OF_SAMPLES = tuple(term for term in TERMS if term.of_samples is not None)


class Information:
    """The log-determinant of the picked directions, updated one by one.

    With M = (I + sum u u^T)^-1 the gain of u is log(1 + u^T M u), and picking u
    subtracts b b^T from M, b = M u / sqrt(1 + u^T M u). The b are stored instead of M,
    so a pick costs O(picks * k).

    Args:
        width: Length k of a direction.
        capacity: Most picks of an episode.
    """

    def __init__(self, width: int, capacity: int) -> None:
        self._removed = np.empty((capacity, width), np.float32)
        self._count = 0

    @classmethod
    def if_weighted(
        cls, weights: Mapping[str, float], width: int, capacity: int
    ) -> "Information | None":
        """Return None where the term has no weight, to save the time it takes."""
        return cls(width, capacity) if weights["information"] != 0 else None

    def reset(self) -> None:
        """Remove all picks."""
        self._count = 0

    def gains(self, units: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the gain of each unit vector (n, width), nats, without picking it."""
        inner = units @ self._removed[: self._count].T
        return np.log1p(np.maximum(1 - np.square(inner).sum(axis=1), 0))

    def pick(self, unit: NDArray[np.float32]) -> float:
        """Pick a unit vector (width,) and return its gain, nats."""
        removed = self._removed[: self._count]
        inner = removed @ unit
        left = max(1.0 - float(inner @ inner), 0.0)
        self._removed[self._count] = (unit - inner @ removed) / math.sqrt(1.0 + left)
        self._count += 1
        return math.log1p(left)


class Rewards(Generic[AnyLearner]):
    """The reward terms of one episode.

    Args:
        learner: The learner, which every pick updates.
        information: The log-determinant of the picked unit initial sketches; without
            it the term `information` is 0.
    """

    def __init__(self, learner: AnyLearner, information: Information | None) -> None:
        self._learner = learner
        self._information = information
        self.reset()

    def reset(self, rng: np.random.Generator | None = None) -> None:
        """Reset the learner and begin a new episode."""
        self._learner.reset(rng)
        if self._information:
            self._information.reset()
        self._transition = Transition(*self._losses())

    def pick(
        self, index: int, unit: NDArray[np.float32] | None = None
    ) -> dict[str, float]:
        """Update the learner with pool row `index` and return the terms of this pick.

        Args:
            index: Row of the pool.
            unit: Its unit initial sketch (width,), for `information`.
        """
        transition = self._transition
        transition.cosines = self._learner.anchor_cosine(index).tolist()
        self._learner.update(index)
        if self._information:
            gain = 0.0 if unit is None else self._information.pick(unit)
            transition.information = gain
        transition.advance(*self._losses())
        return {name: value(transition) for name, value in _VALUES}

    def pick_batch(
        self: "Rewards[SurrogateLearner]",
        rows: list[int],
        units: NDArray[np.float32] | None = None,
    ) -> dict[str, float]:
        """Update the learner with pool rows at once and return the terms of the batch.

        Args:
            rows: At least one.
            units: Their unit initial sketches (n, width), for `information`.
        """
        indices = np.array(rows)
        self._learner.update_many(indices)
        terms = self.changes()
        batch = self._transition.of_many(len(rows))
        batch.cosines = self._learner.anchor_cosine(indices).T
        if self._information and units is not None:
            batch.information = np.array([self._information.pick(u) for u in units])
        for term in _OF_SAMPLES:
            terms[term.name] = term.of_batch(term.value(batch))
        return {name: terms[name] for name in NO_PICK}

    def finish(self, terms: Mapping[str, float]) -> dict[str, float]:
        """End the learner's episode.

        Args:
            terms: Those of the last step, with or without a pick.

        Returns:
            The terms, plus the changes of losses that the learner measures only at the
            end of the episode.
        """
        self._learner.finish()
        late = self.changes()
        return {**terms, **{name: terms[name] + late[name] for name in late}}

    def changes(self) -> dict[str, float]:
        """Return the terms of losses, for the change since the last call or pick."""
        self._transition.advance(*self._losses())
        return {term.name: term.value(self._transition) for term in _OF_LOSSES}

    def preview(
        self: "Rewards[SurrogateLearner]",
        indices: NDArray[np.integer],
        units: NDArray[np.float32],
    ) -> dict[str, NDArray[np.floating]]:
        """Return the terms (n,) that `pick` would give for each of many pool rows."""
        domain, anchors, answers, cosines = self._learner.preview(indices)
        transition = self._transition.of_many(len(indices))
        transition.advance(domain, anchors.T, answers.T)
        transition.cosines = cosines.T
        if self._information:
            transition.information = self._information.gains(units)
        return {name: value(transition) for name, value in _VALUES}

    def _losses(self) -> tuple[float, list[float], list[float]]:
        learner = self._learner
        anchors, answers = learner.anchor_losses(), learner.answer_losses()
        return learner.domain_loss(), anchors.tolist(), answers.tolist()


class VectorRewards:
    """The reward terms of many sub-environments, equal to those of `Rewards`.

    Args:
        learners: The learners, which every pick updates.
        information: One for each sub-environment, or none at all.
    """

    def __init__(
        self, learners: VectorSurrogateLearner, information: Sequence[Information]
    ) -> None:
        self._learners = learners
        self._information = information
        # Row -1, no pick, indexes the zeros at the end.
        cosines = learners.tables.anchor_cosines.T.astype(float)
        self._cosines = np.pad(cosines, ((0, 0), (0, 1)))
        domain, anchors, answers = self._losses()
        one = Transition(
            float(domain[0]), anchors[:, 0].tolist(), answers[:, 0].tolist()
        )
        self._transition = one.of_many(len(domain))

    def reset(self, which: NDArray[np.integer]) -> None:
        """Begin new episodes of some sub-environments (n,)."""
        self._learners.reset(which)
        for index in which.tolist() if self._information else ():
            self._information[index].reset()
        self._transition.advance(*self._losses())

    def pick(
        self,
        rows: NDArray[np.int64],
        units: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    ) -> dict[str, NDArray[np.float64]]:
        """Update the learners and return every term (num_envs,).

        Args:
            rows: Pool rows (num_envs,), -1 for none.
            units: From pool rows (n,) to their unit initial sketches (n, width).
        """
        transition = self._transition
        self._learners.update(rows)
        transition.advance(*self._losses())
        transition.cosines = self._cosines.take(rows, axis=1)
        transition.information = np.zeros(len(rows))
        if self._information:
            where = np.flatnonzero(rows >= 0)
            for index, unit in zip(where.tolist(), units(rows[where]), strict=True):
                transition.information[index] = self._information[index].pick(unit)
        return {name: value(transition) for name, value in _VALUES}

    def _losses(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        losses, tables = self._learners.losses, self._learners.tables
        anchors, answers = losses[:, tables.anchors].T, losses[:, tables.answers].T
        return losses[:, 0], anchors, answers
