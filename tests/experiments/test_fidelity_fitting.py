"""A learner that was fitted to changes made by known slopes and curvatures."""

import json
from pathlib import Path

import numpy as np
import pytest
from make_bundle import edit_manifest, make_bundle
from scipy import stats

from ogs_env.bundle import Bundle, load_bundle
from ogs_env.experiments.fidelity.fitting import (
    fitted_learner,
    write_fidelity,
    write_learner,
)
from ogs_env.experiments.fidelity.report import Table, predict, table
from ogs_env.experiments.fidelity.results import BASE, result_file
from ogs_env.files import write_json
from ogs_env.learners.surrogate import SurrogateLearner

TRUE = {
    "path": {
        "sketches": "path",
        "domain": {"slope": [0.21, 0.04], "curvature": [0.0, 0.35]},
        "anchor": {"slope": [0.08, 0.3], "curvature": [1.2, 0.5]},
    },
    "start": {
        "sketches": "start",
        "domain": {"slope": [0.21], "curvature": [0.35]},
        "anchor": {"slope": [0.08], "curvature": [1.2]},
    },
}


@pytest.fixture(params=list(TRUE))
def kind(request) -> str:
    return request.param


@pytest.fixture
def made(kind, tmp_path) -> Bundle:
    """A bundle with the study's settings."""
    checkpoints = 2 if kind == "path" else 0
    return load_bundle(make_bundle(tmp_path / "made", checkpoints=checkpoints))


@pytest.fixture
def truth(kind, tmp_path) -> Bundle:
    """The same sketches with the settings to be found."""
    checkpoints = 2 if kind == "path" else 0
    folder = make_bundle(tmp_path / "truth", checkpoints=checkpoints)
    edit_manifest(folder, learner=TRUE[kind])
    return load_bundle(folder)


def subsets(bundle: Bundle) -> list[list[int]]:
    """From the whole pool and from single sources, of several sizes."""
    rng = np.random.default_rng(0)
    of = bundle.pool.sources
    found = [rng.permutation(len(of))[: 8 + 4 * (n % 9)].tolist() for n in range(18)]
    for source in range(len(bundle.sources)):
        rows = np.flatnonzero(of == source)
        found += [rng.permutation(rows)[:n].tolist() for n in (8, 24, 48)]
    return found


def changes(bundle: Bundle, rows: list[int]) -> tuple[float, float]:
    """Percent by which the dev loss and the first capability's anchor loss change."""
    learner = SurrogateLearner(bundle)
    before = learner.domain_loss(), float(learner.anchor_losses()[0])
    for row in rows:
        learner.update(row)
    after = learner.domain_loss(), float(learner.anchor_losses()[0])
    return tuple(100 * (b / a - 1) for a, b in zip(before, after, strict=True))


def table_of(rows: list[list[int]], real: np.ndarray) -> Table:
    """A table of real changes; what it predicts does not matter to a fit."""
    both = dict(zip(("test", "retention"), real.T, strict=True))
    repeats = {name: [np.array([v]) for v in values] for name, values in both.items()}
    names = [f"random-{number}" for number in range(len(rows))]
    return Table(names, rows, both, repeats, {}, {})


def test_known_settings_are_found_again(kind, made, truth):
    rows = subsets(made)
    real = np.array([changes(truth, own) for own in rows])
    entry = fitted_learner(made, table_of(rows, real))
    assert entry["sketches"] == kind
    for role in ("domain", "anchor"):
        for name, expected in TRUE[kind][role].items():
            assert entry[role][name] == pytest.approx(expected, rel=0.01, abs=2e-3)

    write_learner(made, entry)
    fitted = load_bundle(made.path)
    for own in rows[::5]:
        assert predict(fitted, own) == pytest.approx(predict(truth, own), abs=0.02)
    kept = {n: v for n, v in fitted.manifest.items() if n != "learner"}
    assert kept == {n: v for n, v in made.manifest.items() if n != "learner"}


def test_no_setting_is_below_zero(kind, made):
    rows = subsets(made)
    real = -np.array([changes(made, own) for own in rows])
    entry = fitted_learner(made, table_of(rows, real))
    values = [v for role in ("domain", "anchor") for v in entry[role].values()]
    assert min(min(own) for own in values) >= 0
    write_learner(made, json.loads(json.dumps(entry)))
    learner = SurrogateLearner(load_bundle(made.path))
    assert learner.domain_loss() == pytest.approx(made.dev.losses.mean(), rel=1e-5)


def test_the_fidelity_is_written_into_the_manifest(bundle: Bundle, tmp_path: Path):
    folder, rng = tmp_path / "results" / "held-out", np.random.default_rng(1)
    before = {"test": 2.0, "retention": 1.0, "prose": 3.0}
    write_json(folder.parent / BASE, {"losses": before})
    ids = bundle.pool.hex_ids()
    for kind in ("random", "greedy"):
        for number in range(4):
            rows = rng.permutation(len(ids))[:9]
            for seed in range(1 + (number == 0)):
                losses = {n: v * rng.uniform(0.9, 1.05) for n, v in before.items()}
                result = {
                    "subset": f"{kind}-{number}",
                    "seed": seed,
                    "losses": losses,
                    "ids": [ids[row] for row in rows],
                }
                write_json(result_file(folder, f"{kind}-{number}", seed), result)
    own = load_bundle(make_bundle(tmp_path / "own"))
    write_fidelity(own, folder)
    again = load_bundle(own.path)
    found = table(bundle, folder)
    written = again.manifest["fidelity"]
    assert written["subsets"] == 8
    for name, real in (("domain", "test"), ("retention", "retention")):
        expected = stats.spearmanr(found.predicted[name], found.real[real]).statistic
        assert written[f"{name}_spearman"] == pytest.approx(expected, abs=5e-4)
        low, high = written[f"{name}_interval"]
        assert low <= written[f"{name}_spearman"] <= high
    kept = {n: v for n, v in again.manifest.items() if n != "fidelity"}
    assert kept == own.manifest
