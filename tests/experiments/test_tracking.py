import json
import os
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.make_bundle import make_bundle

from ogs_env.agents.training import TrainSettings
from ogs_env.cli import main
from ogs_env.errors import InputError
from ogs_env.rewards import NO_PICK

wandb = pytest.importorskip("wandb")

from wandb.proto.wandb_internal_pb2 import Record  # noqa: E402

from ogs_env.experiments.measures import CURVE, END  # noqa: E402
from ogs_env.experiments.tracking import FRAMES, tracked  # noqa: E402
from ogs_env.experiments.train import BASELINES  # noqa: E402

FEW = ("--n_envs=4", "--n_steps=64", "--batch_size=64", "--evaluation_episodes=3")
_BLOCK = 32_768


def records(file):
    """Yield the records of W&B's file of a run: protobuf in LevelDB's log format."""
    data = file.read_bytes()
    place, whole = len(":W&B") + 3, b""
    while place + 7 <= len(data):
        if _BLOCK - place % _BLOCK < 7:
            place += _BLOCK - place % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(whole)
            whole = b""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "pool", pool=1200)


def few(folder, **changes):
    kwargs = {"bundle": str(folder), "budget": 12, "num_slates": 6}
    few = {"n_envs": 4, "n_steps": 32, "batch_size": 64, "evaluation_episodes": 3}
    settings = {"seconds": None, "steps": 256, "evaluations": 2, **few}
    return TrainSettings("OGS-Custom-v0", kwargs, **(settings | changes))


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


