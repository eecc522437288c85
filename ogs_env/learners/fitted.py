"""How strongly losses respond to what is learned, as fitted to real runs."""

from collections.abc import Sequence
from typing import Any

# Slope and curvature of domain and anchor by warm-up step; the curvature of own answers
# at the untouched model, and the share of their rise that the domain's loss rises by;
# and those where there is no path. `domain_alone` is the domain's response where there
# are no own answers. Fitted to real runs of Medical's development list (`ogs fidelity
# --fit`), without a path to an earlier list. Their unit is the root mean square norm of
# the studied bundle's dev samples' sketches.
FITTED: dict[int, dict[str, Any]] = {
    0: {
        "norm": 46.2661,
        "domain": (0.18923, 0.3386),
        "domain_alone": (0.06828, 0.0),
        "anchor": (0.3194, 3.46676),
        "answers": 0.06358,
        "domain_share": 0.78365,
    },
    6: {
        "norm": 58.7243,
        "domain": (0.04657, 0.0),
        "domain_alone": (0.09805, 0.20628),
        "anchor": (0.04435, 0.13832),
    },
    24: {
        "norm": 60.5157,
        "domain": (0.06563, 1.23064),
        "domain_alone": (0.06301, 0.95326),
        "anchor": (0.0, 0.0),
    },
}
FITTED_START: dict[str, Any] = {
    "norm": 0.7799,
    "domain_alone": (0.2895, 2.28811),
    "anchor": (0.18249, 1.07495),
    # Not fitted: without a path nothing is trained in.
    "answers": 1.0,
}
FITTED_SPACE = "2bf3851c0d43ecc8"
"""The sketch space (proxy, adapter, projection) of the studied bundle."""


def default_learner(
    steps: Sequence[int], norms: Sequence[float] | None = None, answers: bool = True
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
        answers: Whether the bundle has own answers. They respond at the untouched
            model alone, which is the first checkpoint of a bundle with both.
    """
    fitted, sketches = [FITTED_START], "start"
    if steps:
        nearest = [min(FITTED, key=lambda known: abs(known - step)) for step in steps]
        fitted, sketches = [FITTED[step] for step in nearest], "path"
    units = [one["norm"] for one in fitted]
    pairs = zip(units if norms is None else norms, units, strict=True)
    ratios = [norm / unit for norm, unit in pairs]
    entry: dict[str, Any] = {"sketches": sketches}
    alone = not (steps and answers)
    for role in ("domain", "anchor"):
        known = "domain_alone" if alone and role == "domain" else role
        slopes, curvatures = zip(*[one[known] for one in fitted], strict=True)
        entry[role] = {
            "slope": _in_units(slopes, ratios, 1),
            "curvature": _in_units(curvatures, ratios, 2),
        }
    if answers:
        [curvature] = _in_units([fitted[0]["answers"]], ratios[:1], 2)
        share = 0.0 if alone else FITTED[0]["domain_share"]
        entry["answers"] = {"curvature": curvature, "domain_share": share}
    return entry


def _in_units(
    values: Sequence[float], ratios: Sequence[float], power: int
) -> list[float]:
    return [round(v * r**power, 5) for v, r in zip(values, ratios, strict=True)]
