"""What the predictions are made of: each part alone, fitted and judged alike."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ogs_env.experiments.fidelity.fitting import (
    fitted_curvature,
    fitted_response,
)
from ogs_env.experiments.fidelity.report import spearman
from ogs_env.experiments.fidelity.table import MEASURES, Table, table
from ogs_env.experiments.fidelity.terms import Terms, read_terms

Array = NDArray[np.float64]
Model = Callable[[Terms, int], Array]
"""Predicts a loss of each subset (subsets,), by the epochs that it is trained for."""


def ablation(development: Path, others: Mapping[str, Path]) -> str:
    """Return a Markdown table of what predicts the domain and forgetting where.

    Every model is fitted to the development list and then judged as it is, by
    Spearman's correlation; forgetting by the capability where it is largest. One
    curvature leaves the order of subsets as it is.

    Args:
        development: Folder of the development list.
        others: Folders by the names of their columns.
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

    terms, found = lists[0]
    for name, kind in (
        ("dev samples, less what own answers lose", "own"),
        ("dev samples, less what references tell", "reference"),
        ("dev samples alone", None),
    ):
        judge(name, "domain", _domain(terms, found, kind))
    judge("own answers", "forgetting", lambda terms, _: _largest(terms, "own"))
    judge("references", "forgetting", lambda terms, _: _largest(terms, "reference"))
    for measure in ("domain", "forgetting"):
        for name in terms.naive:
            judge(f"{name} (naive)", measure, functools.partial(_naive, name))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _domain(terms: Terms, found: Table, kind: str | None) -> Model:
    """Return a fitted model of the domain.

    Args:
        terms: Of the development list.
        found: Its real runs.
        kind: Whose gradients tell what is forgotten, `own` or `reference`; None for a
            model without that part.
    """
    curvature = fitted_curvature(terms, found, kind) if kind else 0.0

    def ratios(of_list: Terms) -> Array:
        """Return a list's norms in the development list's, the constants' unit."""
        return np.divide(of_list.norms, terms.norms)

    def forgotten(of_list: Terms, epochs: int) -> Array:
        scale = curvature * (epochs * ratios(of_list)[0]) ** 2
        return scale * of_list.mean_moved(kind or "own")

    measured = "domain", MEASURES["domain"]
    *slopes, share = fitted_response(
        terms, found, measured, forgotten(terms, found.epochs)
    )

    def model(of_list: Terms, epochs: int) -> Array:
        own = of_list.change("domain", slopes * ratios(of_list), epochs)
        return own + share * forgotten(of_list, epochs)

    return model


def _naive(name: str, terms: Terms, epochs: int) -> Array:
    """Return a predictor that needs no learner, whatever the epochs."""
    return terms.naive[name]


def _largest(terms: Terms, kind: str) -> Array:
    """Return what is forgotten of the capability where it is most, up to a factor."""
    rises = [
        terms.moved(f"{kind}/{name}") / terms.start(f"own/{name}")
        for name in terms.capabilities
    ]
    largest: Array = np.max(rises, axis=0)
    return largest
