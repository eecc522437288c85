"""`ogs fidelity` on random results, and on the committed ones."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.make_bundle import edit_manifest, make_bundle
from helpers.synthetic_study import NAMES, write_random_list

from ogs_env import bundle as bundles
from ogs_env.bundle import load_bundle
from ogs_env.cli import main
from ogs_env.experiments.fidelity import command
from ogs_env.experiments.fidelity.fitting import (
    fitted_constants,
    fitted_learner,
    fitted_untouched,
)
from ogs_env.experiments.fidelity.report import summarise
from ogs_env.experiments.fidelity.results import read_results
from ogs_env.experiments.fidelity.table import table
from ogs_env.experiments.fidelity.terms import TERMS, compute_terms, read_terms
from ogs_env.learners.fitted import FITTED, FITTED_UNTOUCHED, NORMS, STEPS

LISTS = [("legal", "tenth"), ("medical", "development"), ("medical", "held-out")]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Path:
    """A folder of two small bundles that can be shipped."""
    folder = tmp_path_factory.mktemp("shipped")
    for seed, name in enumerate(("legal", "medical")):
        make_bundle(folder / name, seed=seed)
        edit_manifest(folder / name, name=name)
    return folder


@pytest.fixture(autouse=True)
def shipped_here(shipped, tmp_path, monkeypatch, request) -> None:
    """Ship copies of these bundles, except in tests of the committed results."""
    if "committed" not in request.fixturenames:
        folder = shutil.copytree(shipped, tmp_path / "shipped")
        monkeypatch.setattr(bundles, "SHIPPED", folder)


@pytest.fixture
def results(tmp_path, shipped_here) -> Path:
    """Lists of both pools, without terms."""
    folder = tmp_path / "results"
    for seed, (pool, name) in enumerate(LISTS):
        write_random_list(load_bundle(pool), folder / pool / name, seed)
    return folder


def run(capsys, *options: str) -> tuple[list[str], list[str]]:
    """Run `ogs fidelity`; return its lines on stdout and on stderr."""
    assert main(["fidelity", *options]) == 0
    out, err = capsys.readouterr()
    return out.splitlines(), err.splitlines()


def test_the_summary_needs_no_bundle(capsys, results, monkeypatch):
    assert run(capsys, "--terms", "--results", str(results)) == ([], [])
    monkeypatch.setattr(bundles, "_load", None)
    out, err = run(capsys, "--summary", "--results", str(results))
    assert not err
    summaries = [json.loads(line) for line in out]
    assert [(one["pool"], one["recipe"]) for one in summaries] == LISTS
    for summary in summaries:
        assert summary["subsets"] == len(NAMES)
        assert summary["refitted"] is False
        for name in ("domain", "forgetting", "reference"):
            low, high = summary[f"{name}_interval"]
            assert -1 <= low <= summary[f"{name}_spearman"] <= high <= 1


def test_a_list_without_terms_is_reported_and_left_out(capsys, results):
    run(capsys, "--terms", "--results", str(results))
    (results / "medical" / "held-out" / TERMS).unlink()
    out, err = run(capsys, "--summary", "--results", str(results))
    assert [json.loads(line)["recipe"] for line in out] == ["tenth", "development"]
    [line] = err
    assert line.startswith(f"ogs: note: {results / 'medical' / 'held-out'}: left out")
    assert line.endswith("run `ogs fidelity --terms`")


def test_a_list_with_too_few_runs_is_reported_and_left_out(capsys, results):
    incomplete = results / "legal" / "held-out"
    write_random_list(load_bundle("legal"), incomplete, names=NAMES[:2])
    _, err = run(capsys, "--terms", "--results", str(results))
    assert err == [f"ogs: note: {incomplete}: left out: has runs of 2 subsets of 3"]
    assert not (incomplete / TERMS).exists()
    assert (results / "legal" / "tenth" / TERMS).exists()


def test_terms_come_with_tables_and_plots(capsys, results):
    run(capsys, "--terms", "--results", str(results))
    for pool, name in LISTS:
        folder = results / pool / name
        terms = read_terms(folder)
        assert terms.subsets == list(read_results(folder))
        expected = compute_terms(load_bundle(pool), folder)
        np.testing.assert_allclose(
            terms.shifts["own/maths"], expected.shifts["own/maths"], 1e-6, 1e-9
        )
        text = (results / pool / f"{name}.md").read_text()
        assert "\n\n| subsets | number |" in text
        assert "| reward | 4 |" in text
        picture = (results / pool / f"{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")


def test_shipped_results_are_written_into_the_shipped_bundles(
    capsys, results, monkeypatch
):
    def manifests() -> dict[str, dict]:
        return {pool: load_bundle(pool).manifest for pool in ("legal", "medical")}

    before = manifests()
    run(capsys, "--terms", "--results", str(results))
    assert manifests() == before

    monkeypatch.setattr(command, "RESULTS", results)
    run(capsys, "--terms", "--results", str(results))
    for pool, recipe in (("legal", "tenth"), ("medical", "held-out")):
        expected = {recipe: summarise(results / pool / recipe)}
        assert manifests()[pool] == before[pool] | {"fidelity": expected}


def test_a_bundle_without_own_answers_is_refused(capsys, results):
    folder = bundles.SHIPPED / "legal"
    shutil.rmtree(folder)
    make_bundle(folder, answers=False)
    edit_manifest(folder, name="legal", command="ogs sketch legal")
    assert main(["fidelity", "--terms", "--results", str(results)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "legal: lacks the model's own answers" in line
    assert line.endswith("build it again: ogs sketch legal")


def test_fit_prints_constants_and_the_ablation(capsys, results):
    run(capsys, "--terms", "--results", str(results))
    out, _ = run(capsys, "--fit", "--results", str(results))
    end = out.index("}")
    constants = json.loads("\n".join(out[: end + 1]))
    assert constants.keys() == {"steps", "norms", *FITTED, "untouched"}
    assert constants["steps"] == [0, 6]
    for kind, known in FITTED.items():
        assert constants[kind].keys() == known.keys()
        assert constants["untouched"][kind].keys() == known.keys()
    lines = out[end + 1 :]
    columns = ["development (fitted)", "legal, tenth", "medical, held-out"]
    assert lines[0] == f"| model | {' | '.join(columns)} |"
    assert (results / "ablation.md").read_text().splitlines()[-len(lines) :] == lines


def test_nothing_is_fitted_without_the_development_list(capsys, results):
    assert main(["fidelity", "--fit", "--results", str(results)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("no such file; run `ogs fidelity --terms`")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--summary", "--results", "nowhere"], "nowhere: holds no results"),
        (["--seeds", "0", "-1"], "--seeds: has -1; expected 0 or more"),
        (["--list", "heldout"], "invalid choice: 'heldout'"),
        (["--pool", "medicine"], "unknown pool 'medicine'; did you mean medical"),
    ],
)
def test_bad_input_is_one_line(capsys, options, message):
    assert main(["fidelity", *options]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("ogs: error: ")
    assert message in line


@pytest.fixture
def committed() -> list[Path]:
    """The folders of the committed lists."""
    files = command.RESULTS.glob("*/*/*--s*.json")
    folders = sorted({file.parent for file in files})
    assert folders
    return folders


def with_answers() -> list[str]:
    """The shipped bundles that the study can be made on."""
    return [name for name in bundles.shipped_bundles() if load_bundle(name).has_answers]


def test_committed_lists_have_the_terms_of_their_subsets(committed):
    for folder in committed:
        assert folder.name in command.LISTS
        results = read_results(folder)
        # A pool whose bundle has no own answers has only runs.
        if (folder / TERMS).exists() or folder.parent.name in with_answers():
            assert read_terms(folder).subsets == list(results)
        for runs in results.values():
            ids = runs[0]["ids"]
            assert len(set(ids)) == len(ids)
            assert all(run["ids"] == ids for run in runs)


def test_committed_terms_are_those_of_the_shipped_bundles(committed, tmp_path):
    for folder in committed:
        pool, few = folder.parent.name, tmp_path / folder.parent.name / folder.name
        if pool not in with_answers():
            continue
        few.mkdir(parents=True)
        terms = read_terms(folder)
        for name in terms.subsets[::10]:
            for file in folder.glob(f"{name}--s*.json"):
                shutil.copy(file, few)
        computed = compute_terms(load_bundle(pool), few)
        places = [terms.subsets.index(name) for name in computed.subsets]
        assert computed.norms == pytest.approx(terms.norms, rel=1e-6)
        for group, values in computed.shifts.items():
            expected = terms.shifts[group][places]
            np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-5)
            np.testing.assert_array_equal(computed.losses[group], terms.losses[group])
            np.testing.assert_array_equal(computed.tokens[group], terms.tokens[group])
        for name, values in computed.naive.items():
            np.testing.assert_allclose(values, terms.naive[name][places], rtol=1e-5)


def test_committed_lists_for_fitting_and_judging_share_no_subset(committed):
    lists = {
        folder.name: {
            frozenset(runs[0]["ids"]) for runs in read_results(folder).values()
        }
        for folder in committed
        if folder.parent.name == command.FITTED_POOL
    }
    development = lists.pop(command.DEVELOPMENT)
    assert {len(ids) for ids in development} == {48}
    assert development.isdisjoint(frozenset().union(*lists.values()))


def test_the_constants_are_those_that_fit_the_committed_list():
    folder = command.RESULTS / command.FITTED_POOL / command.DEVELOPMENT
    terms, results = read_terms(folder), table(folder)
    assert tuple(terms.steps) == STEPS
    assert terms.norms == pytest.approx(NORMS, abs=1e-4)
    tenth = folder.parent / command.TENTH
    further = [(read_terms(tenth), table(tenth))]

    def untouched(kind):
        return fitted_untouched(terms, results, kind, further)

    def whole(kind):
        return fitted_learner(terms, results, kind)

    for fit, constants in (whole, FITTED), (untouched, FITTED_UNTOUCHED):
        for kind, known in constants.items():
            fitted = fitted_constants(fit(kind))
            assert fitted.keys() == known.keys()
            for role, values in known.items():
                for name, value in values.items():
                    assert fitted[role][name] == pytest.approx(value, abs=1e-3)


def test_committed_figures_are_in_the_manifests(committed):
    for pool in with_answers():
        judged = {
            folder.name: summarise(folder)
            for folder in committed
            if folder.parent.name == pool and folder.name != command.DEVELOPMENT
        }
        assert load_bundle(pool).manifest.get("fidelity", {}) == judged
