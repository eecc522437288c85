"""`ogs speed`: its comparisons and what it prints, without the speeds."""

import json
from pathlib import Path

import gymnasium
import pytest

from ogs_env.cli import main
from ogs_env.experiments import speed


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SECONDS", {"quick": 0.01, "full": 0.01})
    monkeypatch.setattr(speed, "NUM_ENVS", (1, 2, 3))
    monkeypatch.setattr(speed, "SYNC_NUM_ENVS", (1, 2))
    monkeypatch.setattr(speed, "NATIVE_TARGET_ENVS", 3)
    monkeypatch.setattr(speed, "TRAIN_ROUNDS", 1)


def test_every_id_is_compared_and_no_file_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "speed.json"
    assert main(["speed", "--quick", "--result", str(file)]) == 0
    assert not file.exists()
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == speed.count() == len(err.splitlines())
    assert all(list(line) == ["name", "ratio", "target"] for line in lines)
    assert all(line["ratio"] > 0 for line in lines)
    targets = {line["name"]: line["target"] for line in lines}
    assert len(targets) == len(lines)
    live = 0
    for name in gymnasium.registry:
        if name.startswith("OGS-"):
            live += "Live" in name
            for what in ("make", "reset", "step"):
                assert (f"{what} {name} / CartPole-v1" in targets) is (
                    "Live" not in name
                )
    assert live
    assert {
        target for name, target in targets.items() if name.startswith("step OGS")
    } == {
        0.3333,
        None,
    }
    assert targets["step OGS-Medical-v0 / CartPole-v1"] == 0.3333
    assert targets["native step 3 environments of OGS-Medical-v0 / CartPole-v1"] == 1.0
    assert targets["native step 2 environments of OGS-Medical-v0 / CartPole-v1"] is None
    assert targets["native / sync step 2 environments of OGS-Medical-v0"] is None
    train = "train steps of OGS-Medical-v0, ogs train / SB3 with one environment"
    assert targets[train] == 10.0


def test_the_full_run_writes_its_result(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "speed.json"
    monkeypatch.setattr(speed, "ids", lambda: ["OGS-Medical-v0"])
    assert main(["speed", "--result", str(file)]) == 0
    result = json.loads(file.read_text())
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for entry, line in zip(result["ratios"], printed, strict=True):
        assert {name: entry[name] for name in line} == line
        assert min(entry["rounds"]) <= entry["ratio"] <= max(entry["rounds"])
    assert result["reference"] == "CartPole-v1"
    assert result["machine"]["numpy"]
