"""How well the path can be foretold from the start, which is all an agent sees."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.envs.observations import candidates
from ogs_env.experiments.fidelity.report import spearman

Array = NDArray[np.float64]
FOLDS = 5
PENALTY = 10.0
"""Of the ridge regression, on standardised columns."""


def foresight(bundle: Bundle) -> dict[str, Any]:
    """Predict each pool sample's cosines along the path from its observation.

    A ridge regression from an observation's columns (the sketch in Q, the cosines,
    norm and loss at the start), cross-validated over five random folds of the pool.

    Returns:
        For the domain and the anchor, by warm-up step: Spearman's correlation of the
        true cosine at that checkpoint with the predicted one over all the pool
        (`all`), the same within each source (`within_sources`), and that of the cosine
        at the start with the true one (`start_cosine`).
    """
    rows = np.arange(len(bundle.pool))
    seen, _ = candidates(bundle, "start").rows(rows)
    folds = np.random.default_rng(0).permutation(len(rows)) % FOLDS
    steps = [entry["step"] for entry in bundle.manifest["checkpoints"]]
    pool, dev, anchor = (
        np.split(part.sketches("path").astype(np.float64), len(steps), axis=1)
        for part in (bundle.pool, bundle.dev, bundle.anchor)
    )
    start = {
        "domain": bundle.domain_cosines(rows),
        "anchor": bundle.anchor_cosines(rows).mean(axis=1),
    }
    result: dict[str, Any] = {}
    for name, references in (("domain", dev), ("anchor", anchor)):
        result[name] = {}
        for number, step in enumerate(steps):
            mean = references[number].mean(axis=0)
            lengths = np.linalg.norm(pool[number], axis=1) * np.linalg.norm(mean)
            truth = pool[number] @ mean / np.maximum(lengths, 1e-12)
            guess = _cross_validated(seen.astype(np.float64), truth, folds)
            of = bundle.pool.sources
            within = {
                bundle.sources[source]: _rounded(
                    guess[of == source], truth[of == source]
                )
                for source in np.unique(of)
                if (of == source).sum() > 2 * FOLDS
            }
            result[name][str(step)] = {
                "all": _rounded(guess, truth),
                "within_sources": within,
                "start_cosine": _rounded(start[name], truth),
            }
    return result


def _cross_validated(inputs: Array, truth: Array, folds: NDArray[np.int64]) -> Array:
    """Return each sample's prediction by a ridge regression on the other folds."""
    guess = np.empty_like(truth)
    for fold in range(FOLDS):
        train, test = folds != fold, folds == fold
        mean, scale = inputs[train].mean(0), inputs[train].std(0) + 1e-9
        x = (inputs - mean) / scale
        level = truth[train].mean()
        gram = x[train].T @ x[train] + PENALTY * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, x[train].T @ (truth[train] - level))
        guess[test] = level + x[test] @ weights
    return guess


def _rounded(first: Array, second: Array) -> float:
    return round(spearman(first, second), 3)
