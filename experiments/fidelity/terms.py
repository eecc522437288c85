"""Terms of the learner for each subset, before its fitted response.

They are stored with the real runs, so that tables and plots do not need the bundles.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from ogs_env.bundle import Bundle
from ogs_env.errors import InputError
from ogs_env.experiments.fidelity.results import read_results, rows_of
from ogs_env.files import whole_file
from ogs_env.learners.effects import change
from ogs_env.learners.surrogate import SurrogateLearner

Array = NDArray[np.float64]
TERMS = "terms.safetensors"
_ARRAYS = ("losses", "tokens", "shifts", "naive")
_LISTS = ("capabilities", "steps", "norms", "subsets")


@dataclass(frozen=True)
class Terms:
    """The terms of the subsets of one list, for one training epoch.

    Groups are the `domain`, and for each capability `reference/NAME` and `own/NAME`.

    Attributes:
        capabilities: Names of the capabilities.
        steps: Warm-up steps of the checkpoints.
        norms: Root mean square norm of the dev samples' sketches at each checkpoint,
            the unit of slopes and curvatures.
        subsets: Names of the subsets.
        losses: By group (samples,), losses of the untouched model, nats per token.
        tokens: By group (samples,), response tokens.
        shifts: By group (subsets, checkpoints, samples), x = <g, d>; for own answers at
            the first checkpoint only, the untouched model.
        naive: By name (subsets,): predictors without fitted constants. All increase
            with the predicted loss, so cosines are negated. `distance` is |d| at the
            untouched model.
    """

    capabilities: list[str]
    steps: list[int]
    norms: list[float]
    subsets: list[str]
    losses: dict[str, Array]
    tokens: dict[str, Array]
    shifts: dict[str, Array]
    naive: dict[str, Array]

    def untouched(self) -> "Terms":
        """Return the terms of the untouched model's gradients only."""
        return replace(
            self,
            steps=self.steps[:1],
            norms=self.norms[:1],
            shifts={group: x[:, :1] for group, x in self.shifts.items()},
        )

    def start(self, group: str) -> float:
        """Return a group's mean loss of the untouched model, nats per token."""
        return float(self.losses[group].mean())

    def moved(self, group: str) -> Array:
        """Return the factor of the curvature: mean T x^2 / 2 (subsets,)."""
        x = self.shifts[group][:, 0]
        mean: Array = (self.tokens[group] * np.square(x)).mean(axis=1) / 2
        return mean

    def mean_moved(self, kind: str) -> Array:
        """Return `moved`, mean over the capabilities, of `own` or `reference`."""
        moved = [self.moved(f"{kind}/{name}") for name in self.capabilities]
        mean: Array = np.mean(moved, axis=0)
        return mean

    def change(self, group: str, slopes: Any, epochs: int) -> Array:
        """Return a group's predicted change without forgetting, nats (subsets,).

        Args:
            group: The domain or references.
            slopes: Slopes (checkpoints,).
            epochs: Training epochs.
        """
        x = epochs * np.einsum("scj,c->sj", self.shifts[group], np.array(slopes))
        mean: Array = change(x, self.losses[group]).mean(axis=1)
        return mean


def compute_terms(bundle: Bundle, folder: Path) -> Terms:
    """Compute the terms of the subsets with real runs in a folder.

    Args:
        bundle: A bundle with trajectory sketches and own answers.
        folder: Folder of the list.
    """
    learner = SurrogateLearner(bundle)
    groups = {"domain": ("dev", np.arange(len(bundle.dev)))}
    for number, name in enumerate(bundle.capabilities):
        groups[f"reference/{name}"] = "anchor", bundle.anchor_rows(number)
        groups[f"own/{name}"] = "anchor_answers", bundle.answer_rows(number)
    epochs = bundle.manifest["learner"]["epochs"]
    results = read_results(folder)
    group_shifts: list[dict[str, Array]] = []
    naive: list[dict[str, float]] = []
    for runs in results.values():
        rows = np.array(rows_of(bundle, runs[0]["ids"]))
        learner.reset()
        learner.update_many(rows)
        shifts = learner.shifts()
        group_shifts.append(
            {name: shifts[of][:, own] for name, (of, own) in groups.items()}
        )
        naive.append({**_naive(bundle, rows), "distance": learner.distance() / epochs})
    shifts = {
        name: np.stack([one[name] for one in group_shifts]) / epochs for name in groups
    }
    checkpoints = bundle.manifest["checkpoints"]

    def of_samples(attribute: str) -> dict[str, Array]:
        return {
            name: getattr(getattr(bundle, role), attribute)[rows].astype(float)
            for name, (role, rows) in groups.items()
        }

    return Terms(
        capabilities=bundle.capabilities,
        steps=[entry["step"] for entry in checkpoints],
        norms=[1 / entry["weight"] for entry in checkpoints],
        subsets=list(results),
        losses=of_samples("losses"),
        tokens=of_samples("tokens"),
        shifts={n: x[:, :1] if n.startswith("own/") else x for n, x in shifts.items()},
        naive={name: np.array([one[name] for one in naive]) for name in naive[0]},
    )


def write_terms(terms: Terms, folder: Path) -> None:
    """Write terms to the folder of their runs."""
    arrays = {
        f"{kind}:{name}": np.ascontiguousarray(values, np.float32)
        for kind in _ARRAYS
        for name, values in getattr(terms, kind).items()
    }
    known = {name: json.dumps(getattr(terms, name)) for name in _LISTS}
    with whole_file(folder / TERMS) as temporary:
        temporary.write_bytes(save(arrays, known))


def read_terms(folder: Path) -> Terms:
    """Read terms written by `write_terms`.

    Raises:
        InputError: If the file does not exist.
    """
    file = folder / TERMS
    if not file.exists():
        raise InputError(f"{file}: no such file; run `ogs fidelity --terms`")
    arrays: dict[str, dict[str, Array]] = {kind: {} for kind in _ARRAYS}
    with safe_open(file, "np") as tensors:
        known: Mapping[str, str] = tensors.metadata()
        for key in tensors.keys():  # noqa: SIM118 (not a mapping)
            kind, name = key.split(":")
            arrays[kind][name] = tensors.get_tensor(key).astype(float)
    lists = {name: json.loads(known[name]) for name in _LISTS}
    both: dict[str, Any] = lists | arrays
    return Terms(**both)


def _naive(bundle: Bundle, rows: NDArray[np.int64]) -> dict[str, float]:
    """Return predictors of a subset that need no learner."""
    pool = bundle.pool
    return {
        "domain_cosine": -float(bundle.domain_cosines(rows).mean()),
        "anchor_cosine": -float(bundle.anchor_cosines(rows).min(axis=1).mean()),
        "tokens": float(pool.tokens[rows].sum()),
        "short_answers": -float(np.log(pool.tokens[rows]).mean()),
        "norm": float(np.log(pool.norms[rows]).mean()),
    }
