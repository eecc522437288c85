"""Faults of folders, outputs, names, locales and variables: one line, no traceback."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.easy_samples import colours, sums

from ogs_env.cli import main
from ogs_env.data.samples import Sample, write_samples
from ogs_env.selection import Selection

OGS = [sys.executable, "-m", "ogs_env.cli"]
# Without capabilities, root may write only what its permissions allow.
UNPRIVILEGED = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}

# Run command lines in one process, which loads its libraries once.
EACH = """
import contextlib, io, json, sys
from ogs_env.cli import main
for words in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        status = main(words)
    print(json.dumps([words[0], status, errors.getvalue().splitlines()]), flush=True)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_model_folder, bundle_folder) -> Path:
    """Inputs of all commands."""
    folder = tmp_path_factory.mktemp("files")
    pool = [Sample(f"Wie heißt Farbe {i}?", "größer", "words") for i in range(20)]
    write_samples(folder / "pool.jsonl", [*colours(0, 60), *pool])
    write_samples(folder / "domain.jsonl", colours(100, 24))
    write_samples(folder / "test.jsonl", colours(200, 8))
    write_samples(folder / "anchor.jsonl", sums(12))
    chosen = pool[0]
    Selection([chosen.id], [0], [1.0], ["words"], "all", "b", "s", 1, "all", 0).save(
        folder / "selection", {chosen.id: chosen}
    )
    (folder / "model").symlink_to(tiny_model_folder)
    (folder / "bundle").symlink_to(bundle_folder)
    (folder / "sweep.yaml").write_text(
        "{program: ogs, method: random, metric: {name: kept/return, goal: maximize},"
        "parameters: {learning_rate: {values: [0.001]}},"
        f"command: [ogs, train, --bundle={bundle_folder}, --steps=64, '${{args}}']}}"
    )
    return folder


def sketching(files: Path, out: Path | str, *more: str) -> list[str]:
    own = f"sketch {files}/pool.jsonl --domain {files}/domain.jsonl".split()
    own += f"--anchor {files}/anchor.jsonl --proxy {files}/model --k 16".split()
    own += ["--layers", "1", "--anchor-answers", "reference", "--out"]
    return [*own, f"{out}", *more]


def selecting(files: Path, out: Path | str, *more: str) -> list[str]:
    own = f"select --bundle {files}/bundle --agent less --budget 9".split()
    return [*own, "--out", f"{out}", *more]


def commands(files: Path, out: str) -> list[list[str]]:
    """Return a command line of each command that writes, with an `--out`."""
    lines = [
        f"train --bundle {files}/bundle --steps 300 --episodes 4 --out",
        f"sweep {files}/sweep.yaml --trials 1 --out",
        f"finetune {files}/selection --test {files}/test.jsonl "
        f"--retention {files}/anchor.jsonl --model {files}/model --out",
        f"adapt {files}/pool.jsonl --domain {files}/domain.jsonl "
        f"--anchor {files}/anchor.jsonl --budget 12 --proxy {files}/model "
        f"--model {files}/model --out",
        "study quick --out",
        "study --cost --out",
        "benchmark --domains medical --selectors random --episodes 2 --out",
        "speed --result",
        "demo --out",
        "fidelity --fit --results",
    ]
    written = [[*line.split(), out] for line in lines]
    return [sketching(files, out), selecting(files, out), *written]


