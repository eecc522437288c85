"""The study's numbers by hand, on results written by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.make_bundle import edit_manifest, make_bundle
from helpers.synthetic_study import BEFORE, KINDS, NAMES, PAIRS, write_random_list
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib import image
from scipy import stats

from ogs_env.bundle import Bundle, load_bundle
from ogs_env.errors import InputError
from ogs_env.experiments.fidelity.drawing import markdown, plot
from ogs_env.experiments.fidelity.report import (
    ceiling,
    correlation,
    paired,
    spearman,
    summarise,
)
from ogs_env.experiments.fidelity.results import (
    BASE,
    read_results,
    result_file,
    rows_of,
)
from ogs_env.experiments.fidelity.table import Table, kind_of, table
from ogs_env.experiments.fidelity.terms import (
    compute_terms,
    read_terms,
    write_terms,
)
from ogs_env.learners.fitted import default_learner
from ogs_env.learners.surrogate import SurrogateLearner

MATHS, KNOWLEDGE = "maths", "knowledge"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    """A bundle whose learner is the one that predictions are made with."""
    folder = make_bundle(tmp_path_factory.mktemp("bundles") / "made")
    edit_manifest(folder, learner=default_learner([0, 6], [1.0, 1.0]))
    return load_bundle(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("results") / "made" / "held-out"


@pytest.fixture(scope="module")
def measured(bundle, folder):
    """The results of the runs by subset, one for each seed."""
    runs = write_random_list(bundle, folder)
    write_terms(compute_terms(bundle, folder), folder)
    return runs


@pytest.fixture(scope="module")
def whole_table(folder, measured) -> Table:
    return table(folder)


@pytest.fixture(scope="module")
def summary(folder, measured):
    return summarise(folder)


def changes(runs, name: str) -> list[float]:
    """Percent by which each run changed a loss."""
    return [100 * (run["losses"][name] - BEFORE[name]) / BEFORE[name] for run in runs]


def largest_rises(runs, kind: str) -> list[float]:
    both = [changes(runs, f"{kind}/{name}") for name in (MATHS, KNOWLEDGE)]
    return [max(own) for own in zip(*both, strict=True)]


def by_hand(runs) -> dict[str, list[float]]:
    """Everything that a table holds about the runs of a subset."""
    return {
        **{name: changes(runs, name) for name in BEFORE},
        "forgetting": largest_rises(runs, "own"),
        "reference": largest_rises(runs, "reference"),
        **{
            f"pairs/{name}": [
                100 * (run["pairs"][name]["accuracy"] - before["accuracy"])
                for run in runs
            ]
            for name, before in PAIRS.items()
        },
        **{
            f"margin/{name}": [
                run["pairs"][name]["margin"] - before["margin"] for run in runs
            ]
            for name, before in PAIRS.items()
        },
    }


def test_the_table_holds_every_subset_once(whole_table):
    assert sorted(whole_table.names) == sorted(NAMES)


def test_real_changes_are_those_from_the_untouched_model(whole_table, measured):
    for place, name in enumerate(whole_table.names):
        expected = by_hand(measured[name])
        assert set(whole_table.real) == set(whole_table.repeats) == set(expected)
        for key, values in expected.items():
            assert whole_table.real[key][place] == pytest.approx(np.mean(values))
            np.testing.assert_allclose(
                whole_table.repeats[key][place], values, atol=1e-9
            )


def test_predictions_are_those_of_the_learner(bundle, folder, whole_table):
    results = read_results(folder)
    for place, name in enumerate(whole_table.names):
        learner = SurrogateLearner(bundle)
        before = [
            learner.domain_loss(),
            learner.anchor_losses(),
            learner.answer_losses(),
        ]
        for row in rows_of(bundle, results[name][0]["ids"]):
            learner.update(row)
        after = [
            learner.domain_loss(),
            learner.anchor_losses(),
            learner.answer_losses(),
        ]
        domain, anchors, answers = (
            100 * (a - b) / b for a, b in zip(after, before, strict=True)
        )
        expected = {
            "domain": domain,
            f"reference/{MATHS}": anchors[0],
            f"reference/{KNOWLEDGE}": anchors[1],
            f"own/{MATHS}": answers[0],
            f"own/{KNOWLEDGE}": answers[1],
            "forgetting": max(answers),
            "reference": max(anchors),
        }
        own = {key: values[place] for key, values in whole_table.predicted.items()}
        assert own == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert min(answers) > 0


def test_terms_are_read_as_they_were_written(bundle, folder, measured):
    terms, restored = compute_terms(bundle, folder), read_terms(folder)
    assert (terms.capabilities, terms.steps) == ([MATHS, KNOWLEDGE], [0, 6])
    for name in ("capabilities", "steps", "norms", "subsets"):
        assert getattr(restored, name) == getattr(terms, name)
    for part in ("losses", "tokens", "shifts", "naive"):
        original, reread = getattr(terms, part), getattr(restored, part)
        assert original.keys() == reread.keys()
        for name in original:
            np.testing.assert_allclose(reread[name], original[name], 1e-6, 1e-9)


def distance(bundle: Bundle, rows: np.ndarray) -> float:
    """How far one epoch moves the untouched model: the docstring's d, of 8 or more."""
    first = bundle.pool.sketches("trajectory")[rows, : bundle.k].astype(float)
    steps = first * bundle.pool.tokens[rows, None]
    total, alone, n = steps.sum(axis=0), (steps**2).sum(), len(rows)
    pairs = (total @ total - alone) / (n * (n - 1))
    return float(np.sqrt(total @ total / (8 * alone / n + 56 * pairs)))


