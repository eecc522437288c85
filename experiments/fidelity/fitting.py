"""Fit the learner's response to the real runs of the development list."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from ogs_env.experiments.fidelity.table import Table
from ogs_env.experiments.fidelity.terms import Terms

Array = NDArray[np.float64]
Columns = Callable[[Array], Array]
"""Picks from terms (subsets, 2, checkpoints) what is weighted (subsets, columns)."""


def slopes_and_curvatures(values: Array) -> Array:
    """Pick all terms: the slopes' of each checkpoint, then the curvatures'."""
    return values.reshape(len(values), -1)


def curvatures(values: Array) -> Array:
    """Pick the curvatures' terms."""
    return values[:, 1]


def fitted_learner(terms: Terms, found: Table) -> dict[str, Any]:
    """Return the manifest's `learner` entry that predicts real runs best.

    The domain is fitted from the dev samples' terms to the test loss; the anchor from
    the first capability's references to its retention samples' loss; the one curvature
    of own answers from those of all capabilities together.

    Args:
        terms: Of the subsets.
        found: Their real runs: the development list.
    """
    first = f"reference/{terms.capabilities[0]}"
    own = {f"own/{name}": f"own/{name}" for name in terms.capabilities}
    entry: dict[str, Any] = {"sketches": "path"}
    for role, measured in (("domain", {"domain": "test"}), ("anchor", {first: first})):
        weights = fit(terms, found, measured, slopes_and_curvatures)
        slope, curvature = weights.reshape(2, -1).tolist()
        entry[role] = {"slope": slope, "curvature": curvature}
    (curvature,) = fit(terms, found, own, curvatures).tolist()
    return entry | {"answers": {"curvature": curvature}}


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
    inputs = [columns(terms.values[group]) for group in measured]
    weights: Array = nnls(np.concatenate(inputs), np.concatenate(changes))[0]
    return weights


def fitted_constants(terms: Terms, entry: Mapping[str, Any]) -> dict[int, Any]:
    """Return what `ogs_env.learners.fitted.FITTED` should hold, by warm-up step.

    Args:
        terms: Whose norms are the constants' unit.
        entry: A fitted `learner` entry.
    """

    def pair(role: str, number: int) -> list[float]:
        slope, curvature = (entry[role][n][number] for n in ("slope", "curvature"))
        return [round(slope, 5), round(curvature, 5)]

    constants: dict[int, Any] = {
        step: {
            "norm": round(terms.norms[number], 4),
            "domain": pair("domain", number),
            "anchor": pair("anchor", number),
        }
        for number, step in enumerate(terms.steps)
    }
    constants[0]["answers"] = round(entry["answers"]["curvature"], 5)
    return constants
