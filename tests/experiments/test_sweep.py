import dataclasses
import json
import re

import pytest
import yaml
from helpers.make_bundle import make_bundle
from matplotlib.image import imread

from ogs_env.agents.training import TrainSettings, train
from ogs_env.cli import main
from ogs_env.files import read_json

optuna = pytest.importorskip("optuna")

from ogs_env.experiments import sweep  # noqa: E402
from ogs_env.experiments.measures import CURVE, END  # noqa: E402

SHIPPED = sorted(sweep.SWEEPS.glob("*.yaml"))
BASE = {
    "program": "ogs",
    "command": ["${env}", "${program}", "train", "--steps=64", "${args}"],
    "method": "random",
    "metric": {"name": "kept/return", "goal": "maximize"},
    "parameters": {
        "learning_rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1},
        "n_epochs": {"distribution": "int_uniform", "min": 1, "max": 8},
        "gae_lambda": {"distribution": "uniform", "min": 0.5, "max": 1.0},
        "n_envs": {"distribution": "q_uniform", "min": 8, "max": 64, "q": 8},
        "width": {"values": [16, 32]},
        "clip_range": {"value": 0.2},
    },
}


def write(folder, **changes):
    file = folder / "sweep.yaml"
    config = {key: value for key, value in (BASE | changes).items() if value}
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return file


def rows(out):
    """Return the cells of the table's trials."""
    lines = (out / "trials.md").read_text().splitlines()
    assert set(lines[1]) <= set("| -")
    names, _, *trials = [re.findall(r"(?<=\| ).*?(?= \|)", line) for line in lines]
    return [dict(zip(names, cells, strict=True)) for cells in trials]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "pool", pool=600)


def few(bundle, *options):
    """Return a sweep's command with a very short training."""
    kwargs = json.dumps({"bundle": str(bundle), "budget": 16, "num_slates": 8})
    return [
        *("${env}", "${program}", "train", "--report-to=wandb", "--env=OGS-Custom-v0"),
        *(f"--env_kwargs={kwargs}", "--steps=64", "--n_envs=4", "--n_steps=16"),
        *("--batch_size=32", "--evaluation_episodes=4", *options, "${args}"),
    ]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_sweeps_fit_ogs_train(file):
    config = yaml.safe_load(file.read_text())
    assert config["program"] == "ogs"
    assert config["command"][:3] == ["${env}", "${program}", "train"]
    assert config["command"][-1] == "${args}"
    assert config["metric"]["name"] in (*CURVE, *END)
    fields = {field.name for field in dataclasses.fields(TrainSettings)}
    assert set(config["parameters"]) <= fields
    assert sweep.read_sweep(file.stem).path == file


def test_samples_follow_their_distributions_and_set_the_settings(tmp_path):
    search = sweep.read_sweep(str(write(tmp_path)))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    samples = [study.ask(search.space).params for _ in range(40)]
    rates = [sample["learning_rate"] for sample in samples]
    assert all(1e-4 <= rate <= 1 for rate in rates)
    assert 5 < sum(rate < 1e-2 for rate in rates) < 35  # half, on a logarithmic scale
    assert {sample["n_epochs"] for sample in samples} == set(range(1, 9))
    assert {sample["n_envs"] for sample in samples} == set(range(8, 65, 8))
    assert {sample["width"] for sample in samples} == {16, 32}
    assert {sample["clip_range"] for sample in samples} == {0.2}
    assert all(0.5 <= sample["gae_lambda"] <= 1 for sample in samples)
    settings = search.settings(samples[0])
    assert {name: getattr(settings, name) for name in samples[0]} == samples[0]
    assert (settings.steps, settings.seconds) == (64, None)


@pytest.mark.parametrize("method", ["grid", "bayes"])
def test_a_stopped_search_is_resumed(bundle, tmp_path, method, monkeypatch, capsys):
    parameters = {"width": {"values": [8, 16]}, "seed": {"values": [0, 1]}}
    if method != "grid":
        parameters["learning_rate"] = BASE["parameters"]["learning_rate"]
    changes = {"method": method, "run_cap": 4, "parameters": parameters}
    file = write(tmp_path, command=few(bundle), **changes)
    command = ["sweep", str(file), "--out"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    calls = []

    def stopping(*arguments):
        calls.append(arguments[:2])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*arguments)

    monkeypatch.setattr(sweep, "train", stopping)
    assert main([*command, str(tmp_path / "stopped")]) == 130
    assert main([*command, str(tmp_path / "stopped")]) == 0
    if method == "grid":
        points = [(call.width, call.seed) for call, _ in calls]
        assert sorted(points[:1] + points[2:]) == [(8, 0), (8, 1), (16, 0), (16, 1)]
    else:
        assert calls[2] == calls[1]  # the same settings in the same folder
    values = [
        sorted((row["kept/return"], *(row[name] for name in parameters)) for row in run)
        for run in (rows(tmp_path / "whole"), rows(tmp_path / "stopped"))
    ]
    assert values[0] == values[1]
    assert len(set(values[0])) == 4

    best = rows(tmp_path / "stopped")[0]
    assert float(best["kept/return"]) == max(float(row[0]) for row in values[1])
    assert f"best: {tmp_path / 'stopped' / best['trial']}" in capsys.readouterr().out
    agent = read_json(tmp_path / "stopped" / best["trial"] / "agent.json", "agent")
    assert float(best["kept/return"]) == pytest.approx(
        agent["training"]["kept"]["return"], rel=1e-3
    )
    assert str(agent["settings"]["width"]) == best["width"]
    assert imread(tmp_path / "stopped" / "trials.png").size

    assert main([*command, str(tmp_path / "stopped"), "--seed=1"]) == 2
    assert "has another sweep or --seed" in capsys.readouterr().err

    journal = tmp_path / "stopped" / "study.journal"
    content = journal.read_bytes()
    for damaged in (bytes(200), content.replace(b'"cost"', b'"c0st"'), content[:-9]):
        journal.write_bytes(damaged)
        assert main([*command, str(tmp_path / "stopped")]) == 2
        assert f"{journal}: is damaged" in capsys.readouterr().err
        assert journal.read_bytes() == damaged