def test_naive_predictions_need_no_learner(bundle, folder, whole_table):
    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    starts, of = bundle.pool.sketches("initial"), bundle.anchor.capabilities
    anchors = bundle.anchor.sketches("initial")
    domain = unit(bundle.dev.sketches("initial").mean(0))
    means = unit(np.stack([anchors[of == n].mean(0) for n in (0, 1)]))
    results = read_results(folder)
    for place, name in enumerate(whole_table.names):
        rows = rows_of(bundle, results[name][0]["ids"])
        tokens, cosines = bundle.pool.tokens[rows], unit(starts[rows]) @ means.T
        expected = {
            # A sample that points where the domain does lowers its loss.
            "domain_cosine": -(unit(starts[rows]) @ domain).mean(),
            "anchor_cosine": -np.mean([min(own) for own in cosines]),
            "tokens": tokens.sum(),
            "short_answers": -np.log(tokens).mean(),
            "norm": np.log(np.linalg.norm(starts[rows], axis=1)).mean(),
            "distance": distance(bundle, rows),
        }
        own = {key: values[place] for key, values in whole_table.naive.items()}
        assert own == pytest.approx(expected, abs=1e-3)


def test_terms_of_other_subsets_are_refused(bundle, tmp_path):
    folder = tmp_path / "pool" / "tenth"
    write_random_list(bundle, folder, names=NAMES[:5])
    with pytest.raises(InputError, match="no such file; run `ogs fidelity --terms`"):
        table(folder)
    write_terms(compute_terms(bundle, folder), folder)
    assert table(folder).names == sorted(NAMES[:5])
    result_file(folder, NAMES[0], 0).rename(tmp_path / "elsewhere.json")
    result_file(folder, NAMES[0], 1).unlink()
    with pytest.raises(InputError, match="of other subsets than its runs"):
        table(folder)


def test_without_the_untouched_model_nothing_is_compared(bundle, tmp_path):
    folder = tmp_path / "pool" / "tenth"
    write_random_list(bundle, folder, names=NAMES[:3])
    write_terms(compute_terms(bundle, folder), folder)
    (tmp_path / "pool" / BASE).unlink()
    with pytest.raises(InputError, match="no such file; expected a file of the untou"):
        table(folder)


