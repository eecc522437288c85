"""Reward terms by name, the cost, and their weights.

Every term is about one pick. L_D is the domain loss, L_c the loss of a capability's
anchor samples: reference answers that come with its data. A_c is the loss of the
untouched model's own answers to the same prompts, where a bundle has them.

- `domain_gain` = 100 (L_D before - L_D after) / L_D at the start: percent; positive
  where the domain gets better.
- `anchor_gain` = W after - W before, W = 100 min over capabilities of (L_c at the
  start - L_c) / L_c at the start: percent; W is how the worst capability stands on
  reference answers, negative where it suffers. It enters as weight * anchor_gain.
- `forgetting` = F after - F before, F = 100 max over capabilities of (A_c - A_c at the
  start) / A_c at the start, at least 0: percent; F is how far the model has moved from
  its own answers where it moved most. It enters as -weight * forgetting, and is 0 for
  a bundle without own answers.
- `conflict` = C after - C before, C = 100 max over capabilities of max(0, L_c - L_c at
  the start) / L_c at the start: percent, negative where a pick undoes harm. It enters
  as -weight * conflict.
- `orthogonality` = 1 - max over capabilities of |cos(sample's gradient, mean anchor
  gradient)|, the paper's Orth; in [0, 1], 1 when the update leaves every capability
  alone to first order. It enters as weight * (orthogonality - 1), so an orthogonal
  pick costs nothing.
- `information` = log det(I + sum over picks of u u^T) after the pick less before it,
  u the unit initial sketches: nats, in (0, log 2], log 2 for a direction orthogonal to
  everything picked. It enters as weight * information. After Domain Curiosity:
  Struckmeier, Arndt, Kyrki, which rewards data that tells most about the domain;
  the log-determinant is that of Bayesian linear regression with unit noise.

The first four are differences of potentials (Ng, Harada, Russell 1999): over an
episode they add up to what its selection is worth, in whatever order it was picked,
so a pick that undoes the harm of others is worth as much as the harm was. So does
`information`; `orthogonality` is of each sample alone.

The cost of the constrained problem is `forgetting` where the bundle has own answers,
else `conflict`: over an episode it adds up to F or C, which are never negative.

A skip has the terms of `NO_PICK`, which sum to 0 under any weights.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.errors import InputError, unknown_name
from ogs_env.learners import Learner
from ogs_env.learners.surrogate import SurrogateLearner, VectorSurrogateLearner

AnyLearner = TypeVar("AnyLearner", bound=Learner)

OWN, REFERENCE, BOTH = "own", "reference", "both"
"""Whose answers the anchor of a bundle is about, and with it the default reward."""
DEFAULT_WEIGHTS: dict[str, dict[str, float]] = {
    kind: {
        "domain_gain": 1.0,
        "anchor_gain": anchor_gain,
        "forgetting": forgetting,
        "conflict": 0.0,
        "orthogonality": 0.0,
        "information": 0.0,
    }
    for kind, anchor_gain, forgetting in (
        (OWN, 0.0, 1.0),
        (REFERENCE, 1.0, 0.0),
        (BOTH, 1.0, 1.0),
    )
}
"""By whose answers the anchor is about."""
COST: dict[str, str] = {OWN: "forgetting", REFERENCE: "conflict"}
"""The term that is the cost, by `answers_of`."""
NO_PICK: dict[str, float] = {
    "domain_gain": 0.0,
    "anchor_gain": 0.0,
    "forgetting": 0.0,
    "conflict": 0.0,
    "orthogonality": 1.0,
    "information": 0.0,
}


def answers_of(bundle: Bundle) -> str:
    """Return whose answers the cost is about: `OWN`, or `REFERENCE` without those."""
    return OWN if bundle.has_answers else REFERENCE


def checked_weights(
    given: Mapping[str, float] | None, bundle: Bundle
) -> dict[str, float]:
    """Return the weight of every term: the given ones, the bundle's for the others.

    Raises:
        InputError: For a name that is no term, or a weight that is no finite number.
    """
    answers = bundle.manifest.get("answers") or {"kind": REFERENCE}
    weights = dict(DEFAULT_WEIGHTS[answers["kind"]])
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
        - weights["forgetting"] * terms["forgetting"]
        - weights["conflict"] * terms["conflict"]
        + weights["orthogonality"] * (terms["orthogonality"] - 1.0)
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
        information: The log-determinant of the picked unit initial sketches; None where
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
        self._initial_anchor = self._learner.anchor_losses().tolist()
        self._initial_answers = self._learner.answer_losses().tolist()
        self._worst = self._moved = 0.0

    def pick(
        self, index: int, unit: NDArray[np.float32] | None = None
    ) -> dict[str, float]:
        """Let the learner learn pool row `index` and return every term of this pick.

        Args:
            index: Row of the pool.
            unit: Its unit initial sketch (width,), which `information` is about.
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
        worst = _least_fall(self._initial_anchor, self._learner.anchor_losses())
        answers = _least_fall(self._initial_answers, self._learner.answer_losses())
        # Not -answers, so that no change is 0 and never -0.
        moved = max(0.0, 0.0 - answers)
        terms = {
            "domain_gain": 100.0 * (self._domain - domain) / self._initial_domain,
            "anchor_gain": worst - self._worst,
            "forgetting": moved - self._moved,
            "conflict": max(0.0, 0.0 - worst) - max(0.0, 0.0 - self._worst),
        }
        self._domain, self._worst, self._moved = domain, worst, moved
        return terms

    def preview(
        self: "Rewards[SurrogateLearner]",
        indices: NDArray[np.integer],
        units: NDArray[np.float32],
    ) -> dict[str, NDArray[np.floating]]:
        """Return the terms (n,) that `pick` would give for each of many pool rows."""
        domain, anchors, answers, cosines = self._learner.preview(indices)
        worst = _least_falls(self._initial_anchor, anchors)
        moved = np.maximum(0.0, 0.0 - _least_falls(self._initial_answers, answers))
        information = np.zeros(len(indices), np.float32)
        if self._information:
            information = self._information.gains(units)
        return {
            "domain_gain": 100 * (self._domain - domain) / self._initial_domain,
            "anchor_gain": worst - self._worst,
            "forgetting": moved - self._moved,
            "conflict": np.maximum(0.0, 0.0 - worst) - max(0.0, 0.0 - self._worst),
            "orthogonality": np.maximum(0, 1 - np.abs(cosines).max(axis=1)),
            "information": information,
        }