def run_each(
    lines: list[list[str]], *prefix: str, **variables: str
) -> Iterator[tuple[str, int, list[str]]]:
    """Run command lines; yield command, status and stderr without notes of files."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", EACH],
        input=json.dumps(lines), env={**os.environ, **variables},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for line in done.stdout.splitlines():
        if line.startswith('["'):
            command, status, errors = json.loads(line)
            yield command, status, [e for e in errors if " records, read as " not in e]


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[list[str]]:
    """Make a folder read-only; yield the prefix of commands that it holds for."""
    paths = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in paths:
        path.chmod(0o555)
    try:
        yield UNPRIVILEGED if os.geteuid() == 0 else []
    finally:
        for path in paths:
            path.chmod(0o755)


def test_a_read_only_folder_is_refused_before_the_work(files, tmp_path):
    lines = [*commands(files, f"{tmp_path}/new/out"), *commands(files, f"{tmp_path}/x")]
    with read_only(tmp_path) as prefix:
        for command, status, errors in run_each(lines, *prefix):
            assert status == 2, (command, errors)
            # No progress bar or stage comes before it.
            [line] = errors
            assert line.startswith(f"ogs: error: {tmp_path}/"), command
            assert "cannot be written (Permission denied)" in line
    assert list(tmp_path.iterdir()) == []


def test_a_complete_bundle_may_be_read_only(files, tmp_path):
    line = sketching(files, tmp_path / "out")
    assert main(line) == 0
    before = sorted((tmp_path / "out").iterdir())
    with read_only(tmp_path / "out") as prefix:
        [(_, status, errors)] = run_each([line], *prefix)
    assert status == 0
    assert errors[0] == f"{tmp_path}/out: is complete already"
    assert sorted((tmp_path / "out").iterdir()) == before


def test_a_cache_that_cannot_be_written_is_named(files, tmp_path):
    (tmp_path / "file").touch()
    line = sketching(files, tmp_path / "out", "--proxy", "smollm2-135m-instruct")
    [(_, status, errors)] = run_each([line], OGS_CACHE=str(tmp_path / "file"))
    assert status == 2
    [error] = errors
    assert error.startswith(f"ogs: error: OGS_CACHE: {tmp_path}/file/smollm2")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# Output that ends in the middle


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["domains"], ["--help"], ["--version"]])
def test_output_to_a_full_disk_is_one_line(words, unbuffered):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*OGS, *words], stdout=full, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "ogs: error: the output: No space left on device\n"


@contextlib.contextmanager
def pipe_without_reader() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_ended_is_told_by_the_status(unbuffered):
    with pipe_without_reader() as writer:
        done = subprocess.run(
            [*OGS, "domains"], stdout=writer, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert done.returncode == 141
    assert done.stderr == ""


def test_work_without_a_reader_leaves_nothing_half_written(files, tmp_path):
    for number, line in enumerate(commands(files, "out")[:3]):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pipe_without_reader() as writer:
            done = subprocess.run(
                [*OGS, *line], stdout=writer, stderr=writer, cwd=folder
            )
        assert done.returncode == 141, line
        names = [path.name for path in folder.rglob("*")]
        assert not [n for n in names if n.endswith((".part", ".lock"))], line


def test_an_error_that_nobody_reads_keeps_its_status():
    with Path("/dev/full").open("w") as full, pipe_without_reader() as writer:
        for stream in (full, writer):
            done = subprocess.run([*OGS, "skech"], stderr=stream, stdout=stream)
            assert done.returncode == 2


def test_closed_streams_are_no_error_and_no_files(files, tmp_path):
    # The next files would have the numbers 1 and 2, if those were free.
    line = selecting(files, tmp_path / "out")
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    assert subprocess.run([*shell, *OGS, *line]).returncode == 0
    assert len(Selection.load(tmp_path / "out")) == 9
    assert subprocess.run([*shell, *OGS, "skech"]).returncode == 2


# Names that the file system refuses


@pytest.fixture
def refused(capsys):
    """Run `ogs` with bad input; return its error line."""

    def run(line: list[str]) -> str:
        capsys.readouterr()
        assert main(line) == 2, line
        errors = capsys.readouterr().err.splitlines()
        [error] = [e for e in errors if " records, read as " not in e]
        assert error.startswith("ogs: error: ")
        return error

    return run


NAMES = {
    "a/b/" + 300 * "x": "File name too long",
    "loop/x/y": "Too many levels of symbolic links",
    "a\0b": "is no text in",
    "a\udcffb": "is no text in utf-8; rename the file, or set the locale",
    "": "expected a path",
}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:10])
def test_a_name_that_the_file_system_refuses_is_one_line(
    refused, files, tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    for line in commands(files, name):
        assert NAMES[name] in refused(line)
        assert os.listdir() == ["loop"], line


@pytest.mark.parametrize("name", [300 * "x", "./loop", "a\udcffb"], ids=ascii)
def test_an_input_that_the_file_system_refuses_is_one_line(
    refused, files, tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    for line in (
        sketching(files, "out", "--domain", name),
        sketching(files, "out", "--anchor", name),
        sketching(files, "out", "--proxy", name),
        selecting(files, "out", "--bundle", name),
        selecting(files, "out", "--agent", name),
        selecting(files, "out", "--texts", name),
        ["train", "--out", "out", "--config", name],
        ["train", "--out", "out", "--bundle", name],
        ["sweep", name, "--out", "out"],
        ["study", name, "--out", "out"],
        ["finetune", name, "--test", "t", "--retention", "r", "--out", "out"],
        ["benchmark", "--agents", name, "--out", "out"],
        ["benchmark", "--verify", name],
        ["fidelity", "--summary", "--results", name],
    ):
        refused(line)
        assert os.listdir() == ["loop"], line


# Locales without UTF-8


def ogs_in(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*OGS, *words], cwd=folder, env={**os.environ, **variables}, capture_output=True
    )


def test_files_are_utf_8_in_every_locale(files, tmp_path):
    for name, variables in {"utf8": {}, "ascii": ASCII}.items():
        (tmp_path / name).mkdir()
        for line in selecting(files, "out"), sketching(files, "made"):
            done = ogs_in(tmp_path / name, *line, **variables)
            assert done.returncode == 0, done.stderr
    here, there = (sorted((tmp_path / n).rglob("*.*")) for n in ("utf8", "ascii"))
    assert len(here) == len(there) > 8
    for one, other in zip(here, there, strict=True):
        assert one.read_bytes() == other.read_bytes(), one


def test_names_are_printed_in_every_encoding(files, tmp_path):
    line = selecting(files, "größer")
    done = ogs_in(tmp_path, *line, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(rb"gr\xf6\xdfer: 9 samples by less")
    assert len(Selection.load(tmp_path / "größer")) == 9
    done = ogs_in(tmp_path, *line, **ASCII)
    assert done.returncode == 2
    assert b"is no text in ascii; rename the file, or set the locale" in done.stderr
    assert done.stderr.count(b"\n") == 1


# Variables of the environment

VARIABLES = {
    "COLUMNS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HOME": "/dev/null/x",
    "HF_HUB_OFFLINE": "1",
    "HOME": "/dev/null/x",
    "NO_COLOR": "1",
    "OGS_CACHE": "/dev/null",
    "OGS_DATA": "/dev/null",
    "OMP_NUM_THREADS": "abc",
    "PYTHONWARNINGS": "error",
    "TMPDIR": "/dev/null/x",
}


def test_variables_do_not_disturb_the_commands(files, tmp_path):
    lines = commands(files, "")[:5]
    lines = [[*line[:-1], str(tmp_path / line[0])] for line in lines]
    for command, status, errors in run_each(lines, **VARIABLES):
        assert status == 0, (command, errors)


def test_texts_that_a_variable_does_not_lead_to_are_one_line(refused, tmp_path):
    (tmp_path / "file").touch()
    line = f"select --bundle medical --agent dsir --budget 9 --out {tmp_path}/out"
    for folder in ("missing", "file"):
        variables = {"OGS_DATA": str(tmp_path / folder), "HF_HUB_OFFLINE": "1"}
        [(_, status, errors)] = run_each([line.split()], **variables)
        assert status == 2
        assert str(tmp_path / folder) in errors[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
