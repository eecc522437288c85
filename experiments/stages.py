"""The stages of a long command."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ogs_env.files import read_json, write_json


class Stages:
    """Announces each stage and remembers what it took, over several runs too.

    Args:
        folder: Where the seconds are noted.
        count: How many stages there are.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._file = folder / "seconds.json"
        known = self._file.exists()
        self.seconds: dict[str, float] = (
            read_json(self._file, "note of the stages") if known else {}
        )
        self._number, self._count = 0, count

    def do(self, name: str, what: str, work: Callable[[], Any]) -> Any:
        """Do one stage and return what it makes."""
        self._number += 1
        print(f"\n[{self._number}/{self._count}] {what}", file=sys.stderr)
        begin = time.perf_counter()
        made = work()
        spent = time.perf_counter() - begin
        # A stage that was done in an earlier run keeps what it took there.
        self.seconds[name] = round(max(spent, self.seconds.get(name, 0.0)), 1)
        write_json(self._file, self.seconds)
        return made
