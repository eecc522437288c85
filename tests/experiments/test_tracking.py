"""Logs of `ogs train`, and what all loggers have in common."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from helpers.make_bundle import make_bundle
from helpers.wandb_runs import LoggedRun, offline

from ogs_env.agents.navigator import Navigator
from ogs_env.agents.settings import ImitationSettings, TrainSettings
from ogs_env.cli import main
from ogs_env.errors import InputError
from ogs_env.experiments.measures import CURVE, END
from ogs_env.experiments.tracking.opening import opened
from ogs_env.experiments.tracking.training import FRAMES
from ogs_env.experiments.train import BASELINES
from ogs_env.files import sha256_of
from ogs_env.rewards import NO_PICK

wandb = pytest.importorskip("wandb")
pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import (  # noqa: E402
    EventAccumulator,
)

FEW = ("--n_envs=4", "--n_steps=64", "--batch_size=64", "--evaluation_episodes=3")
KWARGS = json.dumps({"budget": 12, "num_slates": 6})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "pool", pool=1200)


# Prints every host that the process looks up, until it ends.
WATCHED = """
import socket, sys
from ogs_env.cli import main

look_up = socket.getaddrinfo

def watched(host, *rest, **named):
    print("looked up", host, file=sys.stderr, flush=True)
    return look_up(host, *rest, **named)

socket.getaddrinfo = watched
sys.exit(main(sys.argv[1:]))
"""


def limited(folder, out, report_to):
    """Return a command that trains under a cost limit."""
    return [
        *("train", "--report-to", report_to, "--bundle", str(folder), *FEW),
        *("--out", str(out), f"--env_kwargs={KWARGS}", "--steps=1024"),
        *("--evaluations=3", "--cost_limit=0.01", "--episodes=4", "--seed=5"),
    ]


def watched(command, home, **environment):
    """Run a command in a process of its own, with W&B's files in a folder."""
    names = ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR")
    own = dict.fromkeys(names, str(home)) | {"NETRC": str(home / "netrc")}
    return subprocess.run(
        [sys.executable, "-c", WATCHED, *command],
        env={**os.environ, **own, **environment},
        capture_output=True,
        text=True,
    )


@dataclass
class Finished:
    out: Path
    logged: LoggedRun
    stderr: str

    @property
    def result(self):
        return json.loads((self.out / "train.json").read_text())


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """An offline run of `ogs train --report-to wandb`."""
    home = tmp_path_factory.mktemp("home")
    out = tmp_path_factory.mktemp("runs") / "limited"
    done = watched(limited(folder, out, "wandb"), home, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    return Finished(out, LoggedRun(out), done.stderr)


def test_an_offline_run_contacts_no_host(run):
    assert "looked up" not in run.stderr
    assert [end.exit_code for end in run.logged.of("exit")] == [0]


def test_without_a_login_the_command_ends_before_it_trains(folder, tmp_path):
    out = tmp_path / "out"
    done = watched(limited(folder, out, "wandb"), tmp_path / "home")
    assert done.returncode == 2
    assert "no user is logged in; run `wandb login`, or set WANDB_MODE" in done.stderr
    assert "looked up" not in done.stderr
    assert "steps: return" not in done.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {
                "WANDB_MODE": "online",
                "WANDB_API_KEY": "0" * 40,
                "WANDB_BASE_URL": "http://127.0.0.1:9",
                "WANDB_INIT_TIMEOUT": "1",
            },
            r"--report-to wandb: .+; WANDB_MODE=offline logs without network$",
        ),
        ({"WANDB_PROJECT": "a/b"}, "--report-to wandb: Invalid project name 'a/b'"),
        ({"WANDB_MODE": "ofline"}, "--report-to wandb: .*mode"),
    ],
)
def test_an_error_of_wandb_is_one_of_the_input(
    tmp_path, monkeypatch, environment, message
):
    with offline(tmp_path / "home"):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(InputError, match=message):
            opened("wandb", tmp_path, {}, command="train").__enter__()


def test_the_config_is_the_settings_once(run, folder):
    kwargs = {**json.loads(KWARGS), "bundle": str(folder)}
    settings = TrainSettings(
        "OGS-Custom-v0", kwargs, seed=5, seconds=None, steps=1024, cost_limit=0.01
    )
    few = {"n_envs": 4, "n_steps": 64, "batch_size": 64, "evaluation_episodes": 3}
    assert run.logged.config() == {
        **asdict(settings),
        **few,
        "evaluations": 3,
        "bundle_name": "made",
        "bundle_sha256": sha256_of(folder / "manifest.json"),
        "ogs_env_version": "0.1.0",
    }