@given(arrays(float, (2, 9), elements=st.integers(-4, 4).map(float)))
def test_rank_correlations_are_scipys(values):
    first, second = values
    if len(set(first)) > 1 and len(set(second)) > 1:
        expected = stats.spearmanr(first, second).statistic
        assert spearman(first, second) == pytest.approx(expected, abs=1e-12)
        both = spearman(np.stack([first, second]), np.stack([second, second]))
        assert both == pytest.approx([expected, 1], abs=1e-12)
    else:
        assert np.isnan(spearman(first, second))


def test_correlations_are_those_of_their_definitions():
    rng = np.random.default_rng(2)
    real = rng.normal(size=30)
    predicted = real + rng.normal(size=30)
    result = correlation(predicted, real)
    gaps = stats.rankdata(predicted) - stats.rankdata(real)
    spearman = 1 - 6 * np.square(gaps).sum() / (30 * (30**2 - 1))
    assert result["spearman"] == pytest.approx(spearman, abs=5e-4)
    pearson = np.corrcoef(predicted, real)[0, 1]
    assert result["pearson"] == pytest.approx(pearson, abs=5e-4)
    low, high = result["interval"]
    assert low < result["spearman"] < high
    # Fisher's interval, which holds for normal data, is about as wide.
    fisher = np.tanh(np.arctanh(spearman) + np.array([-1.96, 1.96]) / 27**0.5)
    np.testing.assert_allclose([low, high], fisher, atol=0.12)
    assert correlation(predicted, real) == result


def test_an_order_that_is_right_correlates_fully():
    real = np.array([-5.0, -3.0, 0.5, 2.0, 40.0, 41.0, 60.0])
    right = correlation(real**3, real)
    assert right["spearman"] == 1
    assert right["interval"] == [1, 1]
    assert right["pearson"] < 1
    assert correlation(-real, real)["spearman"] == -1


def test_without_noise_the_ceiling_is_one():
    repeats = [np.array([value, value]) for value in (-4.0, -2.5, 0.0, 1.0)]
    assert ceiling(repeats) == 1


def test_the_ceiling_of_noise_is_low():
    noise = np.random.default_rng(1).normal(size=(4000, 2))
    assert ceiling(list(noise)) < 0.2


def test_the_ceiling_is_the_correlation_of_the_true_changes():
    rng = np.random.default_rng(3)
    truth = rng.normal(size=3000)
    # Some subsets have two seeds, others one, as in the study.
    repeats = [
        value + rng.normal(scale=0.7, size=1 + number % 2)
        for number, value in enumerate(truth)
    ]
    correlation = np.corrcoef(truth, [own.mean() for own in repeats])[0, 1]
    assert ceiling(repeats) == pytest.approx(correlation, abs=0.02)
    assert 0.8 < correlation < 0.95


def test_a_ceiling_needs_two_seeds():
    with pytest.raises(InputError, match="no subset was trained with two seeds"):
        ceiling([np.array([1.0]), np.array([2.0])])


def test_pairs_are_compared_by_number(whole_table, measured):
    result = paired(whole_table, "reward", "random")
    assert result["pairs"] == 4  # random-4 has no partner
    for name in by_hand(measured["random-0"]):
        first, second = (
            [np.mean(by_hand(measured[f"{kind}-{n}"])[name]) for n in range(4)]
            for kind in ("reward", "random")
        )
        interval = stats.ttest_rel(first, second).confidence_interval(0.95)
        assert result[name]["difference"] == pytest.approx(
            np.mean(first) - np.mean(second), abs=1e-3
        )
        assert result[name]["interval"] == pytest.approx(
            [interval.low, interval.high], abs=1e-3
        )
    assert paired(whole_table, "best", "worst") == {"pairs": 0}


