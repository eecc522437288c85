"""Commands of `ogs` in forked processes, with limits of time and memory."""

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ogs_env.cli import main

_GRACE = 20.0  # seconds from Ctrl-C to the end of a command
_MEMORY = 6 * 2**30  # bytes that a command may add to those of this process


class Outcome(NamedTuple):
    """How a command ended.

    Attributes:
        status: Exit status; negative: the number of the signal that ended it.
        errors: What it wrote to stderr.
        seconds: Its duration.
        stopped: Whether it was interrupted, as by Ctrl-C, at the limit of time.
    """

    status: int
    errors: str
    seconds: float
    stopped: bool


def run_forked(words: Sequence[str], folder: Path, limit: float) -> Outcome:
    """Run `ogs_env.cli.main` in a fork of this process.

    A fork has the modules that this process imported, and nothing that a command
    changes in one reaches the next.

    Args:
        words: The command line.
        folder: Folder of the two files of its output.
        limit: Seconds after which it is interrupted.
    """
    begin = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _become_command(words, folder)
    stopped = False
    while True:
        ended, code = os.waitpid(pid, os.WNOHANG)
        spent = time.monotonic() - begin
        if ended:
            break
        if spent > limit + _GRACE:
            os.kill(pid, signal.SIGKILL)
        elif spent > limit and not stopped:
            os.kill(pid, signal.SIGINT)
            stopped = True
        time.sleep(0.005)
    errors = (folder / "stderr").read_text(errors="replace")
    return Outcome(os.waitstatus_to_exitcode(code), errors, spent, stopped)


def _become_command(words: Sequence[str], folder: Path) -> None:
    """Run a command and end this process; what it writes goes to files."""
    status = 1
    try:
        used = _bytes_mapped()
        resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
        status = _status_of(lambda: main(list(words)))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _status_of(command: Callable[[], int]) -> int:
    try:
        return command()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1


def _bytes_mapped() -> int:
    pages = Path("/proc/self/statm").read_text().split()[0]
    return int(pages) * resource.getpagesize()
