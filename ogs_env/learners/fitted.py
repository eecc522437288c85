"""How strongly losses respond to what is learned, as fitted to real runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# By whose answers tell what is forgotten, the model's own or references: slopes of
# domain and anchor by checkpoint with the share of what is forgotten, and the curvature
# of that. Fitted to real runs of Medical's development list (`ogs fidelity --fit`).
# Their unit is the root mean square norm of the studied bundle's dev samples' sketches.
STEPS = (0, 6, 24)
NORMS = (46.3488, 58.7917, 60.4906)
FITTED: dict[str, dict[str, Any]] = {
    "own": {
        "domain": {"slope": (0.1426, 0.05203, 0.0508), "share": 0.69298},
        "anchor": {"slope": (0.16264, 0.04999, 0.0), "share": 0.37962},
        "forgetting": {"curvature": 0.06413},
    },
    "reference": {
        "domain": {"slope": (0.03544, 0.08077, 0.07345), "share": 0.00729},
        "anchor": {"slope": (0.33594, 0.03269, 0.01013), "share": 1.57504},
        "forgetting": {"curvature": 0.0085},
    },
}
# Of a path that ends where it begins, at the untouched model: fitted to the same runs,
# but what is forgotten also to a list of users' recipe, a tenth of the pool for three
# epochs: one epoch does not tell growth with the distance from growth with its square.
FITTED_UNTOUCHED: dict[str, dict[str, Any]] = {
    "own": {
        "domain": {"slope": (0.32872,), "share": 1.79622},
        "anchor": {"slope": (0.23192,), "share": 0.97414},
        "forgetting": {"curvature": 0.06413, "share": 0.06826, "distance": 0.00405},
    },
    "reference": {
        "domain": {"slope": (0.34805,), "share": 1.91946},
        "anchor": {"slope": (0.40054,), "share": 2.06346},
        "forgetting": {"curvature": 0.0085, "share": 0.06428, "distance": 0.00387},
    },
}
INITIAL_NORM = 0.7799
FITTED_INITIAL: dict[str, dict[str, Any]] = {
    # Not fitted: without a path nothing is trained in.
    "domain": {"slope": (0.2895,), "share": 0.7},
    "anchor": {"slope": (0.18249,), "share": 0.4},
    "forgetting": {"curvature": 1.0},
}
FITTED_SPACE = "2bf3851c0d43ecc8"
"""The sketch space (proxy, adapter, projection) of the studied bundle."""
LAYERS = 10
"""Decoder layers, from the last, that the constants are about: sketched and trained."""
EPOCHS = 3
"""How often users train on a selection, which is what learners are to foretell."""


def default_learner(
    steps: Sequence[int],
    norms: Sequence[float] | None = None,
    answers: str = "own",
    epochs: int = EPOCHS,
) -> dict[str, Any]:
    """Return the manifest's `learner` entry.

    A step has one length in the metric of Adam, whatever is learned: where gradients
    are as in the study, a dev set of one-word answers, whose gradients are five times
    as long, moves five times as far.

    Args:
        steps: Of the checkpoints, 0 for the untouched model; none without a path. Each
            responds as the study's nearest does.
        norms: Root mean square norms of the dev samples' sketches, one a step, or the
            one at the start; taken to be the study's when omitted, as they must be for
            another proxy.
        answers: Whose gradients tell what is forgotten: the model's `"own"` answers',
            or those of the `"reference"`.
        epochs: How often a selection is trained on.
    """
    fitted, units, nearest = FITTED_INITIAL, [INITIAL_NORM], [0]
    if steps:
        fitted = (FITTED if any(steps) else FITTED_UNTOUCHED)[answers]
        nearest = [int(np.abs(np.subtract(STEPS, step)).argmin()) for step in steps]
        units = [NORMS[place] for place in nearest]
    pairs = zip(units if norms is None else norms, units, strict=True)
    fitted = fitted | {
        role: fitted[role] | {"slope": [fitted[role]["slope"][at] for at in nearest]}
        for role in ("domain", "anchor")
    }
    entry = {"sketches": "trajectory" if steps else "initial", **fitted}
    return rescaled(entry, [norm / unit for norm, unit in pairs], epochs)


def rescaled(
    learner: dict[str, Any], ratios: Sequence[float], epochs: int
) -> dict[str, Any]:
    """Return a manifest's `learner` entry for sketches of another length.

    Args:
        learner: An entry.
        ratios: Norms of the other sketches in those of its own, one a checkpoint.
        epochs: How often a selection is trained on.
    """
    entry = {"sketches": learner["sketches"], "epochs": epochs}
    for role in ("domain", "anchor"):
        pairs = zip(learner[role]["slope"], ratios, strict=True)
        slopes = [round(slope * ratio, 5) for slope, ratio in pairs]
        entry[role] = {"slope": slopes, "share": learner[role]["share"]}
    forgetting = learner["forgetting"]
    curvature = round(forgetting["curvature"] * ratios[0] ** 2, 5)
    entry["forgetting"] = {**forgetting, "curvature": curvature}
    return entry
