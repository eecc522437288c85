"""Offline runs of Weights & Biases: log in this process, and read what was logged."""

import contextlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_BLOCK = 32_768


@contextlib.contextmanager
def offline(folder: Path) -> Iterator[None]:
    """Let W&B log offline, with its own files in a folder."""
    import wandb

    wandb.teardown()  # it reads its environment once
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        for name in ("CONFIG", "CACHE", "DATA"):
            patch.setenv(f"WANDB_{name}_DIR", str(folder))
        yield
        wandb.teardown()


class LoggedRun:
    """An offline run of a command.

    Args:
        out: The command's output folder.

    Attributes:
        place: The run's folder.
        records: The records of the run's file.
    """

    def __init__(self, out: Path) -> None:
        (self.place,) = (out / "wandb").glob("offline-run-*")
        self.records = list(_records(next(self.place.glob("*.wandb"))))

    def of(self, kind: str) -> list[Any]:
        """Return the records of a kind, such as `artifact`."""
        return [getattr(r, kind) for r in self.records if r.HasField(kind)]

    def config(self) -> dict[str, Any]:
        """Return the run's config, without W&B's own entry."""
        updates = [run.config.update for run in self.of("run")]
        updates += [config.update for config in self.of("config")]
        values = {
            item.key: json.loads(item.value_json) for part in updates for item in part
        }
        values.pop("_wandb", None)
        return values

    def rows(self) -> list[dict[str, Any]]:
        """Return the logged numbers, a dictionary for each row."""
        return [
            {
                item.key or item.nested_key[0]: json.loads(item.value_json)
                for item in history.item
            }
            for history in self.of("history")
        ]

    def curve(self, name: str, axis: str = "global_step") -> dict[int, float]:
        """Return the values of a curve by step."""
        return {row[axis]: row[name] for row in self.rows() if name in row}

    def table(self, name: str) -> tuple[list[str], list[list[Any]]]:
        """Return the columns and the rows of a table."""
        (file,) = self.place.glob(f"files/media/table/{name}_*.json")
        content = json.loads(file.read_text())
        return content["columns"], content["data"]


def _records(file: Path) -> Iterator[Any]:
    """Yield the records of a run's file: protobuf in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = file.read_bytes()
    place, whole = len(":W&B") + 3, b""
    while place + 7 <= len(data):
        if _BLOCK - place % _BLOCK < 7:
            place += _BLOCK - place % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(whole)
            whole = b""
