"""Remember which large bundles were verified, so that they open fast.

A bundle of a million samples has more than a gigabyte, which takes seconds to read.
After a verification a file in the cache folder keeps, for each file of the bundle, the
size, the times of the last changes and the inode, together with the manifest's hash. A
file for which any of these has changed is verified again.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ogs_env.cache import cache_folder
from ogs_env.errors import InputError
from ogs_env.files import write_json

FORMAT = "ogs-verified"
FORMAT_VERSION = 1
SMALLEST = 2**26
"""Bytes of the smallest bundle that is remembered; smaller ones are always verified."""
# A file changed again within this time may keep its time of change: file systems store
# times in steps of up to 2 seconds.
_SETTLED = 2_000_000_000

Statuses = dict[str, list[int]]


class Verified:
    """What is remembered of a bundle's folder.

    Args:
        folder: The bundle's folder.
        manifest_hash: sha256 of its manifest.
        names: Its files; those that do not exist are passed over.
    """

    def __init__(self, folder: Path, manifest_hash: str, names: Iterable[str]) -> None:
        self._folder, self._hash = folder, manifest_hash
        self._begin = time.time_ns()
        self._statuses = _statuses(folder, names)
        remembered = self._read() if self._is_large() else {}
        self.unchanged = {
            name
            for name, status in self._statuses.items()
            if remembered.get(name) == status
        }
        """Names of the files that were verified before and are still the same."""

    def remember(self) -> None:
        """Remember that all files are verified, as they were at the beginning.

        Where the cache folder cannot be written, nothing is remembered.
        """
        if not self._is_large() or len(self.unchanged) == len(self._statuses):
            return
        settled = {
            name: status
            for name, status in self._statuses.items()
            if max(status[1:3]) < self._begin - _SETTLED
        }
        with contextlib.suppress(InputError):
            write_json(self._file(), {**self._head(), "files": settled})

    def _is_large(self) -> bool:
        return sum(status[0] for status in self._statuses.values()) >= SMALLEST

    def _file(self) -> Path:
        key = hashlib.sha256(os.fsencode(self._folder)).hexdigest()[:32]
        return cache_folder() / "verified" / f"{key}.json"

    def _head(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "manifest_sha256": self._hash,
        }

    def _read(self) -> Statuses:
        """Return the statuses of the last verification, none if there was no such."""
        try:
            value = json.loads(self._file().read_text("utf-8"))
        except (InputError, OSError, ValueError, RecursionError):
            return {}
        match value:
            case {"files": dict(files), **head} if head == self._head():
                return files
        return {}


def _statuses(folder: Path, names: Iterable[str]) -> Statuses:
    statuses = {}
    for name in names:
        with contextlib.suppress(OSError):
            status = os.stat(os.path.join(folder, name))
            statuses[name] = [
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
                status.st_ino,
            ]
    return statuses
