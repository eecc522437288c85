"""What the predictions are made of: each part alone, fitted and judged alike."""

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
"""Predicts a loss of each subset (subsets,), by the epochs that it is trained for."""


def ablation(
    development: Path, others: Mapping[str, Path], further: Sequence[str] = ()
) -> str:
    """Return a Markdown table of what predicts the domain and forgetting where.

    Every model is fitted to the development list and then judged as it is, by
    Spearman's correlation; forgetting by the capability where it is largest. One
    curvature leaves the order of subsets as it is.

    Args:
        development: Folder of the development list.
        others: Folders by the names of their columns.
        further: Names of those that forgetting told by the distance is fitted to, too.
    """
    folders = {"development (fitted)": development, **others}
    lists = [(read_terms(folder), table(folder)) for folder in folders.values()]
    rows = [["model", *folders], ["---"] * (1 + len(folders))]

    def judge(name: str, measure: str, model: Model) -> None:
        figures = [
            spearman(model(terms, found.epochs), found.real[MEASURES[measure]])
            for terms, found in lists
        ]
        rows.append([f"{measure}: {name}", *(f"{figure:.2f}" for figure in figures)])

    for name, kind in (
        ("dev samples, less what own answers lose", "own"),
        ("dev samples, less what references tell", "reference"),
    ):
        judge(name, "domain", _fitted(*lists[0], kind, "domain"))
    known = dict(zip(folders, lists, strict=True))
    untouched = fitted_untouched(*lists[0], "own", [known[name] for name in further])
    first = _judged(untouched, lists[0][0], "own")
    judge(
        "dev samples at the untouched model, less what own answers lose",
        "domain",
        lambda terms, epochs: first(terms.untouched(), epochs)["domain"],
    )
    alone = _fitted(*lists[0], "own", "domain", forgets=False)
    judge("dev samples alone", "domain", alone)
    for name, kind in ("own answers", "own"), ("references", "reference"):
        judge(name, "forgetting", _fitted(*lists[0], kind, "forgetting"))
    fitted_too = f", fitted to {' and '.join(further)} too" if further else ""
    judge(
        f"own answers and distance{fitted_too}",
        "forgetting",
        lambda terms, epochs: first(terms.untouched(), epochs)["forgetting"],
    )
    for measure in ("domain", "forgetting"):
        for name in lists[0][0].naive:
            judge(f"{name} (naive)", measure, functools.partial(_naive, name))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _fitted(
    terms: Terms, found: Table, kind: str, measure: str, *, forgets: bool = True
) -> Model:
    """Return a model of what is measured, fitted to the development list.

    Args:
        terms: Of the list.
        found: Its real runs.
        kind: Whose gradients tell what is forgotten, `own` or `reference`.
        measure: A name of `MEASURES`.
        forgets: Whether what is forgotten is a part of it.
    """
    learner = fitted_learner(terms, found, kind, forgets=forgets)
    predictions = _judged(learner, terms, kind)
    return lambda of_list, epochs: predictions(of_list, epochs)[measure]


def _judged(
    learner: dict[str, Any], terms: Terms, kind: str
) -> Callable[[Terms, int], dict[str, Array]]:
    """Return what a learner that was fitted to `terms` predicts of other lists."""

    def predictions(of_list: Terms, epochs: int) -> dict[str, Array]:
        # Constants are in the unit of the development list's norms.
        count = len(of_list.norms)
        ratios = np.divide(of_list.norms, terms.norms[:count]).tolist()
        return predict(of_list, rescaled(learner, ratios, epochs), kind)

    return predictions


def _naive(name: str, terms: Terms, epochs: int) -> Array:
    """Return a predictor that needs no learner, whatever the epochs."""
    return terms.naive[name]
