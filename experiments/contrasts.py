"""Compare fine-tuning runs of different selections on the same held-out samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ogs_env.agents.episodes import summarise

MEASURED = ("test", "answers")
"""Losses to compare: of the domain test set, and on the model's own answers."""
RESAMPLES = 10_000


def mean_change(result: Mapping[str, Any], role: str) -> float:
    """Return the change of a mean loss by fine-tuning, in percent.

    Args:
        result: Result of `ogs_env.experiments.finetune.finetune`.
        role: `"test"`, `"answers"` or `"retention"`.
    """
    before, after = (result[t][role]["per_sample"] for t in ("before", "after"))
    return float(100 * (after / before - 1))


def change(result: Mapping[str, Any], role: str) -> dict[str, float]:
    """Return `mean_change` with its interval.

    Returns:
        `mean`, and its 95 % interval `low` to `high`: a percentile bootstrap over the
        measured samples. It does not include the variance between runs.
    """
    before, after = (np.array(result[t][role]["each"]) for t in ("before", "after"))
    samples = len(before)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(samples, np.full(samples, 1 / samples), size=RESAMPLES)
    ratios = (drawn @ after) / (drawn @ before)
    low, high = 100 * (np.quantile(ratios, [0.025, 0.975]) - 1)
    return {
        "mean": mean_change(result, role),
        "low": float(low),
        "high": float(high),
    }


def by_selector(
    results: Sequence[Mapping[str, Any]],
) -> dict[str, list[Mapping[str, Any]]]:
    """Return the runs of each selector, in order."""
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        runs.setdefault(result["selector"], []).append(result)
    return runs


def contrasts(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Compare the first run with those of each other selector.

    Args:
        results: Results of `finetune` on the same samples.

    Returns:
        By selector and then by role of `MEASURED`: `mean`, `low` and `high`, the first
        run's loss after fine-tuning minus the selector's mean over its runs, nats per
        token, with a 95 % interval (percentile bootstrap over the measured samples);
        `runs`, the number of the selector's runs; and `lower_than`, the number of those
        with a higher loss than the first run.
    """
    first, *others = results
    return {
        selector: {role: _contrast(first, own, role) for role in MEASURED}
        for selector, own in by_selector(others).items()
    }


def lines(compared: Mapping[str, Mapping[str, Any]], name: str) -> list[str]:
    """Return a sentence for each contrast.

    Args:
        compared: Result of `contrasts`.
        name: Name of the first run's selection.
    """
    sentences = []
    for selector, by_role in compared.items():
        parts = []
        for role, what in zip(MEASURED, ("domain test", "own answers"), strict=True):
            own = by_role[role]
            parts.append(
                f"{what} {own['mean']:+.3f} [{own['low']:+.3f}, {own['high']:+.3f}], "
                f"lower than {own['lower_than']} of {own['runs']}"
            )
        sentences.append(f"{name} less {selector}, nats: {'; '.join(parts)}")
    return sentences


def _contrast(
    first: Mapping[str, Any], others: Sequence[Mapping[str, Any]], role: str
) -> dict[str, Any]:
    """Return the contrast of one role with the runs of one selector."""
    own = np.array(first["after"][role]["each"])
    rest = np.array([other["after"][role]["each"] for other in others])
    return {
        **summarise(own - rest.mean(axis=0)),
        "runs": len(others),
        "lower_than": int((own.mean() < rest.mean(axis=1)).sum()),
    }
