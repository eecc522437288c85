"""The measurement of re-selection on a tiny model."""

import itertools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from ogs_env.errors import InputError
from ogs_env.experiments.reselection import ARMS, BASE, Options, main, run, table
from ogs_env.files import write_json


@pytest.fixture(scope="module")
def config(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("config") / "study.yaml"
    values = {
        "domains": ["medical-packages"],
        "draws": [1],
        "proxy": str(tiny_model_folder),
        "target": str(tiny_model_folder),
        "target_name": "tiny",
        "pool_size": 160,
        "share": 0.1,
        "test_size": 6,
        "retention_size": 4,
        "questions": 2,
        "layers": 2,
        "epochs": 2,
        "learning_rate": 1e-2,
    }
    file.write_text(yaml.safe_dump(values))
    return str(file)


@pytest.fixture(scope="module")
def finished(config: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reselection")
    run(Options(config=config, every=2, candidates=60, out=folder))
    return folder


def results(folder: Path) -> dict[str, dict]:
    pool = folder / "medical-packages-1"
    return {f.stem: json.loads(f.read_text()) for f in pool.glob("*.json")}


def test_all_arms_train_as_many_samples_in_as_many_steps(finished: Path) -> None:
    by_arm = results(finished)
    assert by_arm.keys() == {BASE, *ARMS}
    steps = {arm: [s["step"] for s in by_arm[arm]["selections"]] for arm in ARMS}
    assert steps["random"] == steps["selected"] == [0]
    assert steps["redrawn"] == steps["reselected"] == [0, 2]
    for arm in ARMS:
        assert len(by_arm[arm]["training_loss"]) == 4
        chosen = [s["rows"] for s in by_arm[arm]["selections"]]
        assert {len(set(rows)) for rows in chosen} == {16}
        assert by_arm[arm]["distinct"] == len(set(itertools.chain(*chosen)))
        assert by_arm[arm]["losses"].keys() == by_arm[BASE]["losses"].keys()
        assert by_arm[arm]["losses"] != by_arm[BASE]["losses"]
    candidates = {
        arm: [s["candidates"] for s in by_arm[arm]["selections"]]
        for arm in ("selected", "reselected")
    }
    assert candidates == {"selected": [160], "reselected": [60, 60]}
    # A control re-draws what the random arm has drawn first.
    first = [by_arm[arm]["selections"][0]["rows"] for arm in ("random", "redrawn")]
    assert first[0] == first[1]


def test_a_stopped_measurement_continues(
    config: str, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    before = results(out)
    (out / "medical-packages-1" / "reselected.json").unlink()
    times = {f: f.stat().st_mtime_ns for f in out.rglob("*.json")}
    options = Options(config=config, every=2, candidates=60, out=out)
    run(options)
    after = results(out)
    for name in ("losses", "training_loss", "distinct"):
        assert after["reselected"][name] == before["reselected"][name]
    rows = [
        [s["rows"] for s in of["reselected"]["selections"]] for of in (before, after)
    ]
    assert rows[0] == rows[1]
    assert {f: f.stat().st_mtime_ns for f in times} == times
    assert not list((out / "medical-packages-1").glob("*.lock"))
    with pytest.raises(InputError, match="other values of every, candidates; choose"):
        run(Options(config=config, every=4, out=out))


def test_the_table_has_differences_to_random(tmp_path: Path) -> None:
    def write(draw: int, arm: str, test: float, maths: float, words: float) -> None:
        losses = {"test": [test] * 2, "own/maths": [maths], "own/words": [words]}
        result = {"losses": losses, "distinct": 10 * draw}
        write_json(tmp_path / f"law-{draw}" / f"{arm}.json", result)

    for draw in (1, 2):
        write(draw, BASE, 4.0, 2.0, 1.0)
        write(draw, "random", 3.8, 2.02, 1.0)
    write(1, "reselected", 3.6, 2.0, 1.03)
    write(2, "reselected", 3.4, 2.0, 1.03)
    *_, random, reselected = table(tmp_path).splitlines()
    assert random == "| random | 2 | 15 | -5.00 | +1.00 |  |  |"
    cells = [cell.strip() for cell in reselected.strip("|").split("|")]
    assert cells[:5] == ["reselected", "2", "15", "-12.50", "+3.00"]
    # Student's t of two values, -5 and -10: 12.706 times 2.5.
    half = 12.7062 * np.std([-5, -10], ddof=1) / np.sqrt(2)
    assert cells[5] == f"-7.50 [{-7.5 - half:+.2f}, {-7.5 + half:+.2f}]"
    assert cells[6] == "+2.00 [+2.00, +2.00]"


def test_wrong_options(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="holds no runs"):
        run(Options(report=True, out=tmp_path))
    words = ["reselection", config, "--every", "1", "--out", f"{tmp_path / 'out'}"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="every: is 1; expected 2 or more, the steps"):
        main()
    assert not (tmp_path / "out").exists()


def test_an_unknown_selector_is_named_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="unknown selector 'gredy'; did you mean"):
        run(Options(selector="gredy", out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
