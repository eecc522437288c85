"""Fits of a learner to changes with known slopes and curvatures."""

from pathlib import Path

import numpy as np
import pytest
from helpers.make_bundle import edit_manifest, make_bundle
from helpers.synthetic_study import write_list, write_random_list
from scipy import stats

from ogs_env.bundle import Bundle, load_bundle
from ogs_env.experiments.fidelity.ablation import ablation
from ogs_env.experiments.fidelity.fitting import fitted_constants, fitted_learner
from ogs_env.experiments.fidelity.results import BASE
from ogs_env.experiments.fidelity.table import predict, table
from ogs_env.experiments.fidelity.terms import (
    Terms,
    compute_terms,
    read_terms,
    write_terms,
)
from ogs_env.files import write_json
from ogs_env.learners import fitted
from ogs_env.learners.fitted import default_learner
from ogs_env.learners.surrogate import SurrogateLearner

TRUE = {
    "sketches": "trajectory",
    "epochs": 2,
    "domain": {"slope": [0.21, 0.04], "share": 0.5},
    "anchor": {"slope": [0.08, 0.3], "share": 1.2},
    "forgetting": {"curvature": 0.015},
}
ROLES = ("domain", "anchor", "forgetting")


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> Bundle:
    """A bundle with the learner that the fit must recover."""
    folder = make_bundle(tmp_path_factory.mktemp("truth") / "made")
    edit_manifest(folder, learner=TRUE)
    return load_bundle(folder)


def subsets(bundle: Bundle) -> dict[str, list[int]]:
    """From the whole pool and from single sources, of several sizes."""
    rng = np.random.default_rng(0)
    of = bundle.pool.sources
    row_lists = [
        rng.permutation(len(of))[: 8 + 4 * (n % 9)].tolist() for n in range(18)
    ]
    for source in range(len(bundle.sources)):
        rows = np.flatnonzero(of == source)
        row_lists += [rng.permutation(rows)[:n].tolist() for n in (8, 24, 48)]
    return {f"mixture-{number}": rows for number, rows in enumerate(row_lists)}


def losses(learner: SurrogateLearner) -> dict[str, float]:
    """Losses by the names of what a run measures; the dev set stands for the test's."""
    anchors, answers = learner.anchor_losses(), learner.answer_losses()
    return {
        "test": learner.domain_loss(),
        "prose": 1.0,
        "reference/maths": float(anchors[0]),
        "reference/knowledge": float(anchors[1]),
        "own/maths": float(answers[0]),
        "own/knowledge": float(answers[1]),
    }


def write_truth(bundle: Bundle, folder: Path, direction: float = 1) -> None:
    """Write runs that change losses as the bundle's learner does, and their terms."""
    learner, picks, runs = SurrogateLearner(bundle), subsets(bundle), {}
    before = losses(learner)
    for name, rows in picks.items():
        learner.reset()
        learner.update_many(rows)
        after = losses(learner)
        changed = {n: before[n] + direction * (after[n] - before[n]) for n in before}
        runs[name] = [{"losses": changed, "pairs": {}}]
    write_list(bundle, folder, picks, runs, epochs=TRUE["epochs"])
    write_json(folder.parent / BASE, {"losses": before, "pairs": {}})
    write_terms(compute_terms(bundle, folder), folder)


@pytest.fixture(scope="module")
def folder(truth, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "medical" / "development"
    write_truth(truth, folder)
    return folder


@pytest.fixture(scope="module")
def terms(folder) -> Terms:
    return read_terms(folder)


def test_a_known_learner_is_recovered(folder, terms):
    results = table(folder)
    assert results.epochs == TRUE["epochs"]
    entry = fitted_learner(terms, results, "own")
    assert entry.keys() == TRUE.keys()
    assert (entry["sketches"], entry["epochs"]) == ("trajectory", 2)
    for role in ROLES:
        assert entry[role].keys() == TRUE[role].keys()
        for name, expected in TRUE[role].items():
            assert entry[role][name] == pytest.approx(expected, rel=0.01, abs=2e-3)
    predicted = predict(terms, entry)
    for name, real in (("domain", "test"), ("forgetting", "forgetting")):
        np.testing.assert_allclose(predicted[name], results.real[real], atol=0.02)


@pytest.mark.parametrize("kind", ["own", "reference"])
def test_the_constants_make_the_fitted_learner(folder, terms, monkeypatch, kind):
    entry = fitted_learner(terms, table(folder), kind)
    monkeypatch.setattr(fitted, "FITTED", {kind: fitted_constants(entry)})
    monkeypatch.setattr(fitted, "STEPS", terms.steps)
    monkeypatch.setattr(fitted, "NORMS", terms.norms)
    learner = default_learner(terms.steps, terms.norms, kind, epochs=2)
    assert learner.keys() == entry.keys()
    for role in ROLES:
        for name, expected in entry[role].items():
            assert learner[role][name] == pytest.approx(expected, abs=2e-5)


def test_fitted_constants_are_not_negative(truth, tmp_path):
    folder = tmp_path / "medical" / "development"
    write_truth(truth, folder, direction=-1)
    entry = fitted_learner(read_terms(folder), table(folder), "own")
    values = [np.ravel(own) for role in ROLES for own in entry[role].values()]
    assert len(np.concatenate(values)) == 7
    assert np.concatenate(values).min() == pytest.approx(0, abs=1e-6)
    assert (np.concatenate(values) >= 0).all()


def test_the_ablation_judges_each_model_by_itself(truth, folder, tmp_path):
    other = tmp_path / "legal" / "tenth"
    real = write_random_list(truth, other)
    write_terms(compute_terms(truth, other), other)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in ablation(folder, {"legal, tenth": other}).splitlines()
    ]
    assert rows[0] == ["model", "development (fitted)", "legal, tenth"]
    figures = {row[0]: [float(cell) for cell in row[1:]] for row in rows[2:]}
    # The development list follows the complete models.
    whole = "domain: dev samples, less what own answers lose"
    assert figures[whole][0] > 0.999
    assert figures["forgetting: own answers"][0] == 1

    terms, results = read_terms(other), table(other)
    assert real.keys() == set(results.names)
    # A single weight does not change the order of the terms.
    expected = {}
    for kind, label in (("own", "own answers"), ("reference", "references")):
        rises = [
            terms.moved(f"{kind}/{name}") / terms.start(f"own/{name}")
            for name in terms.capabilities
        ]
        expected[f"forgetting: {label}"] = np.max(rises, axis=0), "forgetting"
    for name, values in results.naive.items():
        expected[f"domain: {name} (naive)"] = values, "test"
        expected[f"forgetting: {name} (naive)"] = values, "forgetting"
    for name, (values, measured) in expected.items():
        correlation = stats.spearmanr(values, results.real[measured]).statistic
        assert figures[name][1] == pytest.approx(correlation, abs=0.0051)
    assert figures.keys() == expected.keys() | {
        whole,
        "domain: dev samples, less what references tell",
        "domain: dev samples at the untouched model, less what own answers lose",
        "domain: dev samples alone",
        "forgetting: own answers and distance",
    }
