"""Progress and durations of the stages of a long command."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ogs_env.files import read_json, write_json


class Stages:
    """Print the start of each stage and record its duration, across several runs.

    Args:
        folder: Folder of `seconds.json`, the durations by stage.
        count: Number of stages.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._file = folder / "seconds.json"
        known = self._file.exists()
        self.seconds: dict[str, float] = (
            read_json(self._file, "note of the stages") if known else {}
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
