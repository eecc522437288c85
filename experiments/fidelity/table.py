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
from ogs_env.learners.fitted import default_learner

Array = NDArray[np.float64]
MEASURES = {"domain": "test", "forgetting": "forgetting", "reference": "reference"}
"""What was measured, by the name of what is predicted."""


@dataclass(frozen=True)
class Table:
    """Real and predicted changes, one row a subset; percent of the first loss.

    Attributes:
        names: Of the subsets.
        epochs: That each was trained for.
        real: By what was measured, means over seeds (subsets,): `test`, `prose`,
            `own/NAME` and `reference/NAME` of each capability; `forgetting`, the
            largest of own answers' rises; `reference`, the largest of references'
            rises; `pairs/NAME`, the change of the share of pairs that are right,
            points of percent, and `margin/NAME`, that of the mean log-probability
            ratio, nats.
        repeats: The same with the changes of each subset's seeds.
        predicted: `domain`, `forgetting`, `reference`, and each `own/NAME` and
            `reference/NAME`.
        naive: Predictors that have no fitted constant.
    """

    names: list[str]
    epochs: int
    real: dict[str, Array]
    repeats: dict[str, list[Array]]
    predicted: dict[str, Array]
    naive: dict[str, Array]


def table(folder: Path) -> Table:
    """Read the results in a folder, and the learner's terms beside them.

    Args:
        folder: With one file a run, and the terms; the untouched model's losses lie
            above it.
    """
    results, terms = read_results(folder), read_terms(folder)
    if list(results) != terms.subsets:
        raise InputError(
            f"{folder}: its terms are about other subsets than its runs; run "
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
    """Return what a learner predicts for each subset, in percent.

    Args:
        terms: Of the subsets.
        learner: A manifest's `learner` entry.
        kind: Whose gradients tell what is forgotten: those of `own` answers or of the
            `reference`.
    """
    epochs, names = learner["epochs"], terms.capabilities
    scale = learner["forgetting"]["curvature"] * epochs**2
    forgotten = {name: scale * terms.moved(f"{kind}/{name}") for name in names}
    response = {"share": 1, "distance": 0, **learner["forgetting"]}
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
    found = {name: 100 * change / terms.start(name) for name, change in changes.items()}
    return found | _worst(found)


def _changes(run: dict[str, Any], base: dict[str, Any]) -> dict[str, float]:
    found = {
        name: 100 * (loss / base["losses"][name] - 1)
        for name, loss in run["losses"].items()
    }
    for name, pairs in run["pairs"].items():
        before = base["pairs"][name]
        found[f"pairs/{name}"] = 100 * (pairs["accuracy"] - before["accuracy"])
        found[f"margin/{name}"] = pairs["margin"] - before["margin"]
    return found | _worst(found)


def _worst(changes: dict[str, Any]) -> dict[str, Any]:
    """Return how the capability stands that is worst, for both kinds of answers."""
    kinds = {"forgetting": "own/", "reference": "reference/"}
    return {
        name: np.max([v for key, v in changes.items() if key.startswith(kind)], axis=0)
        for name, kind in kinds.items()
    }


def kind_of(name: str) -> str:
    """Return the kind of a subset: what its name says before its number."""
    return name.rsplit("-", 1)[0]
