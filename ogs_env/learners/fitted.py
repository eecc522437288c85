"""How strongly losses respond to what is learned, as fitted to real runs."""

from collections.abc import Sequence
from typing import Any

# Slope and curvature of domain and anchor by warm-up step, and the curvature of own
# answers at the untouched model, fitted to real runs of Medical's development list
# (`ogs fidelity --fit`), and those where there is no path. Those of domain and anchor
# are from an earlier list of 51 subsets. Their unit is the root mean square norm of the
# studied bundle's dev samples' sketches.
FITTED: dict[int, dict[str, Any]] = {
    0: {
        "norm": 46.2661,
        "domain": (0.05883, 0.0),
        "anchor": (0.34297, 3.97704),
        "answers": 0.06357,
    },
    6: {
        "norm": 58.7243,
        "domain": (0.07561, 0.22577),
        "anchor": (0.04015, 0.18744),
    },
    24: {
        "norm": 60.5156,
        "domain": (0.09834, 0.0),
        "anchor": (0.0, 0.24426),
    },
}
FITTED_START: dict[str, Any] = {
    "norm": 0.7799,
    "domain": (0.2895, 2.28811),
    "anchor": (0.18249, 1.07495),
    # Not fitted: without a path nothing is trained in.
    "answers": 1.0,
}
FITTED_SPACE = "2bf3851c0d43ecc8"
"""The sketch space (proxy, adapter, projection) of the studied bundle."""


def default_learner(
    steps: Sequence[int], norms: Sequence[float] | None = None
) -> dict[str, Any]:
    """Return the manifest's `learner` entry.

    A step has one length in the metric of Adam, whatever is learned: where gradients
    are as in the study, a dev set of one-word answers, whose gradients are five times
    as long, moves five times as far.

    Own answers respond at the untouched model alone. They have no entry where the first
    checkpoint is another: such a path can have no own answers.

    Args:
        steps: Of the checkpoints, 0 for the untouched model; none without a path. Each
            responds as the study's nearest does.
        norms: Root mean square norms of the dev samples' sketches, one a step, or the
            one at the start; taken to be the study's when omitted, as they must be for
            another proxy.
    """
    fitted, sketches = [FITTED_START], "start"
    if steps:
        nearest = [min(FITTED, key=lambda known: abs(known - step)) for step in steps]
        fitted, sketches = [FITTED[step] for step in nearest], "path"
    units = [one["norm"] for one in fitted]
    pairs = zip(units if norms is None else norms, units, strict=True)
    ratios = [norm / unit for norm, unit in pairs]
    entry: dict[str, Any] = {"sketches": sketches}
    for role in ("domain", "anchor"):
        slopes, curvatures = zip(*[one[role] for one in fitted], strict=True)
        entry[role] = {
            "slope": _in_units(slopes, ratios, 1),
            "curvature": _in_units(curvatures, ratios, 2),
        }
    if not any(steps[:1]):
        answers = _in_units([fitted[0]["answers"]], ratios[:1], 2)
        entry["answers"] = {"curvature": answers[0]}
    return entry


def _in_units(
    values: Sequence[float], ratios: Sequence[float], power: int
) -> list[float]:
    return [round(v * r**power, 5) for v, r in zip(values, ratios, strict=True)]
