"""Read and write files; writes are atomic, errors are one clear line."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ogs_env.errors import InputError

LOCK = ".lock"
_PART = ".part"
_ROOM = 2**20  # bytes; a disk with less free space counts as full


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` when the block succeeds.

    The temporary file is in the same folder, is flushed to the disk and then renamed,
    so that a reader gets the old file or the new one, never a part of it.

    Raises:
        InputError: If the disk is full or the folder cannot be written.
    """
    temporary = _temporary(path)
    with _made(path.parent, path), writing(path):
        try:
            _remove_leftovers(path)
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            # Without a temporary file, this error must not replace the first one.
            with contextlib.suppress(OSError):
                temporary.unlink()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}{_PART}")


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files of `path` that killed processes left."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*{_PART}"):
        process = part.name.removesuffix(_PART).rpartition(".")[2]
        if process.isdecimal() and not _is_running(int(process)):
            part.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True


def check_writable(file: Path) -> None:
    """Check that a file can be written, before the long work that it is written after.

    Raises:
        InputError: If it is a folder, the disk is full or its folder cannot be written.
    """
    with writing(file):
        if file.is_dir():
            raise InputError(f"{file}: is a folder; expected a file")
        with _made(file.parent, file.parent):
            temporary = _temporary(file)
            temporary.touch()
            temporary.unlink()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Report in one line that a file or folder cannot be written.

    Raises:
        InputError: If the disk is full or the folder cannot be written.
    """
    try:
        yield
    except BrokenPipeError:  # of a message that is printed meanwhile
        raise
    except OSError as error:
        if error.errno is None:  # not of the system
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(path) from error
        if error.errno == errno.EFBIG:
            raise InputError(
                f"{path}: is larger than a file may be here (`ulimit -f`, or the file "
                "system's limit); choose another folder"
            ) from error
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); choose another folder"
        ) from error


@contextlib.contextmanager
def _made(folder: Path, for_path: Path) -> Iterator[None]:
    """Make a folder and its parents; at the end, remove those that are empty."""
    made: list[Path] = []
    try:
        with writing(for_path):
            made += [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # of a folder with content
                path.rmdir()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time make a file or folder; the others wait.

    Raises:
        InputError: If the folder cannot be written.
    """
    from filelock import FileLock

    lock = FileLock(f"{path}.lock")
    with _made(path.parent, path):
        with writing(path):
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


@contextlib.contextmanager
def only_process(path: Path, lock_file: Path | None = None) -> Iterator[bool]:
    """Yield whether no other process makes a file or folder.

    If so, none starts meanwhile.

    Args:
        path: The file or folder.
        lock_file: File of the lock; by default beside `path`.

    Raises:
        InputError: If the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    file = lock_file or Path(f"{path}.lock")
    lock = FileLock(file, timeout=0)
    with _made(file.parent, path):
        try:
            with writing(path):
                lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            # Before the release: otherwise it could be the next holder's file.
            with contextlib.suppress(OSError):
                file.unlink()
            lock.release()


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Let no other process write to a folder in the meantime.

    Raises:
        InputError: If another process does, or the folder cannot be written.
    """
    with writing(folder):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: is a file; choose a folder for --out")
    with only_process(folder, folder / LOCK) as is_only:
        if not is_only:
            raise InputError(
                f"{folder}: another process is writing there; wait until it ends, or "
                "choose another --out"
            )
        yield


@contextlib.contextmanager
def written_by_library(folder: Path) -> Iterator[None]:
    """Report a full disk where a library writes files, whatever error it raises.

    Raises:
        InputError: If the block fails and the disk of `folder` is full.
    """
    try:
        yield
    except Exception as error:
        text = os.strerror(errno.ENOSPC)
        if text in str(error) or shutil.disk_usage(folder).free < _ROOM:
            raise _full(folder) from error
        raise


def _full(path: Path) -> InputError:
    return InputError(
        f"{path}: no space left on the disk; free some and run the same command again"
    )


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Return `value` as indented JSON, the content of a file."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path, what: str, remedy: str = "") -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        what: Description of the file for the error line, such as `"sweep"`.
        remedy: What the user can do about a damaged file, for the error line.

    Raises:
        InputError: If it is missing or no JSON.
    """
    expected = "; ".join([f"expected a {what}", *([remedy] if remedy else [])])
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file; {expected}") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; {expected}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON ({error}); {expected}") from None


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON file that holds an object; arguments and errors are `read_json`'s.

    Raises:
        InputError: If it is missing, no JSON, or another JSON value than an object.
    """
    value = read_json(path, what)
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise InputError(f"{path}: holds a JSON {kind}; expected a {what}")
    return value


def read_versioned(
    path: Path, what: str, kind: str, version: int, keys: Iterable[str], remedy: str
) -> dict[str, Any]:
    """Read a JSON object with the entries `format` and `format_version`.

    Args:
        path: The file.
        what: Description of the file for the error line.
        kind: The expected `format`.
        version: The expected `format_version`.
        keys: Further entries that it must have.
        remedy: What the user can do, for the error line.

    Raises:
        InputError: If it is missing, damaged, incomplete or of another format.
    """
    value = read_json(path, what, remedy)
    if not isinstance(value, dict) or value.get("format") != kind:
        raise InputError(f"{path}: is no {what}; {remedy}")
    if value.get("format_version") != version:
        raise InputError(
            f"{path}: format version {value.get('format_version')}, this ogs_env reads "
            f"version {version}; {remedy}"
        )
    for key in keys:
        if key not in value:
            raise InputError(f"{path}: lacks '{key}'; {remedy}")
    return value


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