def test_the_summary_is_of_these_parts(whole_table, summary):
    head = {name: summary[name] for name in ("pool", "recipe", "subsets", "refitted")}
    assert head == {
        "pool": "made",
        "recipe": "held-out",
        "subsets": len(NAMES),
        "refitted": False,
    }
    for name, real in (
        ("domain", whole_table.real["test"]),
        ("forgetting", whole_table.real["forgetting"]),
        ("reference", whole_table.real["reference"]),
    ):
        expected = stats.spearmanr(whole_table.predicted[name], real).statistic
        assert summary[f"{name}_spearman"] == pytest.approx(expected, abs=5e-4)
        low, high = summary[f"{name}_interval"]
        assert -1 <= low <= summary[f"{name}_spearman"] <= high <= 1
        repeats = whole_table.repeats["test" if name == "domain" else name]
        assert summary[f"{name}_ceiling"] == ceiling(repeats)
        naive = {
            key: stats.spearmanr(values, real).statistic
            for key, values in whole_table.naive.items()
        }
        assert summary[f"{name}_naive"] == pytest.approx(naive, abs=5e-4)
    assert summary["reward_less_random"] == paired(whole_table, "reward", "random")
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_without_repeats_no_ceiling_is_reported(bundle, tmp_path):
    folder = tmp_path / "pool" / "tenth"
    write_random_list(
        bundle, folder, names=["random-1", "random-2", "mixture-0", "less-0"]
    )
    write_terms(compute_terms(bundle, folder), folder)
    summary = summarise(folder)
    assert summary["subsets"] == 4
    assert not [name for name in summary if "ceiling" in name or "reward" in name]


def test_the_markdown_table_has_a_row_a_kind(whole_table):
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in markdown(whole_table).splitlines()
    ]
    assert lines[0][:8] == [
        *("subsets", "number", "domain test", "predicted", "own answers", "predicted"),
        *("references", "predicted"),
    ]
    assert lines[0][8:] == ["prose", "pairs/solutions", "pairs/grammar"]
    assert {len(cells) for cells in lines} == {11}
    assert set(lines[1]) == {"---"}
    assert {cells[0]: int(cells[1]) for cells in lines[2:]} == KINDS
    for cells in lines[2:]:
        places = [
            n for n, name in enumerate(whole_table.names) if name[:-2] == cells[0]
        ]
        columns = (
            whole_table.real["test"],
            whole_table.predicted["domain"],
            whole_table.real["forgetting"],
            whole_table.predicted["forgetting"],
            whole_table.real["reference"],
            whole_table.predicted["reference"],
            whole_table.real["prose"],
            whole_table.real["pairs/solutions"],
            whole_table.real["pairs/grammar"],
        )
        means = [column[places].mean() for column in columns]
        assert [float(cell) for cell in cells[2:]] == pytest.approx(means, abs=0.0051)


def test_a_kind_is_the_name_up_to_the_number():
    assert kind_of("best-anchor_gain-0") == "best-anchor_gain"
    assert kind_of("grad-match-12") == "grad-match"


def test_the_plot_is_a_picture(whole_table, summary, tmp_path):
    file = tmp_path / "new" / "held-out.png"
    plot(whole_table, summary, file)
    assert file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = image.imread(file)
    assert pixels.shape[:2] == (720, 1500)
    for half in np.split(pixels[..., :3], 2, axis=1):
        colours = {tuple(colour) for colour in half.reshape(-1, 3).round(2)}
        assert len(colours) > 20
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no results; run `ogs fidelity` first"):
        read_results(tmp_path)


def test_results_of_another_bundle_are_refused(bundle: Bundle):
    ids = bundle.pool.hex_ids()
    assert rows_of(bundle, [ids[7], ids[0]]) == [7, 0]
    with pytest.raises(InputError, match="sample 12ab: is not in the pool of"):
        rows_of(bundle, [ids[7], "12ab"])
