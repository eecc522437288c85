"""The files of the benchmark: what one selector picked in a domain, and what it got."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ogs_env.errors import InputError
from ogs_env.files import whole_file

FORMAT = "ogs-benchmark"
FORMAT_VERSION = 1
SELECTIONS = "selections"

FIGURES = (
    "return",
    "domain_gain",
    "anchor_change",
    "cost",
    "test_change",
    "retention_change",
    "seconds",
)
"""What is measured in every episode: sums of the rewards, of the terms `domain_gain`
and `anchor_gain` and of the cost; the changes of test and retention loss; and the
seconds that choosing took, the environment's own time not among them."""


@dataclass(frozen=True)
class Played:
    """What a record is about; a record of anything else is not taken for it.

    Attributes:
        domain: Name of the domain.
        selector: Name of who played.
        env: Id of the environment.
        env_kwargs: Its arguments.
        bundle: Identity of the bundle: `bundle_digest`.
        first_seed: Seed of the first episode; the others follow.
        episodes: How many.
        seeds: Training seeds, one for each run; none where nothing was trained.
        agents: sha256 of each run's weights.
    """

    domain: str
    selector: str
    env: str
    env_kwargs: dict[str, Any]
    bundle: str
    first_seed: int
    episodes: int
    seeds: list[int] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)

    @property
    def runs(self) -> int:
        """How many times the episodes were played: once for each training seed."""
        return max(1, len(self.seeds))


@dataclass(frozen=True)
class Record:
    """The episodes of one selector in one domain.

    Attributes:
        played: Who, where and on which episodes.
        rows: Picked pool rows in order (runs, episodes, budget), -1 beyond; int16, or
            int32 for a large pool.
        figures: float32 (runs, episodes) for each of `FIGURES`.
    """

    played: Played
    rows: NDArray[np.signedinteger]
    figures: dict[str, NDArray[np.float32]]

    def write(self, folder: Path) -> None:
        """Write to its place in a folder of results, whole or not at all."""
        told = {"format": FORMAT, "format_version": FORMAT_VERSION, **vars(self.played)}
        tensors = {"rows": self.rows, **self.figures}
        content = save(tensors, metadata={"played": json.dumps(told)})
        with whole_file(record_file(folder, self.played)) as temporary:
            temporary.write_bytes(content)


def record_file(folder: Path, played: Played) -> Path:
    """Return where the record of a selector in a domain is."""
    name = played.selector.replace("/", "--")
    return folder / SELECTIONS / played.domain / f"{name}.safetensors"


def record_files(folder: Path) -> list[Path]:
    """Return all records of a folder of results, by domain and selector."""
    return sorted((folder / SELECTIONS).glob("*/*.safetensors"))


def read_record(file: Path) -> Record:
    """Read a record.

    Raises:
        InputError: If it is missing, damaged or of another version.
    """
    try:
        with safe_open(file, "numpy") as opened:
            told = json.loads((opened.metadata() or {}).get("played", "{}"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(
            f"{file}: cannot be read ({error}); delete it and run `ogs benchmark` again"
        ) from None
    wrong = _fault(told, tensors)
    if wrong:
        raise InputError(f"{file}: {wrong}; delete it and run `ogs benchmark` again")
    del told["format"], told["format_version"]
    played, rows = Played(**told), tensors.pop("rows")
    return Record(played, rows, tensors)


def read_records(folder: Path) -> list[Record]:
    """Read all records of a folder of results, by domain and selector.

    Raises:
        InputError: If there are none, or one is damaged.
    """
    files = record_files(folder)
    if not files:
        raise InputError(
            f"{folder}: holds no selections; run `ogs benchmark --out {folder}`"
        )
    return [read_record(file) for file in files]


def _fault(told: Any, tensors: Mapping[str, NDArray[Any]]) -> str:
    """Return what is wrong with a record's content; empty if nothing is."""
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        return "is no record of the benchmark"
    if told.get("format_version") != FORMAT_VERSION:
        return (
            f"format version {told.get('format_version')}, this ogs_env reads version "
            f"{FORMAT_VERSION}"
        )
    known = {"format", "format_version", *Played.__dataclass_fields__}
    if known != set(told):
        return f"'played' should have {', '.join(sorted(known))} alone"
    if set(tensors) != {"rows", *FIGURES}:
        return f"should have the tensors rows, {', '.join(FIGURES)} alone"
    shape = (max(1, len(told["seeds"])), told["episodes"])
    rows = tensors["rows"]
    if rows.ndim != 3 or rows.shape[:2] != shape or rows.dtype.kind != "i":
        return (
            f"tensor 'rows' is {rows.dtype} {rows.shape}, expected whole numbers "
            f"({shape[0]}, {shape[1]}, budget)"
        )
    for name in FIGURES:
        values = tensors[name]
        if values.shape != shape or values.dtype != np.float32:
            return (
                f"tensor '{name}' is {values.dtype} {values.shape}, expected float32 "
                f"{shape}"
            )
        if not np.isfinite(values).all():
            return f"tensor '{name}' holds a NaN or infinity"
    return ""