@dataclass
class Logged:
    out: Path
    place: Path
    records: list
    stderr: str


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """The folder of a run of `ogs train --wandb` without a login."""
    home = tmp_path_factory.mktemp("home")
    out = tmp_path_factory.mktemp("runs") / "limited"
    plain = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    names = ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR")
    kwargs = json.dumps({"budget": 12, "num_slates": 6})
    done = subprocess.run(
        [
            *(sys.executable, "-c", WATCHED, "train", "--wandb", *FEW),
            *("--bundle", str(folder), "--out", str(out), f"--env_kwargs={kwargs}"),
            *("--steps=1024", "--evaluations=3", "--cost_limit=0.01"),
            *("--episodes=4", "--seed=5"),
        ],
        env=plain | dict.fromkeys(names, str(home)) | {"NETRC": str(home / "netrc")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    place = (out / "wandb" / "latest-run").resolve()
    return Logged(out, place, list(records(next(place.glob("*.wandb")))), done.stderr)


def rows(run):
    """The logged values, a dict for each row."""
    history = []
    for record in run.records:
        if record.WhichOneof("record_type") == "history":
            names = (
                (item.key or item.nested_key[0], item) for item in record.history.item
            )
            history.append({name: json.loads(item.value_json) for name, item in names})
    return history


def test_without_a_login_the_run_is_offline_and_contacts_no_host(run):
    assert run.place.name.startswith("offline-run-")
    assert "not logged in to W&B" in run.stderr
    assert "looked up" not in run.stderr
    assert [r.exit.exit_code for r in run.records if r.HasField("exit")] == [0]


def test_settings_are_the_config(run):
    config = {}
    for record in run.records:
        updates = [record.run.config.update, record.config.update]
        config |= {u.key: json.loads(u.value_json) for part in updates for u in part}
    assert config["seed"] == 5
    assert config["cost_limit"] == 0.01
    assert config["env_kwargs"]["budget"] == 12
    assert config["algo"] == "PPO"  # W&B's callback for SB3 adds it


def test_curve_terms_cost_and_report_are_logged(run):
    history = rows(run)
    logged = set().union(*history)
    assert {*CURVE, *END} <= logged
    assert {f"episode/{name}" for name in (*NO_PICK, "cost")} <= logged
    assert {"evaluation/multiplier", "evaluation/training_cost"} <= logged
    assert {"rollout/ep_rew_mean", "train/loss", "global_step"} <= logged
    assert {f"report/minus_{name}" for name in BASELINES} <= logged

    training = json.loads((run.out / "train.json").read_text())["agents"][0]["training"]
    curve = {
        row["global_step"]: row["evaluation/return"]
        for row in history
        if "evaluation/return" in row
    }
    assert curve == {
        point["steps"]: pytest.approx(point["return"], rel=1e-6)
        for point in training["curve"]
    }
    last = [row for row in history if "kept/return" in row][-1]
    assert last["kept/return"] == pytest.approx(training["kept"]["return"], rel=1e-6)
    assert last["kept/cost"] == pytest.approx(training["kept"]["cost"], rel=1e-6)
    fallen = last["kept/test_change"] + last["kept/retention_change"]
    assert last["kept/held_out_gain"] == pytest.approx(-fallen, rel=1e-5)
    # The default reward is the gain less what is forgotten.
    gains = last["kept/domain_gain"] - last["kept/forgetting"]
    assert last["kept/return"] == pytest.approx(gains, rel=1e-5)
    assert last["kept/cost"] == pytest.approx(last["kept/forgetting"])


def test_report_is_that_of_the_result_file(run):
    result = json.loads((run.out / "train.json").read_text())
    last = [row for row in rows(run) if "report/return" in row][-1]
    for name in BASELINES:
        margin = result["agent_minus"][name]["mean"]
        assert last[f"report/minus_{name}"] == pytest.approx(margin, rel=1e-5)
    table = json.loads(next(run.place.glob("files/media/table/returns*")).read_text())
    entries = {row[0]: row[1] for row in table["data"]}
    assert entries == {
        name: pytest.approx(summary["mean"])
        for name, summary in result["returns"].items()
    }


def test_selection_is_a_table_and_frames_are_pictures(run):
    from matplotlib.image import imread

    table = json.loads(next(run.place.glob("files/media/table/selection*")).read_text())
    assert table["columns"] == [
        "order",
        "id",
        "source",
        "domain cosine",
        "anchor cosine",
        "probability",
    ]
    data = table["data"]
    assert 1 <= len(data) <= 12
    assert [row[0] for row in data] == list(range(1, len(data) + 1))
    assert len({row[1] for row in data}) == len(data)
    assert {row[2] for row in data} <= {"alpha", "beta", "gamma", "delta", "epsilon"}
    for row in data:
        assert all(-1 <= cosine <= 1 for cosine in row[3:5])
        assert 0 < row[5] <= 1
    pictures = list(run.place.glob("files/media/images/frames*.png"))
    assert len(pictures) == FRAMES
    assert imread(pictures[0]).shape[:2] == (560, 1000)


def test_runs_of_several_seeds_share_a_group(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    names = []
    for seed in (0, 1):
        with tracked(few(folder, seed=seed), tmp_path / "study", "study"):
            assert wandb.run.settings.run_group == "study"
            names.append(wandb.run.settings.run_name)
    assert names == ["study, seed 0", "study, seed 1"]


def test_a_failed_run_is_logged_as_failed(folder, tmp_path, monkeypatch):
    wandb.teardown()  # it reads its environment once
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(ZeroDivisionError), tracked(few(folder), tmp_path, None):
        raise ZeroDivisionError
    assert wandb.run is None
    wandb.teardown()
    logged = records(next(tmp_path.glob("wandb/offline-run-*/*.wandb")))
    assert [r.exit.exit_code for r in logged if r.HasField("exit")] == [1]


def test_a_sweeps_run_has_its_own_folder_and_one_seed(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "run7")
    command = [
        *("train", "--wandb", "--bundle", str(folder), "--out", str(tmp_path), *FEW),
        *("--steps=64", "--evaluations=1", "--episodes=2"),
    ]
    assert main(command) == 0
    assert (tmp_path / "run7" / "agent.json").exists()
    with (
        pytest.raises(InputError, match="sweep over `seed` instead"),
        tracked(few(folder), tmp_path, "study"),
    ):
        pass


def test_without_the_option_nothing_of_wandb_is_imported(folder, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "ogs_env.experiments.tracking")
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import of it fails
    command = [
        *("train", "--bundle", str(folder), "--out", str(tmp_path), *FEW),
        *("--steps=64", "--evaluations=1", "--episodes=2"),
    ]
    assert main(command) == 0
    assert not (tmp_path / "wandb").exists()
    assert not (tmp_path / "tensorboard").exists()
    assert main([*command, "--wandb"]) == 2
