"""`ogs fidelity` on the committed results."""

import json

import pytest

from ogs_env.bundle import load_bundle
from ogs_env.cli import main
from ogs_env.experiments.fidelity.command import RESULTS
from ogs_env.experiments.fidelity.results import read_results, rows_of


def test_the_summary_is_one_line_a_domain_and_what_the_manifest_says(capsys):
    assert main(["fidelity", "--summary"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    summary = json.loads(line)
    assert summary["domain"] == "medical"
    assert summary["subsets"] >= 40
    for name in ("domain", "retention"):
        low, high = summary[f"{name}_interval"]
        assert -1 <= low < summary[f"{name}_spearman"] < high <= 1
        assert summary[f"{name}_spearman"] > summary[f"naive_{name}"]
        assert 0 < summary[f"ceiling_{name}"] <= 1
    assert load_bundle("medical").manifest["fidelity"] == summary


def test_the_lists_have_subsets_of_48_and_share_none():
    bundle, subsets = load_bundle("medical"), []
    for name in ("development", "held-out"):
        for runs in read_results(RESULTS / "medical" / name).values():
            rows = rows_of(bundle, runs[0]["ids"])
            assert len(set(rows)) == 48
            assert all(run["ids"] == runs[0]["ids"] for run in runs)
            subsets.append(frozenset(rows))
    assert len(set(subsets)) == len(subsets)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--summary", "--results", "nowhere"], "nowhere: holds no results"),
        (["--epochs", "0"], "--epochs: is 0; expected 1 or more"),
        (["--list", "heldout"], "invalid choice: 'heldout'"),
        (["--bundle", "medicine"], "unknown bundle 'medicine'; did you mean medical"),
    ],
)
def test_bad_input_is_one_line(capsys, options, message):
    assert main(["fidelity", *options]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("ogs: error: ")
    assert message in line
