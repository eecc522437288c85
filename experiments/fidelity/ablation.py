"""Ablation of the predictions: each part by itself, fitted and evaluated equally."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.experiments.fidelity.fitting import fitted_learner, fitted_untouched
from ogs_env.experiments.fidelity.report import spearman
from ogs_env.experiments.fidelity.table import MEASURES, Table, predict, table
from ogs_env.experiments.fidelity.terms import Terms, read_terms
from ogs_env.learners.fitted import rescaled

Array = NDArray[np.float64]
Model = Callable[[Terms, int], Array]
"""Function from terms and training epochs to a predicted loss (subsets,)."""
EXPLANATION = """\
Spearman's correlation of the predictions of a model with the real changes, on each list
of subsets. Models are fitted to Medical's development list; *naive* ones have no fitted
constants. [Fidelity](README.md) describes lists and measures.
"""
"""What the table shows, as Markdown."""


def ablation(
    development: Path, others: Mapping[str, Path], further: Sequence[str] = ()
) -> str:
    """Return a Markdown table of Spearman correlations by model, measure and list.

    Every model is fitted to the development list and evaluated on all lists without
    refitting. Forgetting is that of the capability where it is largest. A single
    curvature does not change the order of subsets.

    Args:
        development: Folder of the development list.
        others: Folder of each further list by the name of its column.
        further: Names of the lists that the forgetting model with distance is fitted
            to in addition.
    """
    folders = {"development (fitted)": development, **others}
    lists = [(read_terms(folder), table(folder)) for folder in folders.values()]
    rows = [["model", *folders], ["---"] * (1 + len(folders))]

    def add_row(name: str, measure: str, model: Model) -> None:
        correlations = [
            spearman(model(terms, real.epochs), real.real[MEASURES[measure]])
            for terms, real in lists
        ]
        rows.append([f"{measure}: {name}", *(f"{r:.2f}" for r in correlations)])

    for name, kind in (
        ("dev samples, less what own answers lose", "own"),
        ("dev samples, less what references tell", "reference"),
    ):
        add_row(name, "domain", _fitted(*lists[0], kind, "domain"))
    known = dict(zip(folders, lists, strict=True))
    untouched = fitted_untouched(*lists[0], "own", [known[name] for name in further])
    first = _predictions(untouched, lists[0][0], "own")
    add_row(
        "dev samples at the untouched model, less what own answers lose",
        "domain",
        lambda terms, epochs: first(terms.untouched(), epochs)["domain"],
    )
    alone = _fitted(*lists[0], "own", "domain", forgets=False)
    add_row("dev samples alone", "domain", alone)
    for name, kind in ("own answers", "own"), ("references", "reference"):
        add_row(name, "forgetting", _fitted(*lists[0], kind, "forgetting"))
    fitted_too = f", fitted to {' and '.join(further)} too" if further else ""
    add_row(
        f"own answers and distance{fitted_too}",
        "forgetting",
        lambda terms, epochs: first(terms.untouched(), epochs)["forgetting"],
    )
    for measure in ("domain", "forgetting"):
        for name in lists[0][0].naive:
            add_row(f"{name} (naive)", measure, functools.partial(_naive, name))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _fitted(
    terms: Terms, data: Table, kind: str, measure: str, *, forgets: bool = True
) -> Model:
    """Return a model of a measure, fitted to the development list.

    Args:
        terms: Terms of the list.
        data: Real changes of the list.
        kind: Answers whose gradients predict forgetting, `own` or `reference`.
        measure: A key of `MEASURES`.
        forgets: Whether forgetting is a part of the model.
    """
    learner = fitted_learner(terms, data, kind, forgets=forgets)
    predictions = _predictions(learner, terms, kind)
    return lambda of_list, epochs: predictions(of_list, epochs)[measure]


def _predictions(
    learner: dict[str, Any], terms: Terms, kind: str
) -> Callable[[Terms, int], dict[str, Array]]:
    """Return the predictions for other lists of a learner fitted to `terms`."""

    def predictions(of_list: Terms, epochs: int) -> dict[str, Array]:
        # The constants' unit is the norms of the development list.
        count = len(of_list.norms)
        ratios = np.divide(of_list.norms, terms.norms[:count]).tolist()
        return predict(of_list, rescaled(learner, ratios, epochs), kind)

    return predictions


def _naive(name: str, terms: Terms, epochs: int) -> Array:
    """Return a predictor without a learner, which does not depend on the epochs."""
    return terms.naive[name]
