"""Fit the learner's response to real fine-tuning runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls

from ogs_env.experiments.fidelity.table import Table
from ogs_env.experiments.fidelity.terms import Terms

Array = NDArray[np.float64]

_COLLAPSE = 0.5
"""Relative rise of the loss on own answers above which a model has collapsed."""


def fitted_learner(
    terms: Terms, data: Table, kind: str, *, forgets: bool = True
) -> dict[str, Any]:
    """Return the manifest's `learner` entry that predicts real runs best.

    The curvature is fitted to the real losses on own answers of all capabilities; then
    the domain's response to the test loss, from the dev samples and the mean
    forgetting; and the anchor's to the first capability's references, from its anchor
    samples and its forgetting.

    Args:
        terms: Terms of the subsets of the development list.
        data: Their real changes.
        kind: Answers whose gradients predict forgetting: `own` or `reference`.
        forgets: Whether forgetting is a part of the model; else the curvature is 0.
    """
    epochs = data.epochs
    curvature = forgets * fitted_curvature(terms, data, kind)
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
            terms, data, (group, measured), scale * moved
        ).tolist()
        entry[role] = {"slope": slopes, "share": share}
    return entry | {"forgetting": {"curvature": curvature}}


def fitted_untouched(
    terms: Terms, data: Table, kind: str, further: Sequence[tuple[Terms, Table]] = ()
) -> dict[str, Any]:
    """Return the entry for gradients of the untouched model only.

    As `fitted_learner`, but the rise of the loss on own answers also depends on the
    distance.

    Args:
        terms: Terms of the subsets of the development list.
        data: Their real changes.
        kind: Answers whose gradients predict forgetting.
        further: Further lists to fit the distance to.
    """
    entry = fitted_learner(terms.untouched(), data, kind)
    lists = [(terms, data), *further]
    entry["forgetting"] |= fitted_forgetting(
        lists, kind, entry["forgetting"]["curvature"]
    )
    return entry


def fitted_curvature(terms: Terms, data: Table, kind: str) -> float:
    """Return the curvature that predicts the rises on own answers from `moved`."""
    names = terms.capabilities
    x = np.concatenate([terms.moved(f"{kind}/{name}") for name in names])
    x *= data.epochs**2
    y = np.concatenate([_real(terms, data, f"own/{n}", f"own/{n}") for n in names])
    return max(0.0, float(x @ y / (x @ x)))


def fitted_forgetting(
    lists: Sequence[tuple[Terms, Table]], kind: str, curvature: float
) -> dict[str, float]:
    """Return share and distance that predict the real rises on own answers best.

    Non-negative least squares in nats. Models that collapsed are left out, since their
    rises are of another kind than forgetting. Lists of several recipes are needed to
    distinguish the two parts.

    Args:
        lists: Terms of subsets, and their real changes.
        kind: Answers whose gradients predict forgetting.
        curvature: Factor of `Terms.moved`.
    """
    parts, rises = [], []
    for terms, data in lists:
        distance = data.epochs * terms.naive["distance"]
        for name in terms.capabilities:
            moved = curvature * data.epochs**2 * terms.moved(f"{kind}/{name}")
            real = _real(terms, data, f"own/{name}", f"own/{name}")
            intact = real < _COLLAPSE * terms.start(f"own/{name}")
            parts.append(np.stack([moved, distance], axis=1)[intact])
            rises.append(real[intact])
    share, distance = nnls(np.concatenate(parts), np.concatenate(rises))[0].tolist()
    return {"share": share, "distance": distance}


def fitted_response(
    terms: Terms, data: Table, group: tuple[str, str], forgotten: Array
) -> Array:
    """Return the slopes and the share that predict real changes best.

    Non-negative least squares in nats, without an intercept.

    Args:
        terms: Terms of the subsets.
        data: Their real changes.
        group: Group of the shifts, and name of the real change.
        forgotten: Forgetting (subsets,), nats, that the share multiplies.

    Returns:
        (checkpoints + 1,).
    """
    changes = _real(terms, data, *group)

    def residuals(weights: Array) -> Array:
        own = terms.change(group[0], weights[:-1], data.epochs)
        return own + weights[-1] * forgotten - changes

    start = np.full(len(terms.steps) + 1, 0.1)
    weights: Array = least_squares(residuals, start, bounds=(0, np.inf)).x
    return weights


def _real(terms: Terms, data: Table, group: str, measured: str) -> Array:
    """Return real changes of a group's loss (subsets,), nats."""
    changes: Array = data.real[measured] / 100 * terms.start(group)
    return changes


def fitted_constants(entry: dict[str, Any]) -> dict[str, Any]:
    """Return one entry of `ogs_env.learners.fitted.FITTED`.

    Args:
        entry: A fitted `learner` entry of a manifest.
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
