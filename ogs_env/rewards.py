"""Reward terms, their weights, and the cost.

`TERMS` lists the terms. A `Term` holds everything about one: its name, its one-line
documentation, its default weights, the sign it enters the reward with, its value
without a pick, how the values of an episode's steps are aggregated, and one function
that computes it for one episode, for many candidate picks or for many
sub-environments. To add a term, add an object to `TERMS`: environments, selectors and
the environments' documentation read that list. `ogs_env.episode_rewards` computes the
terms during an episode.

A term's function takes a `Transition`: the losses before and after a pick, relative to
those at the start of the episode, and the picked sample's cosines and information.
"Reference answers" come with the anchor's data. "Own answers" are those of the
untouched model to the same prompts; not every bundle has them.

Changes of losses are differences of potentials (Ng, Harada, Russell 1999): over an
episode they add up to the value of the selection, in any order of its picks, and a pick
that reverses the harm of others returns what the harm cost. `information` adds up in
the same way; `orthogonality` is about each sample alone.

The cost of the constrained problem is `forgetting` where the bundle has own answers,
else `conflict`. Both are the change of a largest rise that is never negative, so the
cost of an episode is never negative either.

A skip has the values in `NO_PICK`; its reward is 0 under any weights.
"""

import functools
import inspect
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.errors import InputError, unknown_name

AnyClass = TypeVar("AnyClass", bound=type)

# A float for one episode; an array (n,) for many candidates or sub-environments.
Values = Any

OWN, REFERENCE, BOTH = "own", "reference", "both"
"""Whose answers the anchor of a bundle is about; selects the default weights."""
_ANSWERS = (OWN, REFERENCE, BOTH)


@dataclass(slots=True)
class Standing:
    """Losses at one moment, compared with those at the start of the episode.

    Attributes:
        domain: Domain loss, nats per token.
        reference: Largest rise over capabilities of the loss on reference answers,
            percent of the loss at the start; negative where all have fallen.
        harm: `reference`, or 0 where that is negative.
        forgotten: Largest rise over capabilities of the loss on own answers, percent,
            at least 0; 0 for a bundle without own answers.
    """

    domain: Values
    reference: Values
    harm: Values
    forgotten: Values


class Transition:
    """What reward terms are computed from: the losses around a pick, and the sample.

    Args:
        domain: Domain loss at the start of the episode, nats per token.
        anchors: Each capability's loss on reference answers there.
        answers: Each capability's loss on own answers there; none without those.
        largest: Returns the largest of floats, or of arrays element by element.
        zero: 0.0, or an array of zeros (n,).

    Attributes:
        initial_domain: `domain`.
        before: Losses before the pick, or before the batch.
        after: Losses after it.
        cosines: Cosine of the sample's gradient with the mean anchor gradient of each
            capability; 0 without a pick.
        information: Gain of `ogs_env.episode_rewards.Information`, nats.
    """

    def __init__(
        self,
        domain: float,
        anchors: list[float],
        answers: list[float],
        largest: Callable[[Iterable[Values]], Values] = max,
        zero: Values = 0.0,
    ) -> None:
        self.initial_domain, self._anchors, self._answers = domain, anchors, answers
        self.largest, self.zero = largest, zero
        self.before = self.after = Standing(domain, zero, zero, zero)
        self.cosines: Iterable[Values] = ()
        self.information: Values = zero

    def advance(
        self, domain: Values, anchors: Iterable[Values], answers: Iterable[Values]
    ) -> None:
        """Record new losses: `after` becomes `before`, and these become `after`.

        Args:
            domain: Domain loss, a float or an array (n,); nats per token.
            anchors: The same of each capability on reference answers.
            answers: The same on own answers; none without those.
        """
        largest, zero = self.largest, self.zero
        reference = largest(map(_rise, self._anchors, anchors))
        harm = largest((zero, reference))
        forgotten = largest((zero, *map(_rise, self._answers, answers)))
        self.before = self.after
        self.after = Standing(domain, reference, harm, forgotten)

    def of_many(self, count: int) -> "Transition":
        """Return a copy for arrays (count,): `before` and `after` are the same."""
        zero = np.zeros(count)
        start = self.initial_domain, self._anchors, self._answers
        many = Transition(*start, _largest_array, zero)
        many.before, many.after = self.before, self.after
        return many