def test_curve_terms_cost_and_report_are_logged(run):
    names = set().union(*run.logged.rows())
    assert {*CURVE, *END} <= names
    assert {f"episode/{name}" for name in (*NO_PICK, "cost")} <= names
    assert {"evaluation/multiplier", "evaluation/training_cost"} <= names
    assert {"rollout/ep_rew_mean", "train/loss", "time/fps"} <= names
    assert {f"report/minus_{name}" for name in BASELINES} <= names
    axes = {metric.name: metric.step_metric for metric in run.logged.of("metric")}
    assert axes["evaluation/return"] == axes["train/loss"] == "global_step"

    training = run.result["agents"][0]["training"]
    assert run.logged.curve("evaluation/return") == {
        point["steps"]: pytest.approx(point["return"]) for point in training["curve"]
    }
    last = [row for row in run.logged.rows() if "kept/held_out_gain" in row][-1]
    assert last["kept/return"] == pytest.approx(training["kept"]["return"], rel=1e-6)
    assert last["kept/cost"] == pytest.approx(training["kept"]["cost"], rel=1e-6)
    fallen = last["kept/test_change"] + last["kept/retention_change"]
    assert last["kept/held_out_gain"] == pytest.approx(-fallen, rel=1e-5)
    # The default reward is the gain less what is forgotten.
    gains = last["kept/domain_gain"] - last["kept/forgetting"]
    assert last["kept/return"] == pytest.approx(gains, rel=1e-5)
    assert last["kept/cost"] == pytest.approx(last["kept/forgetting"])


def test_report_is_that_of_the_result_file(run):
    last = [row for row in run.logged.rows() if "report/return" in row][-1]
    for name in BASELINES:
        margin = run.result["agent_minus"][name]["mean"]
        assert last[f"report/minus_{name}"] == pytest.approx(margin, rel=1e-5)
    _, rows = run.logged.table("returns")
    assert {row[0]: row[1] for row in rows} == {
        name: pytest.approx(summary["mean"])
        for name, summary in run.result["returns"].items()
    }


def test_selection_is_a_table_and_frames_are_pictures(run):
    from matplotlib.image import imread

    columns, rows = run.logged.table("selection")
    assert columns == [
        "order",
        "id",
        "source",
        "domain cosine",
        "anchor cosine",
        "probability",
    ]
    assert 1 <= len(rows) <= 12
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    assert len({row[1] for row in rows}) == len(rows)
    assert {row[2] for row in rows} <= {"alpha", "beta", "gamma", "delta", "epsilon"}
    for row in rows:
        assert all(-1 <= cosine <= 1 for cosine in row[3:5])
        assert 0 < row[5] <= 1
    pictures = list(run.logged.place.glob("files/media/images/frames*.png"))
    assert len(pictures) == FRAMES
    assert imread(pictures[0]).shape[:2] == (560, 1000)


def test_the_agent_is_an_artifact_with_its_description(run):
    (artifact,) = (a for a in run.logged.of("artifact") if a.type == "model")
    assert artifact.name == "limited-agent"
    files = {entry.path: entry for entry in artifact.manifest.contents}
    assert files.keys() == {"agent.json", "policy.safetensors"}
    for name, entry in files.items():
        assert entry.size == (run.out / name).stat().st_size
    metadata = json.loads(artifact.metadata)
    description = Navigator.load(run.out).description
    assert metadata["settings"] == description["settings"]
    assert metadata["training"]["kept"] == description["training"]["kept"]


def test_runs_of_several_seeds_share_a_group(folder, tmp_path):
    out = tmp_path / "three"
    with offline(tmp_path):
        command = [
            *("train", "--report-to=wandb", "--bundle", str(folder), *FEW),
            *("--out", str(out), "--seeds", "0", "1", "--steps=64", "--episodes=2"),
        ]
        assert main([*command, "--evaluations=1"]) == 0
    for seed in (0, 1):
        (run,) = LoggedRun(out / f"seed-{seed}").of("run")
        assert (run.run_group, run.job_type) == ("three", "train")
        assert run.display_name == f"three, seed {seed}"


def test_a_failed_run_is_logged_as_failed(tmp_path):
    with (
        offline(tmp_path / "home"),
        pytest.raises(ZeroDivisionError),
        opened("wandb", tmp_path, {}, command="train"),
    ):
        raise ZeroDivisionError
    assert wandb.run is None
    assert [end.exit_code for end in LoggedRun(tmp_path).of("exit")] == [1]


def test_a_sweeps_run_has_its_own_folder_and_one_seed(
    folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "run7")
    wandb.teardown()
    command = [
        *("train", "--report-to=wandb", "--bundle", str(folder), *FEW),
        *("--out", str(tmp_path), "--steps=64", "--evaluations=1", "--episodes=2"),
    ]
    assert main(command) == 0
    wandb.teardown()
    assert (tmp_path / "run7" / "agent.json").exists()
    assert main([*command, "--seeds", "0", "1"]) == 2
    assert "sweep over `seed` instead" in capsys.readouterr().err


