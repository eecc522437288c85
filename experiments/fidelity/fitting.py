"""Fit the learner's response to the real runs of the development list."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from ogs_env.experiments.fidelity.table import Table
from ogs_env.experiments.fidelity.terms import Terms

Array = NDArray[np.float64]


def fitted_learner(
    terms: Terms, found: Table, kind: str, *, forgets: bool = True
) -> dict[str, Any]:
    """Return the manifest's `learner` entry that predicts real runs best.

    The curvature is fitted to the real losses on own answers of all capabilities; then
    the domain to the test loss, from the dev samples and the mean of what is forgotten;
    and the anchor to the first capability's references, from its anchor samples and
    what of the capability is forgotten.

    Args:
        terms: Of the subsets.
        found: Their real runs: the development list.
        kind: Whose gradients tell what is forgotten: those of `own` answers or of the
            `reference`.
        forgets: Whether anything is forgotten; else the curvature is 0.
    """
    epochs = found.epochs
    curvature = forgets * fitted_curvature(terms, found, kind)
    entry: dict[str, Any] = {"sketches": "path", "epochs": epochs}
    first, scale = terms.capabilities[0], curvature * epochs**2
    for role, group, measured, moved in (
        ("domain", "domain", "test", terms.mean_moved(kind)),
        (
            "anchor",
            f"reference/{first}",
            f"reference/{first}",
            terms.moved(f"{kind}/{first}"),
        ),
    ):
        *slopes, share = fitted_response(
            terms, found, (group, measured), scale * moved
        ).tolist()
        entry[role] = {"slope": slopes, "share": share}
    return entry | {"forgetting": {"curvature": curvature}}


def fitted_curvature(terms: Terms, found: Table, kind: str) -> float:
    """Return the curvature that makes the real rises of own answers of `moved`."""
    names = terms.capabilities
    x = np.concatenate([terms.moved(f"{kind}/{name}") for name in names])
    x *= found.epochs**2
    y = np.concatenate([_real(terms, found, f"own/{n}", f"own/{n}") for n in names])
    return max(0.0, float(x @ y / (x @ x)))


def fitted_response(
    terms: Terms, found: Table, group: tuple[str, str], forgotten: Array
) -> Array:
    """Return the slopes and the share, none negative, that make real changes best.

    Least squares in nats, without an intercept.

    Args:
        terms: Of the subsets.
        found: Their real runs.
        group: Whose samples move, and what was measured.
        forgotten: What the share is of (subsets,), nats.

    Returns:
        (checkpoints + 1,).
    """
    changes = _real(terms, found, *group)

    def residuals(weights: Array) -> Array:
        own = terms.change(group[0], weights[:-1], found.epochs)
        return own + weights[-1] * forgotten - changes

    start = np.full(len(terms.steps) + 1, 0.1)
    weights: Array = least_squares(residuals, start, bounds=(0, np.inf)).x
    return weights


def _real(terms: Terms, found: Table, group: str, measured: str) -> Array:
    """Return real changes of a group's loss (subsets,), nats."""
    changes: Array = found.real[measured] / 100 * terms.start(group)
    return changes


def fitted_constants(entry: dict[str, Any]) -> dict[str, Any]:
    """Return one entry of `ogs_env.learners.fitted.FITTED`.

    Args:
        entry: A fitted `learner` entry.
    """
    roles = {
        role: {
            "slope": [round(slope, 5) for slope in entry[role]["slope"]],
            "share": round(entry[role]["share"], 5),
        }
        for role in ("domain", "anchor")
    }
    curvature = round(entry["forgetting"]["curvature"], 5)
    return roles | {"forgetting": {"curvature": curvature}}
