"""Fit the learner's response to the real runs of the development list."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from ogs_env.experiments.fidelity.table import Table
from ogs_env.experiments.fidelity.terms import Terms

Array = NDArray[np.float64]
Columns = Callable[[Terms, str], Array]
"""Picks from a group's terms what is weighted (subsets, columns)."""


def slopes_and_curvatures(terms: Terms, group: str) -> Array:
    """Pick all terms: the slopes' of each checkpoint, then the curvatures'."""
    return terms.values[group].reshape(len(terms.subsets), -1)


def with_own_answers(terms: Terms, group: str) -> Array:
    """Pick all terms, and behind them the mean term of own answers."""
    return np.column_stack([slopes_and_curvatures(terms, group), terms.own()])


def curvatures(terms: Terms, group: str) -> Array:
    """Pick the curvatures' terms."""
    return terms.values[group][:, 1]


def fitted_learner(terms: Terms, found: Table, answers: bool = True) -> dict[str, Any]:
    """Return the manifest's `learner` entry that predicts real runs best.

    The one curvature of own answers is fitted from those of all capabilities together
    to their real losses; the domain from the dev samples' terms, and the mean term of
    own answers, to the test loss; the anchor from the first capability's references to
    its retention samples' loss.

    Args:
        terms: Of the subsets.
        found: Their real runs: the development list.
        answers: Whether the learner is of a bundle with own answers.
    """
    first = f"reference/{terms.capabilities[0]}"
    own = {f"own/{name}": f"own/{name}" for name in terms.capabilities}
    of_domain = with_own_answers if answers else slopes_and_curvatures
    domain = fit(terms, found, {"domain": "test"}, of_domain).tolist()
    anchor = fit(terms, found, {first: first}, slopes_and_curvatures).tolist()
    entry: dict[str, Any] = {"sketches": "path"}
    for role, weights in (("domain", domain), ("anchor", anchor)):
        slope, curvature = np.reshape(weights[: len(anchor)], (2, -1)).tolist()
        entry[role] = {"slope": slope, "curvature": curvature}
    if answers:
        (curvature,) = fit(terms, found, own, curvatures).tolist()
        # Without a curvature nothing is forgotten that the domain could miss.
        share = domain[-1] / curvature if curvature else 0.0
        entry["answers"] = {"curvature": curvature, "domain_share": share}
    return entry


def fit(
    terms: Terms, found: Table, measured: Mapping[str, str], columns: Columns
) -> Array:
    """Fit weights, none negative, that make real changes of terms.

    Least squares on the change of each subset in nats, without an intercept.

    Args:
        terms: Of the subsets.
        found: Their real runs.
        measured: By group of terms what was measured, of `Table.real`; all groups have
            the same weights.
        columns: What of the terms is weighted.

    Returns:
        The weights (columns,).
    """
    changes = [
        found.real[name] / 100 * terms.start[group] for group, name in measured.items()
    ]
    inputs = [columns(terms, group) for group in measured]
    weights: Array = nnls(np.concatenate(inputs), np.concatenate(changes))[0]
    return weights


def fitted_constants(
    terms: Terms, entry: Mapping[str, Any], alone: Mapping[str, Any]
) -> dict[int, Any]:
    """Return what `ogs_env.learners.fitted.FITTED` should hold, by warm-up step.

    Args:
        terms: Whose norms are the constants' unit.
        entry: A fitted `learner` entry.
        alone: One that was fitted without own answers.
    """

    def pair(response: Mapping[str, Any], number: int) -> list[float]:
        slope, curvature = (response[n][number] for n in ("slope", "curvature"))
        return [round(slope, 5), round(curvature, 5)]

    constants: dict[int, Any] = {
        step: {
            "norm": round(terms.norms[number], 4),
            "domain": pair(entry["domain"], number),
            "domain_alone": pair(alone["domain"], number),
            "anchor": pair(entry["anchor"], number),
        }
        for number, step in enumerate(terms.steps)
    }
    answers = entry["answers"]
    constants[0]["answers"] = round(answers["curvature"], 5)
    constants[0]["domain_share"] = round(answers["domain_share"], 5)
    return constants
