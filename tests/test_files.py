"""Files are written atomically, and a full disk gives one error line."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ogs_env.errors import InputError
from ogs_env.files import (
    check_writable,
    exclusive,
    locked,
    only_process,
    read_json,
    sha256_of,
    whole_file,
    write_json,
    write_text,
    written_by_library,
)


def test_a_file_appears_complete(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with whole_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
    assert path.read_text() == "half"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("before")

    def write() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("where", ["write", "fsync"])
def test_a_full_disk_is_reported(tmp_path, monkeypatch, number, where):
    def full(*_, **__):
        raise OSError(number, os.strerror(number))

    if where == "write":
        monkeypatch.setattr(Path, "write_text", full)
    else:
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"file.json: no space left on the disk"):
        write_json(tmp_path / "file.json", {"a": 1})
    assert list(tmp_path.iterdir()) == []


LIMITED = """
import resource, signal, sys
from pathlib import Path
from ogs_env.data.samples import Sample, write_samples
from ogs_env.errors import InputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    write_samples(sys.argv[1], [Sample(str(i), "a" * 100) for i in range(500)])
except InputError as error:
    print(error)
"""


def test_a_file_larger_than_the_limit_is_reported(tmp_path):
    path = tmp_path / "pool.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True
    )
    assert done.stdout.startswith(f"{path}: is larger than a file may be here")
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x.txt", tmp_path / "file" / "y" / "x.txt"):
        with pytest.raises(InputError, match="cannot be written"):
            write_text(path, "text")


def test_a_folder_where_the_file_should_be_is_reported(tmp_path):
    (tmp_path / "x.txt" / "full").mkdir(parents=True)
    with pytest.raises(InputError, match=r"x.txt: cannot be written"):
        write_text(tmp_path / "x.txt", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]


def test_json_is_written_and_read_back(tmp_path):
    value = {"name": "Müller", "numbers": [1, 2.5, None]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json", "note") == value


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda path: None, "no such file; expected a note"),
        (lambda path: path.mkdir(), "is a folder; expected a note"),
        (lambda path: path.write_text("{"), "is no JSON .*; expected a note"),
        (lambda path: path.write_bytes(b"\xff{"), "is no JSON .*; expected a note"),
    ],
)
def test_json_that_cannot_be_read_is_reported(tmp_path, make, line):
    path = tmp_path / "a.json"
    make(path)
    with pytest.raises(InputError, match=f"{path}: {line}"):
        read_json(path, "note")


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "a") == known


def test_a_full_disk_is_reported_where_a_library_writes(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=f"{tmp_path}: no space left on the disk"),
        written_by_library(tmp_path),
        Path("/dev/full").open("w") as file,
    ):
        file.write("text")
    with (
        pytest.raises(RuntimeError, match="something else"),
        written_by_library(tmp_path),
    ):
        raise RuntimeError("something else")


def test_a_lock_in_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=f"{tmp_path}/file/a: cannot be written"),
        locked(tmp_path / "file" / "a"),
    ):
        pass


HOLD = """
import sys
from pathlib import Path
from ogs_env.files import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time_writes_to_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    command = [sys.executable, "-c", HOLD, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(InputError, match="out: another process is writing there"),
            exclusive(folder),
        ):
            pass
        holder.kill()
    # The file of the lock remains, the lock does not.
    assert [file.name for file in folder.iterdir()] == [".lock"]
    with exclusive(folder):
        (folder / "result").touch()
    assert [file.name for file in folder.iterdir()] == ["result"]


def test_an_exclusive_folder_stays_only_with_content(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), exclusive(tmp_path / "out"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match="file: is a file; choose a folder for --out"),
        exclusive(tmp_path / "file"),
    ):
        pass


def test_only_one_process_makes_a_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "result.json"
    with only_process(file) as is_only:
        assert is_only
        with only_process(file) as is_another:
            assert not is_another
        write_text(file, "{}")
    assert list(file.parent.iterdir()) == [file]


def test_a_check_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder" / "result.json")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder: is a folder; expected a file"):
        check_writable(tmp_path / "folder")
    # Such as the root folder, which has no name.
    with pytest.raises(InputError, match="/: is a folder; expected a file"):
        check_writable(Path("/"))


def test_folders_of_a_file_that_fails_are_removed(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    for name in ("before/a/b/" + 300 * "x", "before/a/" + 300 * "x" + "/file"):
        for write in (write_text, check_writable):
            with pytest.raises(InputError, match=r"cannot be written \(File name too"):
                write(tmp_path / name, *(["text"] if write is write_text else []))
        assert list(tmp_path.rglob("*")) == [tmp_path / "before"]


def test_a_killed_process_leaves_no_temporary_file_of_a_file(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    left = tmp_path / f".result.json.{ended.pid}.part"
    others = [
        tmp_path / ".result.json.1.part",  # of a process that runs
        tmp_path / f".other.json.{ended.pid}.part",  # of another file
        tmp_path / ".result.json.film.part",  # of another program
        tmp_path / "folder" / f".result.json.{ended.pid}.part",
    ]
    others[-1].parent.mkdir()
    for file in (left, *others):
        file.write_text("mine")
    with exclusive(tmp_path):
        write_json(tmp_path / "result.json", {})
    assert not left.exists()
    assert all(file.read_text() == "mine" for file in others)
