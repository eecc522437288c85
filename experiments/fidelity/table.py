"""Real and predicted changes of a list's subsets, side by side."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.errors import InputError
from ogs_env.experiments.fidelity.results import BASE, read_results
from ogs_env.experiments.fidelity.terms import Terms, read_terms
from ogs_env.files import read_json
from ogs_env.learners.fitted import FORGETTING_DEFAULTS, default_learner

Array = NDArray[np.float64]
MEASURES = {"domain": "test", "forgetting": "forgetting", "reference": "reference"}
"""Name of the real measure by the name of the prediction."""


@dataclass(frozen=True)
class Table:
    """Real and predicted changes of subsets, percent of the initial loss.

    Attributes:
        names: Names of the subsets.
        epochs: Training epochs.
        real: Means over seeds (subsets,) by measure: `test`, `prose`, `own/NAME` and
            `reference/NAME` of each capability; `forgetting`, the largest rise on own
            answers; `reference`, the largest rise on references; `pairs/NAME`, the
            change of the share of right pairs, points of percent, and `margin/NAME`,
            that of the mean log-probability ratio, nats.
        repeats: As `real`, with the changes of each seed.
        predicted: `domain`, `forgetting`, `reference`, and each `own/NAME` and
            `reference/NAME`, (subsets,).
        naive: Predictors without fitted constants, (subsets,).
    """

    names: list[str]
    epochs: int
    real: dict[str, Array]
    repeats: dict[str, list[Array]]
    predicted: dict[str, Array]
    naive: dict[str, Array]


def table(folder: Path) -> Table:
    """Read the results in a folder, and the learner's terms.

    Args:
        folder: Folder with one file per run, and the terms; the untouched model's
            losses are in its parent folder.

    Raises:
        InputError: If the terms are of other subsets than the runs.
    """
    results, terms = read_results(folder), read_terms(folder)
    if list(results) != terms.subsets:
        raise InputError(
            f"{folder}: its terms are of other subsets than its runs; run "
            "`ogs fidelity --terms`"
        )
    epochs = next(iter(results.values()))[0]["recipe"]["epochs"]
    learner = default_learner(terms.steps, terms.norms, epochs=epochs)
    base = read_json(folder.parent / BASE, "file of the untouched model")
    changes = [[_changes(run, base) for run in runs] for runs in results.values()]
    repeats = {
        name: [np.array([one[name] for one in runs]) for runs in changes]
        for name in changes[0][0]
    }
    return Table(
        terms.subsets,
        epochs,
        {name: np.array([one.mean() for one in v]) for name, v in repeats.items()},
        repeats,
        predict(terms, learner),
        terms.naive,
    )


def predict(
    terms: Terms, learner: dict[str, Any], kind: str = "own"
) -> dict[str, Array]:
    """Return a learner's predictions for each subset, in percent.

    Args:
        terms: Terms of the subsets.
        learner: A manifest's `learner` entry.
        kind: Answers whose gradients predict forgetting: `own` or `reference`.
    """
    epochs, names = learner["epochs"], terms.capabilities
    scale = learner["forgetting"]["curvature"] * epochs**2
    forgotten = {name: scale * terms.moved(f"{kind}/{name}") for name in names}
    response = {**FORGETTING_DEFAULTS, **learner["forgetting"]}
    moved = response["distance"] * epochs * terms.naive["distance"]
    changes = {
        f"own/{name}": response["share"] * rise + moved
        for name, rise in forgotten.items()
    }
    of_all = scale * terms.mean_moved(kind)
    for group, role, lost in (
        ("domain", "domain", of_all),
        *((f"reference/{name}", "anchor", forgotten[name]) for name in names),
    ):
        response = learner[role]
        own = terms.change(group, response["slope"], epochs)
        changes[group] = own + response["share"] * lost
    relative = {name: 100 * one / terms.start(name) for name, one in changes.items()}
    return relative | _worst(relative)


def _changes(run: dict[str, Any], base: dict[str, Any]) -> dict[str, float]:
    """Return the changes of a run by measure."""
    changes = {
        name: 100 * (loss / base["losses"][name] - 1)
        for name, loss in run["losses"].items()
    }
    for name, pairs in run["pairs"].items():
        before = base["pairs"][name]
        changes[f"pairs/{name}"] = 100 * (pairs["accuracy"] - before["accuracy"])
        changes[f"margin/{name}"] = pairs["margin"] - before["margin"]
    return changes | _worst(changes)


def _worst(changes: dict[str, Any]) -> dict[str, Any]:
    """Return the largest change over capabilities, for both kinds of answers."""
    kinds = {"forgetting": "own/", "reference": "reference/"}
    return {
        name: np.max([v for key, v in changes.items() if key.startswith(kind)], axis=0)
        for name, kind in kinds.items()
    }


def kind_of(name: str) -> str:
    """Return the kind of a subset: its name without the number."""
    return name.rsplit("-", 1)[0]
