"""Reward terms by name, the cost, and their weights.

Every term is about one pick; L_D is the domain loss, L_c a capability's anchor loss.

- `domain_gain` = 100 (L_D before - L_D after) / L_D at the start: percent; positive
  where the domain gets better.
- `anchor_gain` = W after - W before, W = 100 min over capabilities of (L_c at the
  start - L_c) / L_c at the start: percent; W is how the worst capability stands,
  negative where it suffers. Over the picks of an episode it adds up to the last W, so
  a pick that undoes the harm of others is worth as much as the harm was: the choice
  of a set whose updates cancel where the anchor would feel them. It enters as
  weight * anchor_gain.
- `orthogonality` = 1 - max over capabilities of |cos(sample's gradient, mean anchor
  gradient)|, the paper's Orth; in [0, 1], 1 when the update leaves every capability
  alone to first order. It enters as weight * (orthogonality - 1), so an orthogonal
  pick costs nothing.
- `conflict` = 100 max over capabilities of max(0, L_c after - L_c before) / L_c at
  the start: percent, never negative. It is the cost of the constrained problem, and
  enters as -weight * conflict.
- `information` = log det(I + sum over picks of u u^T) after the pick less before it,
  u the unit start sketches: nats, in (0, log 2], log 2 for a direction orthogonal to
  everything picked. It enters as weight * information. After Domain Curiosity:
  Struckmeier, Arndt, Kyrki, which rewards data that tells most about the domain;
  the log-determinant is that of Bayesian linear regression with unit noise.

A pass has the terms of `NO_PICK`, which sum to 0 under any weights.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ogs_env.errors import InputError, unknown_name
from ogs_env.learners import Learner
from ogs_env.learners.surrogate import SurrogateLearner, SurrogateLearners

AnyLearner = TypeVar("AnyLearner", bound=Learner)

DEFAULT_WEIGHTS: dict[str, float] = {
    "domain_gain": 1.0,
    "anchor_gain": 1.0,
    "orthogonality": 0.0,
    "conflict": 0.0,
    "information": 0.0,
}
NO_PICK: dict[str, float] = {
    "domain_gain": 0.0,
    "anchor_gain": 0.0,
    "orthogonality": 1.0,
    "conflict": 0.0,
    "information": 0.0,
}


def checked_weights(given: Mapping[str, float] | None) -> dict[str, float]:
    """Return the weight of every term: the given ones, defaults for the others.

    Raises:
        InputError: For a name that is no term, or a weight that is no finite number.
    """
    weights = dict(DEFAULT_WEIGHTS)
    for name, weight in (given or {}).items():
        if name not in weights:
            raise unknown_name("reward term", name, weights)
        if not isinstance(weight, int | float) or not math.isfinite(weight):
            raise InputError(
                f"reward_weights: '{name}' is {weight!r}; expected a finite number"
            )
        weights[name] = float(weight)
    return weights


def weighted_sum(terms: Mapping[str, Any], weights: Mapping[str, float]) -> Any:
    """Return the reward of a pick, or of many picks, whose terms are arrays."""
    return (
        weights["domain_gain"] * terms["domain_gain"]
        + weights["anchor_gain"] * terms["anchor_gain"]
        + weights["orthogonality"] * (terms["orthogonality"] - 1.0)
        - weights["conflict"] * terms["conflict"]
        + weights["information"] * terms["information"]
    )


class Information:
    """The log-determinant of what was picked, one direction at a time.

    With M = (I + sum u u^T)^-1 the gain of u is log(1 + u^T M u), and picking u
    takes b b^T off M, b = M u / sqrt(1 + u^T M u); the b are kept instead of M, so
    a pick costs O(picks * k).
    """

    def __init__(self, width: int, capacity: int) -> None:
        self._removed = np.empty((capacity, width), np.float32)
        self._count = 0

    def reset(self) -> None:
        """Forget all picks."""
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
        learner: Is updated by every pick.
        information: The log-determinant of the picked unit start sketches; None where
            nobody wants to pay for it, which makes the term 0.
    """

    def __init__(self, learner: AnyLearner, information: Information | None) -> None:
        self._learner = learner
        self._information = information
        self.reset()

    def reset(self, rng: np.random.Generator | None = None) -> None:
        """Start over: reset the learner and forget all picks."""
        self._learner.reset(rng)
        if self._information:
            self._information.reset()
        self._domain = self._initial_domain = self._learner.domain_loss()
        self._anchor = self._initial_anchor = self._learner.anchor_losses().tolist()
        self._worst = 0.0

    def pick(
        self, index: int, unit: NDArray[np.float32] | None = None
    ) -> dict[str, float]:
        """Let the learner learn pool row `index` and return every term of this pick.

        Args:
            index: Row of the pool.
            unit: Its unit start sketch (width,), which `information` is about.
        """
        cosines = self._learner.anchor_cosine(index).tolist()
        self._learner.update(index)
        information = 0.0
        if self._information and unit is not None:
            information = self._information.pick(unit)
        return {
            **self.changes(),
            "orthogonality": max(0.0, 1.0 - max(map(abs, cosines))),
            "information": information,
        }

    def finish(self, terms: Mapping[str, float]) -> dict[str, float]:
        """Let the learner end the episode.

        Args:
            terms: Those of the episode's last step, a pick or not.

        Returns:
            The terms, with what the learner still learned or measured.
        """
        self._learner.finish()
        late = self.changes()
        return {**terms, **{name: terms[name] + late[name] for name in late}}

    def changes(self) -> dict[str, float]:
        """Return the terms that tell what the losses have done since the last call."""
        domain = self._learner.domain_loss()
        anchor = self._learner.anchor_losses().tolist()
        gain = 100.0 * (self._domain - domain) / self._initial_domain
        least = worst = math.inf
        losses = zip(self._anchor, anchor, self._initial_anchor, strict=True)
        for before, now, first in losses:
            least = min(least, 100.0 * (before - now) / first)
            worst = min(worst, 100.0 * (first - now) / first)
        anchor_gain = worst - self._worst
        self._domain, self._anchor, self._worst = domain, anchor, worst
        # Not -least, so that no change is 0 and never -0.
        conflict = max(0.0, 0.0 - least)
        return {"domain_gain": gain, "anchor_gain": anchor_gain, "conflict": conflict}

    def preview(
        self: "Rewards[SurrogateLearner]",
        indices: NDArray[np.integer],
        units: NDArray[np.float32],
    ) -> dict[str, NDArray[np.floating]]:
        """Return the terms (n,) that `pick` would give for each of many pool rows."""
        domain, anchor, cosines = self._learner.preview(indices)
        falls = 100 * (np.array(self._anchor) - anchor) / self._initial_anchor
        stands = 100 * (np.array(self._initial_anchor) - anchor) / self._initial_anchor
        information = np.zeros(len(indices), np.float32)
        if self._information:
            information = self._information.gains(units)
        return {
            "domain_gain": 100 * (self._domain - domain) / self._initial_domain,
            "anchor_gain": stands.min(axis=1) - self._worst,
            "orthogonality": np.maximum(0, 1 - np.abs(cosines).max(axis=1)),
            "conflict": np.maximum(0, -falls.min(axis=1)),
            "information": information,
        }


