import json
import re

import pytest
from helpers.make_bundle import make_bundle

from ogs_env.agents.deployment import AgentSelector
from ogs_env.cli import main
from ogs_env.errors import InputError
from ogs_env.experiments.train import BASELINES, Options, run
from ogs_env.options import parse


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # Without own answers a brief training improves the return more.
    return make_bundle(
        tmp_path_factory.mktemp("bundles") / "pool", pool=1200, answers=False
    )


def run_with(*options):
    run(parse(Options, [str(option) for option in options]))


def test_trains_compares_and_writes(folder, tmp_path, capsys):
    out = tmp_path / "out"
    run_with(
        *("--bundle", folder, "--seed", 3, "--steps", 16_000),
        *("--n_envs=32", "--n_steps=32", "--batch_size", 256, "--n_epochs", 4),
        *("--learning-rate=1e-3", "--ent_coef=0.01"),
        *("--episodes", 20, "--out", out),
    )
    printed = capsys.readouterr().out
    result = json.loads((out / "train.json").read_text())
    assert set(result["returns"]) == {*BASELINES, "agent"}
    assert result["settings"]["seed"] == 3
    assert result["settings"]["seconds"] is None
    assert result["settings"]["learning_rate"] == 1e-3
    for name, summary in result["returns"].items():
        assert summary["low"] <= summary["mean"] <= summary["high"]
        assert f"{name} " in printed
    returns = {name: summary["mean"] for name, summary in result["returns"].items()}
    assert returns["random"] < returns["agent"] < returns["oracle"]
    margin = result["agent_minus"]["random"]
    assert margin["mean"] == pytest.approx(returns["agent"] - returns["random"])
    assert margin["low"] > 0
    assert str(out) in printed
    assert AgentSelector(out).navigator.description["space"] == "made-64"
    assert (out / "curves.png").stat().st_size > 10_000


def test_episodes_fit_a_small_pool(tmp_path, capsys):
    small = make_bundle(tmp_path / "small", pool=64)
    run_with(
        *("--bundle", small, "--steps", 300, "--episodes", 4, "--n_envs=8"),
        *("--batch_size=128", "--out", tmp_path / "out"),
    )
    printed = capsys.readouterr()
    for text in (printed.out, printed.err):
        assert "OGS-Custom-v0 (made): slate_size 2, num_slates 5, budget 2" in text


def test_study_saves_an_agent_per_seed(folder, tmp_path, capsys):
    result_file = tmp_path / "results" / "study.json"
    options = (
        *("--bundle", folder, "--seeds", 0, 1, "--steps", 100, "--episodes", 2),
        *("--out", tmp_path / "out", "--result", result_file),
    )
    run_with(*options)
    result = json.loads(result_file.read_text())
    assert result["seeds"] == [0, 1]
    for seed, agent in zip((0, 1), result["agents"], strict=True):
        assert agent["seed"] == seed
        assert agent["training"]["steps"] >= 100
        AgentSelector(tmp_path / "out" / f"seed-{seed}")
    means = [agent["return"]["mean"] for agent in result["agents"]]
    assert result["returns"]["agent"]["mean"] == pytest.approx(sum(means) / 2)
    # Only the agent that is missing is trained again.
    (tmp_path / "out" / "seed-1" / "agent.json").unlink()
    capsys.readouterr()
    run_with(*options)
    assert capsys.readouterr().err.count("was trained already") == 1
    repeated = json.loads(result_file.read_text())
    assert repeated["agents"][0] == result["agents"][0]
    assert repeated["returns"] == result["returns"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--episodes", 1), "--episodes 1: expected 2"),
        (("--seeds", 4, 4), "a seed is given twice"),
        (("--steps", 0), "steps is 0"),
        (("--env", "OGS-Custm-v0"), "did you mean OGS-Custom-v0"),
        (("--bundle", "nowhere/bundle"), "nowhere/bundle: no such folder"),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run_with("--out", tmp_path / "out", *options)


def test_each_evaluation_is_a_line(folder, tmp_path, capsys):
    out = tmp_path / "out"
    command = [
        *("train", "--bundle", str(folder), "--out", str(out), "--steps=2000"),
        *("--n_envs=8", "--batch_size=128", "--evaluations=4", "--cost_limit=0.5"),
        *("--episodes=2",),
    ]
    assert main(command) == 0
    training = json.loads((out / "agent.json").read_text())["training"]
    number = r" +(-?[\d.]+)"
    line = re.compile(
        rf" +([\d,]+) steps: return{number}, cost{number}; "
        rf"kept model{number}, cost{number} \(limit 0.5\)"
    )
    shown = line.findall(capsys.readouterr().err)
    assert len(training["curve"]) == len(shown) == 4
    for point, values in zip(training["curve"], shown, strict=True):
        assert values[0] == f"{point['steps']:,}"
        assert float(values[1]) == pytest.approx(point["return"], abs=0.01)
        assert float(values[2]) == pytest.approx(point["cost"], abs=0.01)
    assert float(shown[-1][3]) == pytest.approx(training["kept"]["return"], abs=0.01)


def test_a_file_as_the_folder_is_refused_before_training(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match=r"out.*: cannot be written"):
        run_with("--out", tmp_path / "out")
