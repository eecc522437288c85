"""Fit the learner's response to the real runs of the development list."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from ogs_env.bundle import MANIFEST, Bundle
from ogs_env.experiments.fidelity.report import Table, summarise
from ogs_env.files import write_json
from ogs_env.learners.surrogate import SurrogateLearner


def fitted_learner(bundle: Bundle, found: Table) -> dict[str, Any]:
    """Return the manifest's `learner` entry that predicts real runs best.

    Non-negative least squares on the real change of each subset, without an
    intercept: for the domain from the dev samples' terms to the test loss, for the
    anchor from the first capability's anchor samples' to the retention loss.

    Args:
        bundle: Its sketches make the terms.
        found: Real runs to fit to: the development list.
    """
    learner = SurrogateLearner(bundle)
    terms = []
    for rows in found.rows:
        learner.reset()
        for row in rows:
            learner.update(row)
        terms.append(learner.terms())
    stacked = np.stack(terms).astype(np.float64)
    learner.reset()
    entry: dict[str, Any] = {"sketches": learner.sketches}
    for role, real, group, before in (
        ("domain", "test", 0, learner.domain_loss()),
        ("anchor", "retention", 3, float(learner.anchor_losses()[0])),
    ):
        inputs = stacked[:, group]
        solution = nnls(
            inputs.reshape(len(inputs), -1), found.real[real] / 100 * before
        )[0]
        slope, curvature = solution.reshape(2, -1).round(5).tolist()
        entry[role] = {"slope": slope, "curvature": curvature}
    return entry


def write_learner(bundle: Bundle, entry: dict[str, Any]) -> None:
    """Write a `learner` entry into the bundle's manifest."""
    write_json(bundle.path / MANIFEST, bundle.manifest | {"learner": entry})


def write_fidelity(bundle: Bundle, held_out: Path) -> None:
    """Write how well the bundle's learner predicts the held-out list."""
    summary = summarise(bundle, held_out)
    write_json(bundle.path / MANIFEST, bundle.manifest | {"fidelity": summary})
