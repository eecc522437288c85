"""Fit the learner's response to real runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls

from ogs_env.experiments.fidelity.table import Table
from ogs_env.experiments.fidelity.terms import Terms

Array = NDArray[np.float64]

_COLLAPSE = 0.5
"""Own answers' rise, in parts of their first loss, beyond which a model is ruined."""


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
    entry: dict[str, Any] = {"sketches": "trajectory", "epochs": epochs}
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


def fitted_untouched(
    terms: Terms, found: Table, kind: str, further: Sequence[tuple[Terms, Table]] = ()
) -> dict[str, Any]:
    """Return the entry for gradients of the untouched model alone.

    As `fitted_learner`, but own answers' rise is told by the distance, too.

    Args:
        terms: Of the subsets.
        found: Their real runs: the development list.
        kind: Whose gradients tell what is forgotten.
        further: Lists that this is fitted to beside the development list.
    """
    entry = fitted_learner(terms.untouched(), found, kind)
    lists = [(terms, found), *further]
    entry["forgetting"] |= fitted_forgetting(
        lists, kind, entry["forgetting"]["curvature"]
    )
    return entry


def fitted_curvature(terms: Terms, found: Table, kind: str) -> float:
    """Return the curvature that makes the real rises of own answers of `moved`."""
    names = terms.capabilities
    x = np.concatenate([terms.moved(f"{kind}/{name}") for name in names])
    x *= found.epochs**2
    y = np.concatenate([_real(terms, found, f"own/{n}", f"own/{n}") for n in names])
    return max(0.0, float(x @ y / (x @ x)))


def fitted_forgetting(
    lists: Sequence[tuple[Terms, Table]], kind: str, curvature: float
) -> dict[str, float]:
    """Return share and distance that make the real rises of own answers best.

    Least squares in nats, neither negative. Models that collapse are left out: what
    tells them from others is not how much they forget. Lists of several recipes are
    needed to tell the two parts apart.

    Args:
        lists: Terms of subsets, and their real runs.
        kind: Whose gradients tell what is forgotten.
        curvature: What `Terms.moved` is multiplied by.
    """
    parts, rises = [], []
    for terms, found in lists:
        distance = found.epochs * terms.naive["distance"]
        for name in terms.capabilities:
            moved = curvature * found.epochs**2 * terms.moved(f"{kind}/{name}")
            real = _real(terms, found, f"own/{name}", f"own/{name}")
            whole = real < _COLLAPSE * terms.start(f"own/{name}")
            parts.append(np.stack([moved, distance], axis=1)[whole])
            rises.append(real[whole])
    share, distance = nnls(np.concatenate(parts), np.concatenate(rises))[0].tolist()
    return {"share": share, "distance": distance}


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
    forgetting = {name: round(v, 5) for name, v in entry["forgetting"].items()}
    return roles | {"forgetting": forgetting}