def test_hyperband_prunes_trials_that_do_not_learn(bundle, tmp_path, capsys):
    file = write(
        tmp_path,
        command=few(
            bundle,
            *("--steps=6000", "--n_envs=8", "--n_steps=32", "--batch_size=128"),
            *("--evaluations=6", "--evaluation_episodes=16"),
        ),
        method="grid",
        metric={"name": "evaluation/return", "goal": "maximize"},
        early_terminate={"type": "hyperband", "min_iter": 2, "eta": 4},
        parameters={"learning_rate": {"values": [0.003, 1e-9]}},
    )
    out = tmp_path / "out"
    assert main(["sweep", str(file), "--out", str(out), "--trials=1"]) == 0
    assert main(["sweep", str(file), "--out", str(out)]) == 0
    assert "2/2 pruned" in capsys.readouterr().out
    learner, pruned = rows(out)
    assert (learner["learning_rate"], learner["state"]) == ("0.003", "complete")
    assert (pruned["learning_rate"], pruned["state"]) == ("1e-09", "pruned")
    agent = read_json(out / pruned["trial"] / "agent.json", "agent")
    assert agent["training"]["steps"] < 3000


def test_a_final_metric_can_be_optimised(bundle, tmp_path):
    metric = {"name": "kept/held_out_gain", "goal": "minimize"}
    parameters = {"seed": {"values": [0, 1]}}
    changes = {"method": "grid", "metric": metric, "parameters": parameters}
    file = write(tmp_path, command=few(bundle), **changes)
    assert main(["sweep", str(file), "--out", str(tmp_path / "out")]) == 0
    low, high = (float(row["kept/held_out_gain"]) for row in rows(tmp_path / "out"))
    assert low < high


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "gird"}, r"expected method \(bayes, grid or random\)"),
        ({"metric": None}, "expected method .*, metric"),
        ({"parameters": None}, "expected method .*, parameters"),
        ({"metric": {"name": "kept/retrun", "goal": "maximize"}}, "kept/return"),
        ({"parameters": {"width": {"min": 2, "max": 3}}}, "width: .*; expected value"),
        ({"parameters": {"gamma": {"distribution": "normal"}}}, "gamma: .*expected"),
        ({"parameters": {"width": {"values": 3}}}, "width: .*; expected value"),
        ({"parameters": {"gamma": 1}}, "gamma: 1; expected value"),
        ({"parameters": {"width": {"values": []}}}, "width: "),
        ({"parameters": {"momentum": {"value": 3}}}, "ogs train: .*momentum"),
        ({"parameters": {"n_epochs": {"value": "many"}}}, "--n-epochs: 'many'"),
        ({"parameters": {"width": BASE["parameters"]["n_epochs"] | {"min": 9}}}, "wid"),
        ({"method": "grid"}, "a grid need `values`"),
        ({"command": ["ogs", "speed", "${args}"]}, "expected `ogs train`"),
        ({"command": ["ogs", "train", "--stepz=3", "${args}"]}, "stepz"),
        ({"early_terminate": {"type": "hyperband"}}, "early_terminate: expected"),
        (
            {
                "metric": {"name": "kept/test_change", "goal": "minimize"},
                "early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 2},
            },
            "early_terminate: expected .* metric of",
        ),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, changes, message, capsys):
    file = write(tmp_path, **changes)
    assert main(["sweep", str(file), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert str(file) in error or "--n-epochs" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_other_wrong_input_is_one_line(tmp_path, capsys):
    broken = tmp_path / "broken.yaml"
    for text, message in (("method: [", "is no YAML file"), ("- list", "expected")):
        broken.write_text(text)
        assert main(["sweep", str(broken)]) == 2
        assert message in capsys.readouterr().err
    assert main(["sweep", "navigatr"]) == 2
    assert "did you mean navigator" in capsys.readouterr().err
    assert main(["sweep", str(write(tmp_path)), "--trials=0"]) == 2
    assert "0: expected --trials or run_cap of at least 1" in capsys.readouterr().err
    assert main(["sweep", str(write(tmp_path)), "--out", str(broken / "x")]) == 2
    assert "cannot be written" in capsys.readouterr().err