def _least_fall(first: list[float], now: NDArray[np.floating]) -> float:
    """Return `_least_falls` of one learner; a step does without NumPy's overhead."""
    least = math.inf
    for before, after in zip(first, now.tolist(), strict=True):
        least = min(least, 100.0 * (before - after) / before)
    return least if first else 0.0


def _least_falls(
    first: Sequence[float] | NDArray[np.floating], now: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the least fall of a capability's loss (n,), percent of the first.

    Args:
        first: The capabilities' losses at the start (capabilities,).
        now: The same n times (n, capabilities); without any, 0 is returned.
    """
    if not len(first):
        return np.zeros(len(now))
    falls = 100.0 * (np.asarray(first) - now) / first
    return functools.reduce(np.minimum, falls.T)


class VectorRewards:
    """The reward terms of episodes side by side, the same as those of `Rewards`.

    Args:
        learners: Are updated by every pick.
        information: One for each sub-environment, or none at all.
    """

    def __init__(
        self, learners: VectorSurrogateLearner, information: Sequence[Information]
    ) -> None:
        self._learners = learners
        self._information = information
        initial = learners.losses[0].copy()
        self._initial_domain = float(initial[0])
        self._anchors, self._answers = learners.tables.anchors, learners.tables.answers
        self._initial_anchor = initial[self._anchors]
        self._initial_answers = initial[self._answers]
        # How the worst capability stands, and how far own answers have moved.
        self._worst, self._moved = np.zeros((2, len(learners.losses)))
        cosines = np.abs(learners.tables.anchor_cosines).astype(float)
        # Row -1 finds the last: no pick.
        self._orthogonality = np.append(np.maximum(0.0, 1.0 - cosines.max(axis=1)), 1.0)

    def reset(self, which: NDArray[np.integer]) -> None:
        """Start some sub-environments' episodes (n,) over."""
        self._learners.reset(which)
        self._worst[which] = self._moved[which] = 0.0
        for index in which.tolist() if self._information else ():
            self._information[index].reset()

    def pick(
        self,
        rows: NDArray[np.int64],
        units: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    ) -> dict[str, NDArray[np.float64]]:
        """Let the learners learn and return every term (num_envs,).

        Args:
            rows: Pool rows (num_envs,), -1 for none.
            units: From pool rows (n,) to their unit initial sketches (n, width).
        """
        before = self._learners.losses[:, 0]
        self._learners.update(rows)
        after, stood, moved = self._learners.losses, self._worst, self._moved
        self._worst = _least_falls(self._initial_anchor, after[:, self._anchors])
        answers = _least_falls(self._initial_answers, after[:, self._answers])
        self._moved = np.maximum(0.0, 0.0 - answers)
        harm, harmed = (np.maximum(0.0, 0.0 - w) for w in (self._worst, stood))
        information = np.zeros(len(rows))
        if self._information:
            picking = np.flatnonzero(rows >= 0)
            found = units(rows[picking])
            for index, unit in zip(picking.tolist(), found, strict=True):
                information[index] = self._information[index].pick(unit)
        return {
            "domain_gain": 100.0 * (before - after[:, 0]) / self._initial_domain,
            "anchor_gain": self._worst - stood,
            "forgetting": self._moved - moved,
            "conflict": harm - harmed,
            "orthogonality": self._orthogonality.take(rows),
            "information": information,
        }