class RewardsOfMany:
    """The reward terms of episodes side by side, the same as those of `Rewards`.

    Args:
        learners: Are updated by every pick.
        information: One for each copy, or none at all.
    """

    def __init__(
        self, learners: SurrogateLearners, information: Sequence[Information]
    ) -> None:
        self._learners = learners
        self._information = information
        self._initial = learners.losses[0].copy()
        cosines = np.abs(learners.tables.anchor_cosines).astype(float)
        # Row -1 finds the last: no pick.
        self._orthogonality = np.append(np.maximum(0.0, 1.0 - cosines.max(axis=1)), 1.0)

    def reset(self, which: NDArray[np.integer]) -> None:
        """Start some copies' episodes (n,) over."""
        self._learners.reset(which)
        for copy in which.tolist() if self._information else ():
            self._information[copy].reset()

    def pick(
        self,
        rows: NDArray[np.int64],
        units: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    ) -> dict[str, NDArray[np.float64]]:
        """Let the learners learn and return every term (copies,).

        Args:
            rows: Pool rows (copies,), -1 for none.
            units: From pool rows (n,) to their unit start sketches (n, width).
        """
        before = self._learners.losses
        self._learners.update(rows)
        after = self._learners.losses
        gains = 100.0 * (before - after) / self._initial
        least = functools.reduce(np.minimum, gains.T[1:])
        stood, stands = self._worst(before), self._worst(after)
        information = np.zeros(len(rows))
        if self._information:
            picking = np.flatnonzero(rows >= 0)
            found = units(rows[picking])
            for copy, unit in zip(picking.tolist(), found, strict=True):
                information[copy] = self._information[copy].pick(unit)
        return {
            "domain_gain": gains[:, 0],
            "anchor_gain": stands - stood,
            "orthogonality": self._orthogonality.take(rows),
            "conflict": np.maximum(0.0 - least, 0.0),
            "information": information,
        }

    def _worst(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how the worst capability of each copy stands, percent (copies,)."""
        falls = 100.0 * (self._initial - losses) / self._initial
        return functools.reduce(np.minimum, falls.T[1:])
