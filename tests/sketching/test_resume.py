"""`ogs sketch`, killed at any moment, is resumed and ends with the same bytes."""

import json
import os
import random
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from helpers.forked import ERRORS, start_ogs
from helpers.words import WORDS

from ogs_env.cli import main

KILLS = 3
# A relative folder, because the manifest holds the command line.
OUT = ("--out", "bundle")


def write_lines(path: Path, count: int, seed: int) -> str:
    draw = random.Random(seed)
    lines = [
        {
            "prompt": f"{path.stem} {i} {' '.join(draw.choices(WORDS, k=3))}?",
            "response": " ".join(draw.choices(WORDS, k=draw.randint(1, 9))),
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, tiny_model_folder) -> list[str]:
    """The command line without --out."""
    folder = tmp_path_factory.mktemp("texts")
    return [
        "sketch",
        write_lines(folder / "pool.jsonl", 270, 1),
        "--domain",
        write_lines(folder / "domain.jsonl", 16, 2),
        "--anchor",
        write_lines(folder / "anchor.jsonl", 12, 3),
        *("--proxy", str(tiny_model_folder), "--precision", "float32"),
        *("--k", "64", "--rank", "4", "--layers", "2", "--max-tokens", "96"),
        *("--trajectory", "--checkpoints", "0", "2", "5"),
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory) -> tuple[Path, float]:
    """A bundle of an uninterrupted run, and its duration in seconds.

    Unlike the others it is a separate Python process, with another order of hashes.
    """
    folder = tmp_path_factory.mktemp("whole")
    process = subprocess.Popen(
        [sys.executable, "-m", "ogs_env.cli", *arguments, *OUT],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    note = folder / "bundle" / "build" / "request.json"
    while not note.exists() and process.poll() is None:
        time.sleep(0.002)
    begin = time.monotonic()
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return folder / "bundle", time.monotonic() - begin


@pytest.fixture(autouse=True)
def offline(monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def start(arguments: list[str], folder: Path) -> BaseProcess:
    return start_ogs([*arguments, *OUT], folder)


def kill(process: BaseProcess) -> None:
    process.kill()
    process.join()


def finish(arguments: list[str], folder: Path) -> str:
    process = start(arguments, folder)
    process.join()
    errors = (folder / ERRORS).read_text()
    assert process.exitcode == 0, errors
    return errors


def wait_for(path: Path, process: BaseProcess) -> None:
    while not path.exists() and process.is_alive():
        time.sleep(0.001)


def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(
    arguments, whole, tmp_path
):
    bundle, seconds = whole
    expected = contents(bundle)
    assert sum(name.startswith("pool-") for name in expected) == 2
    draw = random.Random(7)
    killed = 0
    for _ in range(KILLS):
        process = start(arguments, tmp_path)
        wait_for(tmp_path / "bundle" / "build" / "request.json", process)
        time.sleep(draw.uniform(0, 0.5 * seconds))
        killed += process.is_alive()
        kill(process)
        present = contents(tmp_path / "bundle")
        # Every file with its final name is complete.
        assert all(
            present[name] == expected[name] for name in present if name in expected
        )
    assert killed >= 2
    finish(arguments, tmp_path)
    assert contents(tmp_path / "bundle") == expected


def test_a_run_killed_right_after_a_shard_keeps_it(arguments, whole, tmp_path):
    expected = contents(whole[0])
    # A run killed before its first complete file leaves this; the next starts over.
    (tmp_path / "bundle" / "build").mkdir(parents=True)
    (tmp_path / "bundle" / "build" / ".request.json.123.part").write_bytes(b"{")
    process = start(arguments, tmp_path)
    shard = tmp_path / "bundle" / "pool-00000.safetensors"
    wait_for(shard, process)
    kill(process)
    assert not (tmp_path / "bundle" / "manifest.json").exists()
    modified = shard.stat().st_mtime_ns
    # A run killed while it writes leaves such a file.
    (tmp_path / "bundle" / ".pool-00001.safetensors.123.part").write_bytes(b"torn")
    assert "resuming an unfinished bundle" in finish(arguments, tmp_path)
    assert shard.stat().st_mtime_ns == modified
    assert contents(tmp_path / "bundle") == expected


def test_a_run_killed_after_some_own_answers_keeps_them(arguments, whole, tmp_path):
    expected = contents(whole[0])
    assert {"answers.safetensors", "anchor_answers-00000.safetensors"} < set(expected)
    process = start(arguments, tmp_path)
    build = tmp_path / "bundle" / "build"
    first = build / "answers-anchor-00000.safetensors"
    wait_for(first, process)
    kill(process)
    assert first.exists()
    modified = first.stat().st_mtime_ns
    # After a second kill, while sketching, the first answers are unchanged.
    process = start(arguments, tmp_path)
    wait_for(build / "means.safetensors", process)
    kill(process)
    assert first.stat().st_mtime_ns == modified
    finish(arguments, tmp_path)
    assert contents(tmp_path / "bundle") == expected


def run_here(arguments: list[str], out: Path, capsys) -> tuple[int, list[str]]:
    capsys.readouterr()
    status = main([*arguments, "--out", str(out)])
    lines = capsys.readouterr().err.splitlines()
    return status, [line for line in lines if " records, read as " not in line]


def test_a_finished_bundle_is_left_as_it_is(arguments, whole, capsys):
    bundle, _ = whole
    before = contents(bundle)
    times = {path: path.stat().st_mtime_ns for path in bundle.iterdir()}
    # A run killed after its last file leaves this.
    (bundle / "build").mkdir()
    (bundle / "build" / "means.safetensors").write_bytes(b"")
    status, errors = run_here(arguments, bundle, capsys)
    assert status == 0
    assert errors[0] == f"{bundle}: is complete already"
    assert contents(bundle) == before
    assert {path: path.stat().st_mtime_ns for path in bundle.iterdir()} == times


@pytest.mark.parametrize(
    "other",
    [
        ["--seed", "1"],
        ["--k", "32"],
        ["--checkpoints", "0", "2", "4"],
        ["--anchor-answers", "both"],
    ],
)
def test_other_settings_on_a_finished_bundle_are_refused(
    arguments, whole, other, capsys
):
    bundle, _ = whole
    before = contents(bundle)
    status, errors = run_here([*arguments, *other], bundle, capsys)
    assert status == 2
    assert errors == [
        f"ogs: error: {bundle}: holds a bundle of other samples or settings; choose "
        "another --out or delete it"
    ]
    assert contents(bundle) == before


def test_other_samples_on_an_unfinished_bundle_are_refused(
    arguments, whole, tmp_path, capsys
):
    bundle = tmp_path / whole[0].name
    (bundle / "build").mkdir(parents=True)
    request = json.loads((whole[0] / "manifest.json").read_text())["request"]
    (bundle / "build" / "request.json").write_text(json.dumps(request))
    before = contents(bundle)
    texts = write_lines(tmp_path / "other.jsonl", 60, 4)
    status, errors = run_here(["sketch", texts, *arguments[2:]], bundle, capsys)
    assert status == 2
    assert errors == [
        f"ogs: error: {bundle}: holds an unfinished bundle of other samples or "
        "settings; choose another --out or delete it"
    ]
    assert contents(bundle) == before
