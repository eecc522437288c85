"""Fit the learner's response to the real runs of the development list."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from ogs_env.experiments.fidelity.report import Table
from ogs_env.experiments.fidelity.terms import Terms

Array = NDArray[np.float64]


def fitted_learner(terms: Terms, found: Table) -> dict[str, Any]:
    """Return the manifest's `learner` entry that predicts real runs best.

    Non-negative least squares on the real change of each subset in nats, without an
    intercept. For the domain from the dev samples' terms to the test loss; for the
    anchor from the first capability's references to its retention samples' loss; for
    own answers, which have no slope, from all capabilities' together.

    Args:
        terms: Of the subsets.
        found: Their real runs: the development list.
    """
    first = f"reference/{terms.capabilities[0]}"
    own = [f"own/{name}" for name in terms.capabilities]
    entry: dict[str, Any] = {"sketches": "path"}
    for role, group, real in (
        ("domain", "domain", "test"),
        ("anchor", first, first),
    ):
        values = terms.values[group]
        change = found.real[real] / 100 * terms.start[group]
        solution = _solve(values.reshape(len(values), -1), change)
        slopes, curvatures = solution.reshape(2, -1)
        entry[role] = {"slope": slopes.tolist(), "curvature": curvatures.tolist()}
    scales = _solve(
        np.concatenate([terms.values[name][:, 1] for name in own]),
        np.concatenate([found.real[n] / 100 * terms.start[n] for n in own]),
    )
    entry["answers"] = {"curvature": scales.tolist()}
    return entry


def fitted_constants(terms: Terms, entry: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Return what `ogs_env.learners.fitted.FITTED` should hold, by warm-up step."""

    def pair(role: str, number: int) -> list[float]:
        values = entry[role]["slope"][number], entry[role]["curvature"][number]
        return [round(value, 5) for value in values]

    return {
        step: {
            "norm": round(terms.norms[number], 4),
            "domain": pair("domain", number),
            "anchor": pair("anchor", number),
            "answers": round(entry["answers"]["curvature"][number], 5),
        }
        for number, step in enumerate(terms.steps)
    }


def _solve(inputs: Array, change: Array | Sequence[float]) -> Array:
    solution: Array = nnls(inputs, change)[0]
    return solution
