"""What the forgetting term is made of: each part alone, fitted and judged alike."""

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
)
from ogs_env.experiments.fidelity.report import spearman
from ogs_env.experiments.fidelity.table import Table, table
from ogs_env.experiments.fidelity.terms import Terms, read_terms

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """A model of how the loss on a capability's own answers changes.

    Attributes:
        answers: Whose terms it weights: those of `own` answers or of the `reference`.
        columns: Which of them.
    """

    answers: str
    columns: Columns


_MODELS = {
    "own answers": Model("own", curvatures),
    "references, slope and curvature": Model("reference", slopes_and_curvatures),
    "references, slope alone": Model("reference", lambda values: values[:, 0]),
    "references, curvature alone": Model("reference", curvatures),
}


def ablation(development: Path, others: Mapping[str, Path]) -> str:
    """Return a Markdown table of what predicts forgetting where.

    Every model is fitted to the development list, to all capabilities' real changes of
    own answers, and then judged as it is: by Spearman's correlation of its worst
    capability with the real one.

    Args:
        development: Folder of the development list.
        others: Folders by the names of their columns.
    """
    folders = {"development (fitted)": development, **others}
    lists = [(read_terms(folder), table(folder)) for folder in folders.values()]
    rows = [["model of forgetting", *folders], ["---"] * (1 + len(folders))]

    def judge(name: str, predicted: list[Array]) -> None:
        figures = [
            spearman(values, found.real["forgetting"])
            for values, (_, found) in zip(predicted, lists, strict=True)
        ]
        rows.append([name, *(f"{figure:.2f}" for figure in figures)])

    terms, found = lists[0]
    for name, model in _MODELS.items():
        weights = _fitted(model, terms, found)
        judge(name, [_worst(model, weights, of_list) for of_list, _ in lists])
    for name in terms.naive:
        judge(f"naive: {name}", [of_list.naive[name] for of_list, _ in lists])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _fitted(model: Model, terms: Terms, found: Table) -> Array:
    measured = {f"{model.answers}/{name}": f"own/{name}" for name in terms.capabilities}
    return fit(terms, found, measured, model.columns)


def _worst(model: Model, weights: Array, terms: Terms) -> Array:
    """Return each subset's largest predicted change over the capabilities."""
    changes = [
        model.columns(terms.values[group]) @ weights / terms.start[group]
        for group in (f"{model.answers}/{name}" for name in terms.capabilities)
    ]
    worst: Array = np.max(changes, axis=0)
    return worst
