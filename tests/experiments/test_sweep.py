import json

import pytest
import yaml
from make_bundle import make_bundle
from matplotlib.image import imread

from ogs_env.agents.training import TrainSettings
from ogs_env.cli import main
from ogs_env.errors import InputError

pytest.importorskip("optuna")

from ogs_env.experiments.sweep import (
    ask,
    ended,
    open_study,
    table,
    trial_count,
    trial_settings,
)
from ogs_env.experiments.sweep_files import (
    SWEEPS,
    read_sweep,
    schema_violations,
)

SHIPPED = sorted(SWEEPS.glob("*.yaml"))
FEW = ("--steps=64", "--n_envs=4", "--n_steps=16", "--batch_size=16", "--evaluations=1")
BASE = {
    "program": "ogs",
    "command": ["${env}", "${program}", "train", "--steps=64", "${args}"],
    "method": "random",
    "metric": {"name": "kept/return", "goal": "maximize"},
    "parameters": {
        "learning_rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1},
        "n_epochs": {"min": 1, "max": 8},
        "gae_lambda": {"min": 0.5, "max": 1.0},
        "n_envs": {"distribution": "q_uniform", "min": 8, "max": 64, "q": 8},
        "width": {"values": [16, 32]},
        "clip_range": {"value": 0.2},
    },
}
GRID = {"width": {"values": [8, 16, 32]}, "n_epochs": {"min": 1, "max": 2}}


def write(folder, **changes):
    file = folder / "sweep.yaml"
    config = {**BASE, **changes}
    kept = {key: value for key, value in config.items() if value is not None}
    file.write_text(yaml.safe_dump(kept, sort_keys=False))
    return file


def sweep_of(folder, **changes):
    return read_sweep(str(write(folder, **changes)))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "pool", pool=600)


def agents_command(config, parameters, monkeypatch, tmp_path):
    """The words with which W&B's own agent would start a run."""
    from wandb import wandb_agent

    started = []

    def process(command, **_):
        started.append(command)
        return type("Process", (), {})()

    monkeypatch.setattr(wandb_agent, "AgentProcess", process)
    for name in ("SWEEP_ID", "RUN_ID", "SWEEP_PARAM_PATH"):
        monkeypatch.setenv(f"WANDB_{name}", "made")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    agent = wandb_agent.Agent(api=None, queue=None, sweep_id="made")
    agent._sweep_command = list(config["command"])
    agent._command_run(
        {
            "run_id": "run1",
            "program": config["program"],
            "args": {name: {"value": value} for name, value in parameters.items()},
        }
    )
    return started[0]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_sweeps_keep_wandbs_schema(file):
    assert list(schema_violations(yaml.safe_load(file.read_text()))) == []
    sweep = read_sweep(file.stem)
    assert sweep.path == file
    assert trial_count(sweep, None) <= 30


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_an_agents_command_trains(file, tmp_path, monkeypatch):
    sweep = read_sweep(str(file))
    study = open_study(sweep, tmp_path / "study", seed=3)
    parameters = ask(study, sweep, seed=3).params
    words = sweep.command(parameters)
    assert words == agents_command(sweep.config, parameters, monkeypatch, tmp_path)
    assert words[:3] == ["/usr/bin/env", "ogs", "train"]
    monkeypatch.setenv("WANDB_MODE", "disabled")
    few = (*FEW, "--evaluation_episodes=2", "--episodes=2", "--out", str(tmp_path))
    assert main([*words[2:], *few]) == 0
    trained = json.loads((tmp_path / "run1" / "agent.json").read_text())["settings"]
    asked = trial_settings(sweep, parameters)
    for name in parameters:
        if name not in ("n_envs", "batch_size"):
            assert trained[name] == getattr(asked, name)
            assert trained[name] != getattr(TrainSettings(), name) or name == "seed"


def test_values_reach_the_settings(tmp_path):
    sweep = sweep_of(tmp_path)
    parameters = ask(open_study(sweep, tmp_path, 0), sweep, 0).params
    settings = trial_settings(sweep, parameters)
    assert {name: getattr(settings, name) for name in parameters} == parameters
    assert (settings.steps, settings.seconds) == (64, None)


def test_values_keep_to_their_distributions(tmp_path):
    sweep = sweep_of(tmp_path)
    study = open_study(sweep, tmp_path, 0)
    tried = []
    for _ in range(30):
        trial = ask(study, sweep, 0)
        study.tell(trial, 0.0)
        tried.append(trial.params)
    rates = [one["learning_rate"] for one in tried]
    assert all(1e-4 <= rate <= 1 for rate in rates)
    assert 5 < sum(rate < 1e-2 for rate in rates) < 25  # half, on a logarithmic scale
    assert {one["n_epochs"] for one in tried} == set(range(1, 9))
    assert {one["n_envs"] for one in tried} == set(range(8, 65, 8))
    assert {one["width"] for one in tried} == {16, 32}
    assert {one["clip_range"] for one in tried} == {0.2}
    assert all(0.5 <= one["gae_lambda"] <= 1 for one in tried)


