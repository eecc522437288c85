"""What the anchor term is made of: each part alone, fitted and judged the same way."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from ogs_env.experiments.fidelity.report import Table, spearman, table
from ogs_env.experiments.fidelity.terms import Terms, read_terms

Array = NDArray[np.float64]
Inputs = Callable[[Terms, str], Array]

_OWN = "own answers, Fisher"
_REFERENCE = "references, slope and curvature"


def ablation(development: Path, others: Mapping[str, Path]) -> str:
    """Return a Markdown table of what predicts forgetting where.

    Every row is a model of a capability's change, fitted to the development list
    (non-negative least squares on both capabilities' real changes of own answers) and
    then judged, as it is, by Spearman's correlation of its worst capability with the
    real one.

    Args:
        development: Folder of the development list.
        others: Folders by the names of their columns.
    """
    folders = {"development (fitted)": development, **others}
    read = {name: (read_terms(f), table(f)) for name, f in folders.items()}
    terms, found = read["development (fitted)"]
    models: dict[str, Inputs] = {f"{_OWN}, all checkpoints": _curvatures("own")}
    for number, step in enumerate(terms.steps):
        models[f"{_OWN}, step {step} alone"] = _curvatures("own", [number])
    models |= {
        f"{_REFERENCE}": _both,
        "references, slope alone": lambda t, n: t.values[f"reference/{n}"][:, 0],
        "references, curvature alone": _curvatures("reference"),
    }
    lines = [
        "| model of forgetting | " + " | ".join(read) + " |",
        "|---" * (1 + len(read)) + "|",
    ]
    for name, inputs in models.items():
        weights = _fit(terms, found, inputs)
        cells = [
            f"{spearman(_worst(t, inputs, weights), real.real['forgetting']):.2f}"
            for t, real in read.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for name in found.naive:
        cells = [
            f"{spearman(one.naive[name], one.real['forgetting']):.2f}"
            for _, one in read.values()
        ]
        lines.append(f"| naive: {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _curvatures(kind: str, checkpoints: list[int] | None = None) -> Inputs:
    def inputs(terms: Terms, capability: str) -> Array:
        values = terms.values[f"{kind}/{capability}"][:, 1]
        return values if checkpoints is None else values[:, checkpoints]

    return inputs


def _both(terms: Terms, capability: str) -> Array:
    values = terms.values[f"reference/{capability}"]
    return values.reshape(len(values), -1)


def _fit(terms: Terms, found: Table, inputs: Inputs) -> Array:
    names = terms.capabilities
    real = [found.real[f"own/{n}"] / 100 * terms.start[f"own/{n}"] for n in names]
    stacked = np.concatenate([inputs(terms, name) for name in names])
    weights: Array = nnls(stacked, np.concatenate(real))[0]
    return weights


def _worst(terms: Terms, inputs: Inputs, weights: Array) -> Array:
    names = terms.capabilities
    changes = [inputs(terms, n) @ weights / terms.start[f"own/{n}"] for n in names]
    worst: Array = np.max(changes, axis=0)
    return worst
