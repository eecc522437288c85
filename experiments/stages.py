"""Progress and durations of the stages of a long command."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ogs_env.errors import InputError
from ogs_env.files import read_object, write_json


class Stages:
    """Print the start of each stage and record its duration, across several runs.

    Args:
        folder: Folder of `seconds.json`, the durations by stage.
        count: Number of stages.

    Raises:
        InputError: If the durations there are damaged.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._file = folder / "seconds.json"
        self.seconds: dict[str, float] = {}
        if self._file.exists():
            what = "note of durations; delete it to measure them again"
            self.seconds = read_object(self._file, what)
            if not all(isinstance(own, int | float) for own in self.seconds.values()):
                raise InputError(
                    f"{self._file}: expected seconds by stage; delete it to measure "
                    "them again"
                )
        self._number, self._count = 0, count

    def do(self, name: str, what: str, work: Callable[[], Any]) -> Any:
        """Run one stage and return the result of `work`."""
        self._number += 1
        print(f"\n[{self._number}/{self._count}] {what}", file=sys.stderr)
        start = time.perf_counter()
        result = work()
        spent = time.perf_counter() - start
        # A stage completed in an earlier run keeps its duration there.
        self.seconds[name] = round(max(spent, self.seconds.get(name, 0.0)), 1)
        write_json(self._file, self.seconds)
        return result