def test_a_grid_covers_everything_once_in_the_files_order(tmp_path):
    sweep = sweep_of(tmp_path, method="grid", parameters=GRID)
    study = open_study(sweep, tmp_path, 0)
    assert trial_count(sweep, None) == trial_count(sweep, 100) == 6
    assert trial_count(sweep, 4) == 4
    tried = []
    for _ in range(6):
        trial = ask(study, sweep, 0)
        study.tell(trial, 1.0)
        tried.append((trial.params["width"], trial.params["n_epochs"]))
    assert tried == [(8, 1), (8, 2), (16, 1), (16, 2), (32, 1), (32, 2)]


def drawn(folder, method, seed, count, stop_before=()):
    """Parameters of trials; a stop leaves one that never ends, and opens anew."""
    parameters = GRID if method == "grid" else BASE["parameters"]
    sweep = sweep_of(folder, method=method, parameters=parameters)
    study = open_study(sweep, folder, seed)
    found = []
    for number in range(count):
        if number in stop_before:
            ask(study, sweep, seed)
            study = open_study(sweep, folder, seed)
        trial = ask(study, sweep, seed)
        study.tell(trial, float(trial.params["n_epochs"] + trial.params["width"]))
        found.append(trial.params)
    assert len(ended(study)) == count
    return found


@pytest.mark.parametrize(
    ("method", "count"), [("grid", 6), ("random", 4), ("bayes", 14)]
)
def test_same_seed_same_trials_even_when_stopped(tmp_path, method, count):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    once = drawn(tmp_path / "a", method, 1, count)
    assert drawn(tmp_path / "b", method, 1, count, (0, 2, count - 1)) == once
    if method != "grid":
        assert drawn(tmp_path / "c", method, 2, count) != once
        assert len({str(one) for one in once}) == count


def test_a_sweep_runs_prunes_goes_on_and_reports(bundle, tmp_path, capsys):
    kwargs = json.dumps({"bundle": str(bundle), "budget": 16, "num_slates": 8})
    file = write(
        tmp_path,
        command=[
            *("${env}", "${program}", "train", "--wandb", "--env=OGS-Custom-v0"),
            *(f"--env_kwargs={kwargs}", "--steps=6000", "--n_envs=8", "--n_steps=32"),
            *(
                "--batch_size=128",
                "--evaluations=6",
                "--evaluation_episodes=16",
                "${args}",
            ),
        ],
        method="grid",
        metric={"name": "evaluation/return", "goal": "maximize"},
        early_terminate={"type": "hyperband", "min_iter": 2, "eta": 2},
        # The second learns nothing, so it should not be trained to the end.
        parameters={"learning_rate": {"values": [0.003, 1e-9]}},
    )
    out = tmp_path / "out"
    command = ["sweep", str(file), "--out", str(out)]
    assert main([*command, "--trials", "1"]) == 0
    first = (out / "trial-000" / "agent.json").stat().st_mtime_ns
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "2/2 pruned" in printed
    assert (out / "trial-000" / "agent.json").stat().st_mtime_ns == first

    result = json.loads((out / "trials.json").read_text())
    whole, pruned = result["trials"]
    assert [whole["pruned"], pruned["pruned"]] == [False, True]
    assert whole["steps"] >= 6000 > 3000 > pruned["steps"]
    assert len(pruned["reports"]) == 2
    assert pruned["value"] < whole["reports"][1]
    assert whole["value"] == whole["measures"]["evaluation/return"]
    agent = json.loads((out / "trial-000" / "agent.json").read_text())
    assert agent["settings"]["learning_rate"] == 0.003
    curve = agent["training"]["curve"]
    assert whole["value"] == curve[-1]["return"]
    assert whole["reports"] == [point["return"] for point in curve[:-1]]

    text = (out / "trials.md").read_text()
    assert text in printed
    assert text.splitlines()[2].startswith("| 000 | ")
    assert "| 1e-09 |" in text.splitlines()[3]
    assert "pruned at" in text.splitlines()[3]
    assert imread(out / "trials.png").shape[1] == 1080

    other = write(tmp_path, method="random")
    assert main(["sweep", str(other), "--out", str(out)]) == 2
    assert "has trials of another sweep" in capsys.readouterr().err


