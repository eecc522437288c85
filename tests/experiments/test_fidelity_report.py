"""The study's numbers by hand, on results written by hand."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from scipy import stats

from ogs_env.bundle import Bundle
from ogs_env.errors import InputError
from ogs_env.experiments.fidelity.report import (
    Table,
    ceiling,
    correlation,
    markdown,
    paired,
    plot,
    predict,
    summarise,
    table,
)
from ogs_env.experiments.fidelity.results import (
    BASE,
    read_results,
    result_file,
    rows_of,
)
from ogs_env.files import write_json
from ogs_env.learners.surrogate import SurrogateLearner

BEFORE = {"test": 2.0, "retention": 1.25, "prose": 4.0}
KINDS = {"random": 5, "greedy": 4, "best-anchor_gain": 1, "mixture": 3}
SEEDS = {"random-0": [0, 1], "greedy-0": [0, 1, 2]}


@pytest.fixture(scope="module")
def losses() -> dict[str, list[dict[str, float]]]:
    """What each run came to, one entry a seed."""
    rng = np.random.default_rng(5)
    names = [f"{kind}-{number}" for kind, n in KINDS.items() for number in range(n)]
    return {
        name: [
            {role: loss * rng.uniform(0.8, 1.1) for role, loss in BEFORE.items()}
            for _ in SEEDS.get(name, [0])
        ]
        for name in names
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory, bundle, losses) -> Path:
    folder = tmp_path_factory.mktemp("results") / "made" / "held-out"
    write_json(folder.parent / BASE, {"losses": BEFORE})
    ids = bundle.pool.hex_ids()
    for number, (name, runs) in enumerate(losses.items()):
        for seed, found in enumerate(runs):
            result = {
                "subset": name,
                "seed": seed,
                "losses": found,
                "ids": [ids[row] for row in picks(number)],
            }
            write_json(result_file(folder, name, seed), result)
    return folder


def picks(number: int) -> list[int]:
    return np.random.default_rng(number).permutation(480)[:20].tolist()


@pytest.fixture(scope="module")
def found(bundle, folder) -> Table:
    return table(bundle, folder)


@pytest.fixture(scope="module")
def summary(bundle, folder):
    return summarise(bundle, folder)


def changes(losses, name: str, role: str) -> list[float]:
    return [100 * (run[role] - BEFORE[role]) / BEFORE[role] for run in losses[name]]


def test_the_table_holds_every_subset_once(found, losses):
    assert sorted(found.names) == sorted(losses)
    numbers = [list(losses).index(name) for name in found.names]
    assert found.rows == [picks(number) for number in numbers]


def test_real_changes_are_percent_of_the_first_loss(found, losses):
    assert set(found.real) == set(BEFORE)
    for role in BEFORE:
        by_seed = [changes(losses, name, role) for name in found.names]
        means = [np.mean(own) for own in by_seed]
        np.testing.assert_allclose(found.real[role], means, rtol=1e-9)
        for repeats, own in zip(found.repeats[role], by_seed, strict=True):
            np.testing.assert_allclose(repeats, own, rtol=1e-9)


def test_predictions_are_those_of_the_learner(bundle, found):
    for place, rows in enumerate(found.rows):
        learner = SurrogateLearner(bundle)
        domain, anchors = learner.domain_loss(), learner.anchor_losses().copy()
        for row in rows:
            learner.update(row)
        change = 100 * (learner.domain_loss() - domain) / domain
        rises = [
            100 * (after - before) / before
            for before, after in zip(anchors, learner.anchor_losses(), strict=True)
        ]
        own = {name: values[place] for name, values in found.predicted.items()}
        assert own == predict(bundle, rows)
        names = ("domain", "retention", bundle.capabilities[1])
        expected = dict(zip(names, (change, *rises), strict=True))
        assert own == pytest.approx(expected, abs=1e-4)
    assert set(predict(bundle, []).values()) == {0.0}
    assert predict(bundle, found.rows[0]) != predict(bundle, found.rows[1])


def test_the_naive_prediction_is_the_mean_cosine(bundle, found):
    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    pool = unit(bundle.pool.sketches("start"))
    anchors, of = bundle.anchor.sketches("start"), bundle.anchor.capabilities
    towards = {
        "domain": unit(bundle.dev.sketches("start").mean(0))[None],
        "retention": unit(anchors[of == 0].mean(0))[None],
    }
    for name, directions in towards.items():
        # A sample that points where the domain does lowers its loss.
        expected = [-(pool[rows] @ directions.T).mean() for rows in found.rows]
        np.testing.assert_allclose(found.naive[name], expected, atol=1e-4)


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


def test_of_noise_alone_nothing_can_be_told():
    noise = np.random.default_rng(1).normal(size=(4000, 2))
    assert ceiling(list(noise)) < 0.2


def test_the_ceiling_is_what_the_truth_reaches():
    rng = np.random.default_rng(3)
    truth = rng.normal(size=3000)
    # Some subsets have two seeds, others one, as in the study.
    repeats = [
        value + rng.normal(scale=0.7, size=1 + number % 2)
        for number, value in enumerate(truth)
    ]
    reached = np.corrcoef(truth, [own.mean() for own in repeats])[0, 1]
    assert ceiling(repeats) == pytest.approx(reached, abs=0.02)
    assert 0.8 < reached < 0.95


def test_a_ceiling_needs_two_seeds():
    with pytest.raises(InputError, match="no subset was trained with two seeds"):
        ceiling([np.array([1.0]), np.array([2.0])])


def test_pairs_are_compared_by_number(found, losses):
    result = paired(found, "greedy", "random")
    assert result["pairs"] == 4  # random-4 has no partner
    for role in BEFORE:
        first, second = (
            [np.mean(changes(losses, f"{kind}-{n}", role)) for n in range(4)]
            for kind in ("greedy", "random")
        )
        test = stats.ttest_rel(first, second)
        interval = test.confidence_interval(0.95)
        assert result[role]["difference"] == pytest.approx(
            np.mean(first) - np.mean(second), abs=1e-3
        )
        assert result[role]["interval"] == pytest.approx(
            [interval.low, interval.high], abs=1e-3
        )


def test_the_summary_is_of_these_parts(bundle, found, summary):
    domain = correlation(found.predicted["domain"], found.real["test"])
    assert summary["domain"] == "made"
    assert summary["subsets"] == 13
    assert summary["domain_spearman"] == domain["spearman"]
    assert summary["domain_interval"] == domain["interval"]
    assert summary["domain_pearson"] == domain["pearson"]
    for name, predicted, real in (
        ("retention_spearman", found.predicted["retention"], "retention"),
        ("general_text_spearman", found.predicted["retention"], "prose"),
        ("naive_domain", found.naive["domain"], "test"),
        ("naive_retention", found.naive["retention"], "retention"),
    ):
        expected = stats.spearmanr(predicted, found.real[real]).statistic
        assert summary[name] == pytest.approx(expected, abs=5e-4)
    assert summary["ceiling_domain"] == ceiling(found.repeats["test"])
    assert summary["ceiling_retention"] == ceiling(found.repeats["retention"])
    assert summary["greedy_less_random"] == paired(found, "greedy", "random")
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_greedy_is_that_of_the_rewarded_list_where_there_is_one(
    bundle, folder, summary, tmp_path
):
    shutil.copytree(folder.parent, tmp_path / "results")
    own = tmp_path / "results" / "rewarded"
    shutil.copytree(folder, own)
    for file in own.glob("greedy-*.json"):
        result = json.loads(file.read_text())
        result["losses"]["test"] *= 0.5
        file.write_text(json.dumps(result))
    found = summarise(bundle, tmp_path / "results" / folder.name)
    expected = paired(table(bundle, own), "greedy", "random")
    assert found["greedy_less_random"] == expected != summary["greedy_less_random"]
    assert found["domain_spearman"] == summary["domain_spearman"]


def test_the_markdown_table_has_a_row_a_kind(found):
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in markdown(found).splitlines()
    ]
    assert {len(cells) for cells in lines} == {7}
    assert lines[0][0] == "subsets"
    assert set(lines[1]) == {"---"}
    assert {cells[0]: int(cells[1]) for cells in lines[2:]} == KINDS
    for cells in lines[2:]:
        places = [n for n, name in enumerate(found.names) if name[:-2] == cells[0]]
        columns = (
            found.real["test"],
            found.predicted["domain"],
            found.real["retention"],
            found.predicted["retention"],
            found.real["prose"],
        )
        means = [column[places].mean() for column in columns]
        assert [float(cell) for cell in cells[2:]] == pytest.approx(means, abs=0.0051)


def test_the_plot_is_a_picture(found, summary, tmp_path):
    file = tmp_path / "new" / "held-out.png"
    plot(found, summary, file)
    assert file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = image.imread(file)
    assert pixels.shape[:2] == (720, 1500)
    for half in np.split(pixels[..., :3], 2, axis=1):
        colours = {tuple(colour) for colour in half.reshape(-1, 3).round(2)}
        assert len(colours) > 20
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_folder_without_results_is_told(tmp_path):
    with pytest.raises(InputError, match="holds no results; run `ogs fidelity` first"):
        read_results(tmp_path)


def test_results_of_another_bundle_are_told(bundle: Bundle):
    ids = bundle.pool.hex_ids()
    assert rows_of(bundle, [ids[7], ids[0]]) == [7, 0]
    with pytest.raises(InputError, match="sample 12ab: is not in the pool of"):
        rows_of(bundle, [ids[7], "12ab"])