def _rise(first: float, now: Values) -> Values:
    """Return the rise of a loss, percent of the first."""
    return 100.0 * (now - first) / first


def _largest_array(arrays: Iterable[NDArray[Any]]) -> NDArray[Any]:
    return functools.reduce(np.maximum, arrays)


@dataclass(frozen=True)
class Term:
    """A reward term. It enters the reward as sign * weight * (value - no_pick).

    Attributes:
        name: Its key in `reward_weights` and in `info`.
        documentation: One line for the environments' documentation.
        value: Computes it from a `Transition` of floats or of arrays.
        sign: 1.0 where a larger value is better, -1.0 where a smaller one is.
        default_weights: By whose answers the anchor is about; 0 where not named.
        no_pick: Its value without a pick: of equal losses, cosines of 0 and
            information 0.
        of_samples: For a term of single samples, whether the value of a batch of
            samples, or of the steps of an episode, is their `"mean"` or their `"sum"`.
            None for a term of losses: its value compares the losses before and after
            the batch, and that of an episode is the sum.
    """

    name: str
    documentation: str
    value: Callable[[Transition], Values]
    sign: float = 1.0
    default_weights: Mapping[str, float] = field(default_factory=dict)
    no_pick: float = 0.0
    of_samples: Literal["mean", "sum"] | None = None

    @property
    def formula(self) -> str:
        """How it enters the reward, for documentation."""
        value = f"({self.name} - {self.no_pick:g})" if self.no_pick else self.name
        return f"{'-' if self.sign < 0 else '+'}weight * {value}"

    def of_batch(self, values: NDArray[np.floating]) -> float:
        """Return the value of a batch from those of its samples (n,)."""
        if self.of_samples == "mean":
            return float(np.add.reduce(values) / len(values))
        return sum(values.tolist())


TERMS = (
    Term(
        "domain_gain",
        "fall of the domain loss, percent of the loss at the start",
        lambda t: 100.0 * (t.before.domain - t.after.domain) / t.initial_domain,
        default_weights=dict.fromkeys(_ANSWERS, 1.0),
    ),
    Term(
        "anchor_gain",
        "change of the least fall over capabilities, since the start, of the loss on "
        "reference answers, percent of the loss at the start",
        lambda t: t.before.reference - t.after.reference,
        default_weights={REFERENCE: 1.0, BOTH: 1.0},
    ),
    Term(
        "forgetting",
        "change of the largest rise over capabilities, since the start and at least 0, "
        "of the loss on the model's own answers, percent of the loss at the start; 0 "
        "for a bundle without own answers",
        lambda t: t.after.forgotten - t.before.forgotten,
        sign=-1.0,
        default_weights={OWN: 1.0, BOTH: 1.0},
    ),
    Term(
        "conflict",
        "change of the largest rise over capabilities, since the start and at least 0, "
        "of the loss on reference answers, percent of the loss at the start",
        lambda t: t.after.harm - t.before.harm,
        sign=-1.0,
    ),
    # Orth of Zhang, Tian, Wang, Song 2026, arXiv 2602.06359.
    Term(
        "orthogonality",
        "1 - largest |cosine| over capabilities of the sample's gradient with the mean "
        "anchor gradient, in [0, 1]; 1 if to first order no capability changes",
        lambda t: t.largest((0.0, 1.0 - t.largest(map(abs, t.cosines)))),
        no_pick=1.0,
        of_samples="mean",
    ),
    # After Domain Curiosity (Struckmeier, Arndt, Kyrki): the log-determinant is that of
    # Bayesian linear regression with unit noise.
    Term(
        "information",
        "increase of log det(I + sum of u u^T over the picks), u the unit initial "
        "sketches, nats, in (0, log 2] for a sample; not computed, and 0, unless it "
        "has a weight",
        lambda t: t.information,
        of_samples="sum",
    ),
)
"""All reward terms, in the order of their sum."""
# Attributes of the terms, looked up once: it would slow down every step.
_ENTRIES = tuple((term.name, term.sign, term.no_pick) for term in TERMS)