def test_the_table_is_sorted_by_the_metric():
    def trial(place, value, pruned=False):
        return {
            "folder": f"trial-{place:03d}",
            "parameters": {"width": 8},
            "pruned": pruned,
            "value": value,
            "steps": 64,
            "seconds": 1.0,
            "measures": {},
        }

    result = {
        "metric": "kept/cost",
        "goal": "minimize",
        "trials": [trial(0, 3.0), trial(1, 0.5, pruned=True), trial(2, 1.0)],
    }
    lines = table(result).splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| 002", "| 000", "| 001"]
    result["goal"] = "maximize"
    lines = table(result).splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| 000", "| 002", "| 001"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "gird"}, "W&B would not take it: method: 'gird' is not one of"),
        ({"methods": "grid"}, "W&B would not take it: .*'methods' was unexpected"),
        ({"method": None}, "W&B would not take it: .*'method' is a required"),
        ({"parameters": {"n_epochs": {"min": 1}}}, "W&B would not take it: parameters"),
        (
            {
                "parameters": {
                    "gae_lambda": {"distribution": "int_uniform", "min": 0.5, "max": 1}
                }
            },
            "W&B would not take it: parameters.gae",
        ),
        ({"method": "custom"}, "unknown method"),
        ({"metric": None}, "lacks `metric`"),
        ({"parameters": None}, "lacks `parameters`"),
        ({"metric": {"name": "kept/retrun"}}, "did you mean kept/return"),
        (
            {"parameters": {"n_epochs": {"min": 2, "max": 2}}},
            "min 2 is not below max 2",
        ),
        (
            {
                "parameters": {
                    "gae_lambda": {"distribution": "normal", "mu": 1, "sigma": 1}
                }
            },
            "gae_lambda: normal; expected value, values",
        ),
        (
            {"parameters": {"env_kwargs": {"parameters": {"budget": {"value": 3}}}}},
            "env_kwargs: nested parameters.*JSON texts",
        ),
        (
            {"parameters": {"env_kwargs": {"values": [{"budget": 3}]}}},
            "expected numbers or texts",
        ),
        (
            {"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1.5}},
            "eta is 1.5, expected a whole number",
        ),
        (
            {
                "metric": {"name": "kept/test_change", "goal": "minimize"},
                "early_terminate": {"type": "hyperband", "min_iter": 1},
            },
            "kept/test_change is known at the end alone",
        ),
        ({"command": ["${env}", "ogs", "speed"]}, "expected one that runs `ogs train`"),
        ({"command": ["ogs", "train", "${args_json}"]}, r"command has \$\{args_json\}"),
        ({"parameters": {"momentum": {"value": 3}}}, "ogs train: .*momentum"),
        ({"parameters": {"n_epochs": {"value": "many"}}}, "--n-epochs: 'many'"),
        ({"method": "grid"}, "a grid needs values"),
    ],
)
def test_wrong_files_are_told(tmp_path, changes, message):
    file = write(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as told:
        run_first(str(file), tmp_path / "out")
    assert "\n" not in str(told.value)


def run_first(file, out):
    sweep = read_sweep(file)
    study = open_study(sweep, out, 0)
    trial_count(sweep, None)
    trial_settings(sweep, ask(study, sweep, 0).params)


def test_other_wrong_input_is_told(tmp_path):
    with pytest.raises(InputError, match="did you mean navigator"):
        read_sweep("navigatr")
    broken = tmp_path / "broken.yaml"
    broken.write_text("method: [")
    with pytest.raises(InputError, match="is no YAML file"):
        read_sweep(str(broken))
    broken.write_text("- a list")
    with pytest.raises(InputError, match="W&B would not take it"):
        read_sweep(str(broken))
    with pytest.raises(InputError, match="--trials 0: expected at least 1"):
        trial_count(sweep_of(tmp_path), 0)


def test_the_later_rungs_of_max_iter_are_those_of_wandb(tmp_path):
    """`max_iter` 27, `s` 2, `eta` 3: W&B stops runs at 3 and 9."""
    rule = {"type": "hyperband", "max_iter": 27, "s": 2, "eta": 3}
    sweep = sweep_of(tmp_path, early_terminate=rule)
    study = open_study(sweep, tmp_path, 0)
    best = ask(study, sweep, 0)
    for step in range(1, 28):
        best.report(1.0, step)
        assert not best.should_prune()
    study.tell(best, 1.0)
    worse = ask(study, sweep, 0)
    stops = []
    for step in range(1, 4):
        worse.report(0.0, step)
        stops.append(worse.should_prune())
    assert stops == [False, False, True]