def events(out):
    """Read the event files of a command's output folder."""
    (place,) = (out / "tensorboard").iterdir()
    accumulator = EventAccumulator(str(place))
    accumulator.Reload()
    return accumulator


def text(accumulator, name):
    (event,) = accumulator.Tensors(f"{name}/text_summary")
    return event.tensor_proto.string_val[0].decode()


def test_tensorboard_has_the_same_curves_settings_and_tables(
    run, folder, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import of it fails
    assert main(limited(folder, tmp_path, "tensorboard")) == 0
    log = events(tmp_path)
    training = json.loads((tmp_path / "agent.json").read_text())["training"]
    # The same seed: the run of the other logger.
    assert training["curve"] == run.result["agents"][0]["training"]["curve"]
    for name in (*CURVE, "train/loss", "episode/cost", "report/minus_oracle"):
        last = log.Scalars(name)[-1]
        curve = run.logged.curve(name)
        assert last.step == max(curve)
        assert last.value == pytest.approx(curve[last.step], rel=1e-5)
    evaluated = [(e.step, e.value) for e in log.Scalars("evaluation/return")]
    assert evaluated == [
        (point["steps"], pytest.approx(point["return"])) for point in training["curve"]
    ]
    assert "| cost_limit | 0.01 |" in text(log, "config")
    assert '| bundle_name | "made" |' in text(log, "config")
    for name in (*BASELINES, "agent"):
        assert f"| {name} |" in text(log, "returns")
    assert len(log.Tags()["images"]) == FRAMES
    assert not (tmp_path / "wandb").exists()


def test_imitation_is_logged_with_its_loss(folder, tmp_path):
    command = [
        *("train", "--config=navigator-imitation", "--bundle", str(folder)),
        *("--env=OGS-Custom-v0", f"--env-kwargs={KWARGS}", "--oracle-episodes=40"),
        *("--evaluation-episodes=4", "--episodes=2", "--out", str(tmp_path)),
        "--report-to=tensorboard",
    ]
    assert main(command) == 0
    log = events(tmp_path)
    losses = [event.value for event in log.Scalars("train/loss")]
    assert losses[-1] < losses[0]
    training = json.loads((tmp_path / "agent.json").read_text())["training"]
    assert [(event.step, event.value) for event in log.Scalars("kept/return")][-1] == (
        training["curve"][-1]["steps"],
        pytest.approx(training["kept"]["return"]),
    )
    config = text(log, "config")
    for name in asdict(ImitationSettings()):
        assert f"| {name} |" in config
    assert "learning_rate" not in config  # imitation has no such setting
    assert log.Scalars("report/return")[0].step == training["curve"][-1]["steps"]


def test_a_trained_agent_is_not_trained_again_to_be_logged(folder, tmp_path, capsys):
    command = limited(folder, tmp_path, "none")
    assert main(command) == 0
    trained = (tmp_path / "policy.safetensors").stat().st_mtime_ns
    assert main([*command, "--report-to=tensorboard"]) == 0
    assert "was trained already" in capsys.readouterr().err
    assert (tmp_path / "policy.safetensors").stat().st_mtime_ns == trained
    curve = json.loads((tmp_path / "agent.json").read_text())["training"]["curve"]
    assert [event.step for event in events(tmp_path).Scalars("evaluation/cost")] == [
        point["steps"] for point in curve
    ]


def test_by_default_nothing_is_logged_and_no_logger_is_imported(
    folder, tmp_path, monkeypatch
):
    for name in ("wandb", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)  # an import of it fails
        for loaded in [m for m in sys.modules if m.startswith(f"{name}.")]:
            monkeypatch.delitem(sys.modules, loaded)
    for name in ("weights_and_biases", "tensorboard"):
        module = f"ogs_env.experiments.tracking.{name}"
        monkeypatch.delitem(sys.modules, module, raising=False)
    command = [
        *("train", "--bundle", str(folder), "--out", str(tmp_path), *FEW),
        *("--steps=64", "--evaluations=1", "--episodes=2"),
    ]
    assert main(command) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "agent.json",
        "curves.png",
        "policy.safetensors",
        "train.json",
    ]
    assert main([*command, "--report-to=wandb"]) == 2
    assert main([*command, "--report-to=tensorboard"]) == 2


def test_an_unknown_logger_is_refused(tmp_path, capsys):
    assert main(["train", "--report-to=wandbb", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "--report-to: invalid choice: 'wandbb'" in error
    assert not (tmp_path / "out").exists()
