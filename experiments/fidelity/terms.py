"""What the learner makes of each subset, before its fitted response.

Predictions are sums of these terms times slopes and curvatures. They are kept beside
the real runs, so that figures can be made without the bundles that they are from.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.errors import InputError
from ogs_env.experiments.fidelity.results import read_results, rows_of
from ogs_env.files import read_json, write_json
from ogs_env.learners.surrogate import SurrogateLearner

Array = NDArray[np.float64]
TERMS = "terms.json"
_ARRAYS = ("values", "naive")
_DIGITS = 7  # significant digits kept


@dataclass(frozen=True)
class Terms:
    """The terms of the subsets of one list.

    Attributes:
        capabilities: Their names.
        steps: Warm-up steps of the checkpoints.
        norms: Root mean square norm of the dev samples' sketches at each checkpoint,
            the unit of slopes and curvatures.
        start: Losses of the untouched model by group, nats per token: `domain`, and
            for each capability `reference/NAME` and `own/NAME`.
        subsets: Names of the subsets.
        values: By group (subsets, 2, checkpoints): what slopes and what curvatures are
            multiplied by. Own answers have those of the first checkpoint alone, the
            untouched model.
        naive: By name (subsets,): predictors that need no learner. All grow with the
            loss that they foretell: the cosines' sign is turned.
    """

    capabilities: list[str]
    steps: list[int]
    norms: list[float]
    start: dict[str, float]
    subsets: list[str]
    values: dict[str, Array]
    naive: dict[str, Array]

    def change(self, group: str, response: Mapping[str, Any]) -> Array:
        """Return each subset's predicted change of a group's loss, nats (subsets,).

        Args:
            group: One of `values`.
            response: `slope` (none: 0) and `curvature` of each checkpoint; one number
                for own answers.
        """
        values = self.values[group]
        slopes = np.array(response.get("slope", np.zeros(values.shape[2])))
        return values[:, 0] @ slopes + values[:, 1] @ np.ravel(response["curvature"])

    def own(self) -> Array:
        """Return the curvature's term of own answers, mean over capabilities."""
        groups = [self.values[f"own/{name}"] for name in self.capabilities]
        mean: Array = np.mean(groups, axis=0)[:, 1, 0]
        return mean


def compute_terms(bundle: Bundle, folder: Path) -> Terms:
    """Compute the terms of the subsets that a folder holds real runs of.

    Args:
        bundle: With path sketches and own answers.
        folder: Of the list.
    """
    learner = SurrogateLearner(bundle)
    names = bundle.capabilities
    groups = [
        "domain",
        *(f"reference/{name}" for name in names),
        *(f"own/{name}" for name in names),
    ]
    losses = [learner.domain_loss(), *learner.anchor_losses(), *learner.answer_losses()]
    results = read_results(folder)
    found, naive = [], []
    for runs in results.values():
        rows = np.array(rows_of(bundle, runs[0]["ids"]))
        learner.reset()
        learner.update_many(rows)
        found.append(learner.terms())
        naive.append(_naive(bundle, rows))
    # The learner's groups also are test and retention, and the retention's answers.
    of_groups = np.delete(np.stack(found).astype(float), [1, 2, -1], axis=1)
    values = dict(zip(groups, np.moveaxis(of_groups, 1, 0), strict=True))
    values |= {f"own/{name}": values[f"own/{name}"][..., :1] for name in names}
    checkpoints = bundle.manifest["checkpoints"]
    return Terms(
        capabilities=names,
        steps=[entry["step"] for entry in checkpoints],
        norms=[1 / entry["weight"] for entry in checkpoints],
        start=dict(zip(groups, map(float, losses), strict=True)),
        subsets=list(results),
        values=values,
        naive={name: np.array([one[name] for one in naive]) for name in naive[0]},
    )


def write_terms(terms: Terms, folder: Path) -> None:
    """Write terms beside the runs that they are about."""
    found = dataclasses.asdict(terms)
    for part in _ARRAYS:
        found[part] = {name: _rounded(values) for name, values in found[part].items()}
    write_json(folder / TERMS, found)


def read_terms(folder: Path) -> Terms:
    """Read what `write_terms` wrote.

    Raises:
        InputError: If there are none.
    """
    file = folder / TERMS
    if not file.exists():
        raise InputError(f"{file}: no such file; run `ogs fidelity --terms`")
    found = read_json(file, "file of terms")
    for part in _ARRAYS:
        found[part] = {name: np.array(v) for name, v in found[part].items()}
    return Terms(**found)


def _naive(bundle: Bundle, rows: NDArray[np.int64]) -> dict[str, float]:
    """Return what could be said of a subset without a learner."""
    pool = bundle.pool
    return {
        "domain_cosine": -float(bundle.domain_cosines(rows).mean()),
        "anchor_cosine": -float(bundle.anchor_cosines(rows).min(axis=1).mean()),
        "tokens": float(pool.tokens[rows].sum()),
        "short_answers": -float(np.log(pool.tokens[rows]).mean()),
        "norm": float(np.log(pool.norms[rows]).mean()),
    }


def _rounded(values: Array) -> Any:
    def significant(value: float) -> float:
        return float(f"{value:.{_DIGITS}g}")

    return np.vectorize(significant)(values).tolist()
