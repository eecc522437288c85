"""Constants of the surrogate learner, fitted to real fine-tuning runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Slopes of domain and anchor by checkpoint, their shares of the forgetting, and its
# curvature, for bundles whose forgetting is predicted from own or reference answers.
# Fitted to real runs of Medical's development list (`ogs fidelity --fit`), in units of
# the root mean square norm of the sketches of Medical's dev samples.
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
# For a trajectory whose only checkpoint is the untouched model. Fitted to the same
# runs; the forgetting also to a list with the users' recipe, a tenth of the pool for
# three epochs, because a single epoch cannot separate growth with the distance from
# growth with its square.
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
FORGETTING_DEFAULTS = {"share": 1, "distance": 0}
"""Response of own answers where a `learner` entry has a curvature alone."""
INITIAL_NORM = 0.7799
FITTED_INITIAL: dict[str, dict[str, Any]] = {
    # Not fitted: environments for training need a trajectory.
    "domain": {"slope": (0.2895,), "share": 0.7},
    "anchor": {"slope": (0.18249,), "share": 0.4},
    "forgetting": {"curvature": 1.0},
}
FITTED_SPACE = "2bf3851c0d43ecc8"
"""The sketch space (proxy, adapter, projection) that the constants were fitted in."""
LAYERS = 10
"""Number of last decoder layers that were sketched and trained for the constants."""
EPOCHS = 3
"""Default number of epochs on a selection, which learners predict."""


def default_learner(
    steps: Sequence[int],
    norms: Sequence[float] | None = None,
    answers: str = "own",
    epochs: int = EPOCHS,
) -> dict[str, Any]:
    """Return the manifest's `learner` entry.

    A step has the same length in Adam's metric for all samples. In the fitted sketch
    space, a dev set of one-word answers, whose gradients are five times as long,
    therefore moves five times as far.

    Args:
        steps: Steps of the checkpoints, 0 for the untouched model; empty without a
            trajectory. Each has the slopes of the nearest step in `STEPS`.
        norms: Root mean square norms of the dev samples' sketches, one per step, or
            that of the initial sketches. By default those of the fit, which must be
            used for any other proxy.
        answers: The answers that predict the forgetting, `"own"` or `"reference"`.
        epochs: Number of epochs on a selection.
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
    """Rescale a manifest's `learner` entry to sketches of another length.

    Args:
        learner: The entry.
        ratios: New norms divided by the entry's norms, one per checkpoint.
        epochs: Number of epochs on a selection.
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
