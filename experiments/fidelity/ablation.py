"""What the predictions are made of: each part alone, fitted and judged alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ogs_env.experiments.fidelity.fitting import (
    Columns,
    curvatures,
    fit,
    slopes_and_curvatures,
    with_own_answers,
)
from ogs_env.experiments.fidelity.report import spearman
from ogs_env.experiments.fidelity.table import MEASURES, table
from ogs_env.experiments.fidelity.terms import Terms, read_terms

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """A model of how a loss changes.

    Attributes:
        measure: What it predicts: the `domain`, or `forgetting`, the largest rise of
            the loss on a capability's own answers.
        groups: Whose terms it weights: those of the `domain`, or of each capability's
            `own` or `reference` answers.
        columns: Which of them.
    """

    measure: str
    groups: str
    columns: Columns


_MODELS = {
    "domain: dev samples and own answers": Model("domain", "domain", with_own_answers),
    "domain: dev samples alone": Model("domain", "domain", slopes_and_curvatures),
    "forgetting: own answers": Model("forgetting", "own", curvatures),
    "forgetting: references, slope and curvature": Model(
        "forgetting", "reference", slopes_and_curvatures
    ),
    "forgetting: references, curvature alone": Model(
        "forgetting", "reference", curvatures
    ),
}


def ablation(development: Path, others: Mapping[str, Path]) -> str:
    """Return a Markdown table of what predicts the domain and forgetting where.

    Every model is fitted to the development list and then judged as it is, by
    Spearman's correlation. Forgetting is fitted to all capabilities' real changes of
    own answers, and judged by the worst capability.

    Args:
        development: Folder of the development list.
        others: Folders by the names of their columns.
    """
    folders = {"development (fitted)": development, **others}
    lists = [(read_terms(folder), table(folder)) for folder in folders.values()]
    rows = [["model", *folders], ["---"] * (1 + len(folders))]

    def judge(name: str, measure: str, predicted: list[Array]) -> None:
        figures = [
            spearman(values, found.real[MEASURES[measure]])
            for values, (_, found) in zip(predicted, lists, strict=True)
        ]
        rows.append([name, *(f"{figure:.2f}" for figure in figures)])

    terms, found = lists[0]
    for name, model in _MODELS.items():
        weights = fit(terms, found, _measured(model, terms), model.columns)
        changes = [_changes(model, weights, of_list) for of_list, _ in lists]
        judge(name, model.measure, changes)
    for measure in ("domain", "forgetting"):
        for name in terms.naive:
            values = [of_list.naive[name] for of_list, _ in lists]
            judge(f"{measure}, naive: {name}", measure, values)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _measured(model: Model, terms: Terms) -> dict[str, str]:
    """Return what was measured by the group of terms that predicts it."""
    if model.groups == "domain":
        return {"domain": MEASURES["domain"]}
    return {f"{model.groups}/{name}": f"own/{name}" for name in terms.capabilities}


def _changes(model: Model, weights: Array, terms: Terms) -> Array:
    """Return each subset's predicted change, of the capability where it is largest."""
    changes = [
        model.columns(terms, group) @ weights / terms.start[group]
        for group in _measured(model, terms)
    ]
    largest: Array = np.max(changes, axis=0)
    return largest
