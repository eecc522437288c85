"""The study on a tiny model: runs, sharing and resuming, summary, wrong settings."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import yaml
from scipy import stats

from ogs_env.agents.baselines.oracle import OracleSelector
from ogs_env.agents.evaluation import evaluate
from ogs_env.agents.selector import make_selector
from ogs_env.data.domains import question_key
from ogs_env.errors import InputError
from ogs_env.experiments.adapt_options import auto_selectors
from ogs_env.experiments.own_environment import environment_kwargs
from ogs_env.experiments.study.command import RESULTS, Options, run
from ogs_env.experiments.study.methods import parse_method
from ogs_env.experiments.study.pools import pool_data, prompts_to_answer
from ogs_env.experiments.study.questions import Question, right_number
from ogs_env.experiments.study.report import table, write_report
from ogs_env.experiments.study.runs import run_study
from ogs_env.experiments.study.selections import Pool
from ogs_env.experiments.study.settings import StudySettings, read_settings
from ogs_env.experiments.study.summary import summaries
from ogs_env.experiments.study.target import choice_accuracy
from ogs_env.files import write_json

METHODS = ("random-0", "oracle", "random-1", "random30-0", "less-trajectory", "pcgrad")


@pytest.fixture(scope="module")
def settings(tiny_model_folder):
    return StudySettings(
        domains=("medical-packages",),
        draws=(1, 2),
        methods=METHODS,
        proxy=str(tiny_model_folder),
        target=str(tiny_model_folder),
        target_name="tiny",
        pool_size=200,
        test_size=6,
        retention_size=4,
        layers=2,
        epochs=1,
        learning_rate=1e-2,
        train_steps=1000,
    )


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    run_study(settings, folder)
    return folder


def results(folder, draw):
    files = sorted((folder / "runs" / "tiny" / f"medical-packages-{draw}").iterdir())
    return {file.stem: json.loads(file.read_text()) for file in files}


def test_every_method_has_a_run_in_every_pool(finished):
    for draw in (1, 2):
        assert results(finished, draw).keys() == {*METHODS, "base"}


def test_runs_train_on_the_selection_of_their_method(finished, settings):
    by_method = results(finished, 1)
    budget = settings.budget
    assert by_method["random-0"]["samples"] == by_method["oracle"]["samples"] == budget
    assert by_method["random30-0"]["samples"] == 3 * budget
    ids = {name: run["ids_sha256"] for name, run in by_method.items() if name != "base"}
    # Surgery trains on the first random selection.
    assert ids["pcgrad"] == ids["random-0"]
    assert len(set(ids.values())) == len(METHODS) - 1
    assert by_method["pcgrad"]["losses"] != by_method["random-0"]["losses"]


def test_a_finished_study_is_not_repeated(finished, settings):
    files = {f: f.stat().st_mtime_ns for f in finished.rglob("*.json")}
    run_study(settings, finished)
    assert {f: f.stat().st_mtime_ns for f in finished.rglob("*.json")} == files


def test_a_missing_run_is_repeated_with_the_same_numbers(finished, settings):
    file = finished / "runs" / "tiny" / "medical-packages-2" / "oracle.json"
    before = json.loads(file.read_text())
    file.unlink()
    run_study(settings, finished)
    after = json.loads(file.read_text())
    assert after["losses"] == before["losses"]
    assert not list((finished / "runs").rglob("*.lock"))


def test_new_results_and_the_summary_are_logged(finished, settings, tmp_path):
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    config, out = tmp_path / "study.yaml", tmp_path / "study"
    values = json.loads(json.dumps(dataclasses.asdict(settings)))
    config.write_text(yaml.safe_dump(values))
    shutil.copytree(finished, out)
    (out / "runs" / "tiny" / "medical-packages-2" / "oracle.json").unlink()
    run(Options(config=str(config), out=out, report_to="tensorboard"))
    (place,) = (out / "tensorboard").iterdir()
    log = accumulators.EventAccumulator(str(place))
    log.Reload()
    # Those of the run that was missing, and no other.
    runs = results(out, 2)
    losses = runs["oracle"]["losses"]
    assert set(log.Tags()["scalars"]) == {
        f"medical-packages/oracle/{name}" for name in losses
    }
    (event,) = log.Scalars("medical-packages/oracle/test")
    before, after = (np.mean(runs[n]["losses"]["test"]) for n in ("base", "oracle"))
    assert event.step == 2
    assert event.value == pytest.approx(100 * (after / before - 1), rel=1e-4)
    tables = {
        name: log.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode()
        for name in ("summary", "config")
    }
    heads, _, *rows = tables["summary"].splitlines()
    assert "| domain_change | domain_interval_low |" in heads
    assert len(rows) == len(summaries(out))
    assert "| learning_rate | 0.01 |" in tables["config"]


@pytest.mark.parametrize("mode", ["summary", "cost", "report"])
def test_what_is_not_logged_refuses_a_logger(mode):
    with pytest.raises(InputError, match=r"--report-to: .* are not logged"):
        Options(report_to="wandb", **{mode: True})


def test_another_recipe_in_the_same_folder_is_refused(finished, settings):
    other = dataclasses.replace(settings, methods=("random-0", "greedy"), epochs=2)
    with pytest.raises(InputError, match=r"settings.json.*epochs.*another --out"):
        run_study(other, finished)


@pytest.mark.parametrize(
    "change",
    [{"target": "another/model"}, {"learning_rate": 2e-3}, {"generated": 1}],
)
def test_another_model_under_the_same_target_name_is_refused(
    finished, settings, change
):
    other = dataclasses.replace(settings, **change)
    (name,) = change
    with pytest.raises(InputError, match=rf"tiny.json.*{name}.*another target_name"):
        run_study(other, finished)


def test_a_folder_that_is_a_file_is_refused(settings, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file.*cannot be written"):
        run_study(settings, tmp_path / "file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda result: result.clear(), "KeyError: 'domain'"),
        (lambda result: result["losses"].update(test="abc"), "could not convert"),
        (lambda result: result["losses"]["test"].pop(), "number of texts in test"),
    ],
)
def test_a_damaged_result_is_named(finished, tmp_path, change, message):
    folder = tmp_path / "runs"
    shutil.copytree(finished / "runs", folder)
    file = folder / "tiny" / "medical-packages-1" / "oracle.json"
    result = json.loads(file.read_text())
    change(result)
    file.write_text(json.dumps(result))
    with pytest.raises(InputError, match=f"oracle.json: is no result.*{message}"):
        summaries(tmp_path)


def test_modes_without_settings_refuse_a_config():
    with pytest.raises(InputError, match=r"mine.yaml: .*read no settings"):
        Options(config="mine.yaml", summary=True)


def test_the_summary_has_means_over_pools_with_intervals(finished):
    by_method = {entry["method"]: entry for entry in summaries(finished)}
    assert by_method.keys() == {parse_method(name).kind for name in METHODS}

    def change(draw, name):
        runs = results(finished, draw)
        before, after = (np.mean(runs[n]["losses"]["test"]) for n in ("base", name))
        return 100 * (after / before - 1)

    random = by_method["random"]
    assert (random["runs"], random["pools"]) == (4, 2)
    pools = [(change(d, "random-0") + change(d, "random-1")) / 2 for d in (1, 2)]
    assert random["domain_change"] == pytest.approx(np.mean(pools), abs=2e-3)
    assert "domain_change_less_random" not in random

    oracle = by_method["oracle"]
    differences = [change(d, "oracle") - pools[d - 1] for d in (1, 2)]
    interval = stats.t.interval(0.95, 1, np.mean(differences), stats.sem(differences))
    assert oracle["domain_change_less_random"] == pytest.approx(
        np.mean(differences), abs=2e-3
    )
    assert oracle["domain_less_random_interval"] == pytest.approx(interval, abs=2e-3)
    paired = [change(d, "pcgrad") - change(d, "random-0") for d in (1, 2)]
    surgery = by_method["pcgrad"]["domain_change_less_random"]
    assert surgery == pytest.approx(np.mean(paired), abs=2e-3)
    assert oracle["share"] == pytest.approx(0.1, abs=0.01)
    assert by_method["random30"]["share"] == pytest.approx(0.3, abs=0.01)
    assert by_method["random"]["select_seconds"] == 0
    assert by_method["oracle"]["select_seconds"] > 0


def test_the_report_has_a_row_per_method(finished):
    text = write_report(finished).read_text()
    assert text.count("\n| ") == 1 + len({parse_method(m).kind for m in METHODS})
    assert (finished / "trade-off.png").stat().st_size > 10_000


def test_pools_of_a_domain_differ_and_share_no_question_with_test(settings):
    first, second = (pool_data("medical-packages", d, settings) for d in (1, 2))
    assert {s.id for s in first.pool} != {s.id for s in second.pool}
    questions = {question_key(sample) for sample in first.pool}
    assert questions.isdisjoint(question_key(sample) for sample in first.test)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "oracle.json: lacks ids, seconds, selector, sketches; delete it"),
        (
            {"ids": ["0"], "seconds": 1, "selector": "oracle", "sketches": None},
            "oracle.json: selects '0', which is not in the pool; delete it",
        ),
    ],
)
def test_a_damaged_selection_is_named(settings, tmp_path, content, message):
    pool = Pool("medical-packages", 1, settings, tmp_path)
    write_json(pool.folder / "selections" / "oracle.json", content)
    with pytest.raises(InputError, match=message):
        pool.rows(parse_method("oracle"))


def test_a_selection_is_computed_once(finished, settings):
    pool = Pool("medical-packages", 1, settings, finished / "pools")
    method = parse_method("oracle")
    file = pool.folder / "selections" / "oracle.json"
    original = file.read_text()
    content = json.loads(original)
    content["ids"] = content["ids"][:3]
    assert len(pool.rows(method)) == settings.budget
    file.write_text(json.dumps(content))
    assert len(pool.rows(method)) == 3
    file.write_text(original)  # other tests share the folder


def test_auto_selects_as_the_best_selector_of_the_environment(finished, settings):
    pool = Pool("medical-packages", 1, settings, finished / "pools")
    rows = pool.rows(parse_method("auto"))
    file = pool.folder / "selections" / "auto.json"
    selector = json.loads(file.read_text())["selector"]
    assert selector in auto_selectors("navigator-0")
    assert len(set(rows)) == settings.budget
    for name in ("oracle", "navigator-0"):
        screened = parse_method(f"screened-{name}")
        if selector == screened.name:
            assert rows == pool.rows(screened)
    # Each method that needs the agent has its training, whichever trained it.
    training = json.loads((pool.folder / "agents/navigator-0.seconds.json").read_text())
    pool.rows(parse_method("navigator-0"))
    for name in ("auto", "navigator-0"):
        selection = json.loads((pool.folder / f"selections/{name}.json").read_text())
        assert selection["seconds"] >= training["seconds"] > 0


def test_a_constrained_navigator_may_cost_as_much_as_random_picks(finished, settings):
    pool = Pool("medical-packages", 1, settings, finished / "pools")
    rows = pool.rows(parse_method("constrained-0"))
    assert len(set(rows)) == settings.budget
    agent = json.loads((pool.folder / "agents/constrained-0/agent.json").read_text())
    kwargs = environment_kwargs(pool.bundle, settings.share, {})
    costs = [
        evaluate("random", "OGS-Custom-v0", [seed], split="test", **kwargs).costs[0]
        for seed in range(100)
    ]
    assert agent["settings"]["cost_limit"] == pytest.approx(np.mean(costs), abs=1e-3)


def test_auto_takes_over_the_run_of_the_selector_that_it_chose(
    finished, settings, tmp_path
):
    folder = tmp_path / "study"
    shutil.copytree(finished, folder)
    selections = folder / "pools" / "medical-packages-1" / "selections"
    chosen = json.loads((selections / "oracle.json").read_text())
    write_json(selections / "auto.json", chosen | {"seconds": 1000.0})
    methods = dataclasses.replace(settings, draws=(1,), methods=("auto",))
    run_study(methods, folder)
    oracle, auto = (results(folder, 1)[name] for name in ("oracle", "auto"))
    assert auto["method"] == "auto"
    assert auto["select_seconds"] > 1000 > oracle["select_seconds"]
    same = oracle.keys() - {"method", "select_seconds"}
    assert all(auto[name] == oracle[name] for name in same)


def test_a_screened_selector_selects_from_the_nearest_candidates(finished, settings):
    pool = Pool("medical-packages", 1, settings, finished / "pools")
    rows = pool.rows(parse_method("screened-oracle"))
    texts = {s.id: s for s in (*pool.data.pool, *pool.data.dev)}
    rng = np.random.default_rng(0)
    near, _ = make_selector("rds", texts).select(pool.bundle, 2 * settings.budget, rng)
    oracle = OracleSelector(pool.limit.weights)
    expected, _ = oracle.select(pool.bundle, settings.budget, rng, np.sort(near))
    assert rows == expected.tolist()


def test_the_time_of_a_screened_selection_has_the_pass_for_rds(
    finished, settings, tmp_path
):
    shutil.copytree(finished / "pools", tmp_path / "pools")
    pool = Pool("medical-packages", 1, settings, tmp_path / "pools")
    pool.rows(parse_method("rds"))
    rds, screened = (
        pool.folder / f"selections/{name}.json" for name in ("rds", "screened-oracle")
    )
    write_json(rds, json.loads(rds.read_text()) | {"seconds": 1000.0})
    screened.unlink(missing_ok=True)
    pool.rows(parse_method("screened-oracle"))
    assert json.loads(screened.read_text())["seconds"] > 1000


@pytest.mark.parametrize("name", ["screened-random-0", "screened-pcgrad"])
def test_what_does_not_choose_by_a_criterion_is_not_screened(name):
    with pytest.raises(InputError, match=f"unknown method '{name}'"):
        parse_method(name)


@pytest.mark.parametrize(
    ("answer", "response", "is_right"),
    [
        ("44.1 - 56.7 = -12.6 million", "44.1-56.7 = -12.6 million", True),
        ("It is 1,200.", "600+600 = 1200", True),
        ("12.6", "44.1-56.7 = -12.6 million", False),
        ("no idea", "1", False),
    ],
)
def test_numbers_are_compared_by_value(answer, response, is_right):
    assert right_number(answer, response) == is_right


def test_answers_are_generated_to_as_many_maths_prompts_as_asked(settings):
    data = pool_data("medical-packages", 1, settings)
    known = data.retention["maths"]
    more = dataclasses.replace(settings, generated=len(known))
    assert prompts_to_answer(data, more) == known
    too_many = dataclasses.replace(settings, generated=len(known) + 1)
    with pytest.raises(InputError, match=rf"generated: is .*at most {len(known)}"):
        prompts_to_answer(data, too_many)


def test_the_share_of_right_answers_is_in_the_result(settings, tmp_path):
    answering = dataclasses.replace(
        settings, draws=(1,), methods=("random-0",), generated=2
    )
    run_study(answering, tmp_path)
    by_name = results(tmp_path, 1)
    assert by_name["base"]["gsm8k"] in (0, 0.5, 1)
    (entry,) = summaries(tmp_path)
    assert entry["gsm8k_before"] == by_name["base"]["gsm8k"]
    assert entry["gsm8k_after"] == by_name["random-0"]["gsm8k"]


@pytest.mark.skipif(
    "OGS_DATA" not in os.environ, reason="OGS_DATA names no folder with the texts"
)
def test_prompts_to_answer_begin_with_the_retention_prompts():
    settings = StudySettings(generated=100)
    data = pool_data("medical", 1, settings)
    prompts = prompts_to_answer(data, settings)
    assert len({sample.id for sample in prompts}) == 100
    assert prompts[: settings.retention_size] == data.retention["maths"]
    questions = {question_key(sample) for sample in prompts}
    assert questions.isdisjoint(map(question_key, data.anchor["maths"]))


def test_the_likeliest_option_is_the_answer(settings):
    sample = pool_data("medical-packages", 1, settings).pool[0]
    questions = [
        Question(dataclasses.replace(sample, response=right), ("no", "yes"))
        for right in ("no", "yes", "yes")
    ]
    assert choice_accuracy(questions, [-1, -2, -3, -1, -1, -5]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("methods: [randm-0]", "unknown method 'randm-0'; did you mean random-0"),
        ("methods: random-0", "methods: is 'random-0'; expected a list"),
        ("domains: [medicine]", "unknown domain 'medicine'; did you mean medical"),
        ("pool: 100", "unknown setting .*did you mean pool_size"),
        ("share: 2", "share: is 2.0; expected a number"),
        ("epochs: 1.5", "epochs: is 1.5; expected a whole number"),
        ("draws: [-1]", "draws: has -1; expected 0 or more"),
        ("layers: 0", "layers: is 0; expected 1 or more"),
        ("share: 0.0001", "study.yaml: share: is 0.0001, which selects no sample"),
        ("learning_rate: -1", "learning_rate: is -1.0; expected a number above 0"),
        ("learning_rate: .nan", "learning_rate: is nan; expected a number above 0"),
        ("target: my/model", "target_name: is missing; name the target 'my/model'"),
        (
            "share: 0.5\nmethods: [random30-0]",
            "share: is 0.5, of which random30-0 selects 3 times as much",
        ),
        ("target_name: ../x", "target_name: is '../x'; expected letters"),
        ("target_name: bundle", "target_name: is 'bundle'; .* none of bundle"),
        ("draws: [99999999999]", "draws: has 99999999999; expected at most"),
        ("methods: [random-00]", "unknown method 'random-00'; did you mean random-0"),
    ],
)
def test_wrong_settings_are_one_clear_line(tmp_path, line, message):
    file = tmp_path / "study.yaml"
    file.write_text(line)
    with pytest.raises(InputError, match=message):
        read_settings(str(file))


def test_shipped_settings_are_read():
    assert read_settings("study").domains == ("legal", "medical", "financial")
    assert read_settings("quick").domains == ("medical-packages",)


def test_the_committed_table_is_that_of_the_committed_runs():
    entries = summaries(RESULTS)
    assert json.loads((RESULTS / "summary.json").read_text()) == entries
    assert (RESULTS / "table.md").read_text() == table(entries)