DEFAULT_WEIGHTS: dict[str, dict[str, float]] = {
    kind: {term.name: term.default_weights.get(kind, 0.0) for term in TERMS}
    for kind in _ANSWERS
}
"""Default weight of every term, by whose answers the anchor is about."""
COST: dict[str, str] = {OWN: "forgetting", REFERENCE: "conflict"}
"""The term that is the cost, by `answers_of`."""
NO_PICK: dict[str, float] = {term.name: term.no_pick for term in TERMS}
"""Value of every term in a step without a pick."""


def answers_of(bundle: Bundle) -> str:
    """Return whose answers the cost is about: `OWN`, or `REFERENCE` without those."""
    return OWN if bundle.has_answers else REFERENCE


def checked_weights(
    given: Mapping[str, float] | None,
    bundle: Bundle,
    defaults: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Return the weight of every term.

    Args:
        given: Weights by term; the others are the defaults.
        bundle: Bundle whose anchor decides the defaults.
        defaults: Weights of all terms to use instead of those.

    Raises:
        InputError: For a name that is no term, or a weight that is no finite number.
    """
    if not isinstance(given, Mapping | None):
        raise InputError(f"reward_weights: {given!r}; expected a weight for each name")
    answers = bundle.manifest.get("answers") or {"kind": REFERENCE}
    weights = dict(defaults or DEFAULT_WEIGHTS[answers["kind"]])
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
    total: Any = None
    for name, sign, no_pick in _ENTRIES:
        value = terms[name] - no_pick if no_pick else terms[name]
        part = sign * weights[name] * value
        # Not from 0.0, which would make a sum of -0.0 positive.
        total = part if total is None else total + part
    return total


def episode_terms(sums: Mapping[str, Values], steps: Values) -> dict[str, Values]:
    """Return the terms of whole episodes from the sums over their steps.

    Args:
        sums: By term, the sum over the steps; a float, or an array (n,) of n episodes.
        steps: Number of steps of the episode, or of each (n,).
    """
    means = {term.name for term in TERMS if term.of_samples == "mean"}
    return {
        name: total / steps if name in means else total for name, total in sums.items()
    }


def document_terms(
    weights: Mapping[str, Mapping[str, float]],
) -> Callable[[AnyClass], AnyClass]:
    """Return a decorator that replaces `<reward terms>` in a class's docstring.

    The list of the terms, with their formulas and default weights, takes its place.

    Args:
        weights: Default weights by whose answers the anchor is about.
    """

    def entry(term: Term) -> str:
        default = [(kind, f"{own[term.name]:g}") for kind, own in weights.items()]
        weight = ", ".join(f"{value} ({kind})" for kind, value in default)
        if len({value for _, value in default}) == 1:
            weight = default[0][1]
        lines = (
            f"- `{term.name}`: {term.documentation}.",
            f"  Enters as {term.formula}. Default weight: {weight}.",
        )
        wrap = textwrap.TextWrapper(
            width=84, subsequent_indent="  ", break_on_hyphens=False
        )
        return "\n".join(map(wrap.fill, lines))

    def decorate(cls: AnyClass) -> AnyClass:
        if cls.__doc__:  # None under python -OO
            terms = "\n".join(map(entry, TERMS))
            cls.__doc__ = inspect.cleandoc(cls.__doc__).replace("<reward terms>", terms)
        return cls

    return decorate
