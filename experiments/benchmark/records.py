"""Records of the benchmark: the selections and measures of one policy in a domain."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ogs_env.agents.evaluation import Episode
from ogs_env.errors import InputError
from ogs_env.files import whole_file

FORMAT = "ogs-benchmark"
FORMAT_VERSION = 1
SELECTIONS = "selections"
USER = "policy/"
"""Prefix of the names of users' policies."""

MEASURES = (
    "return",
    "domain_gain",
    "anchor_change",
    "cost",
    "test_change",
    "retention_change",
    "seconds",
)
"""Measures of every episode: sums of the rewards, of the terms `domain_gain` and
`anchor_gain` and of the cost; the changes of test and retention loss; and the seconds
in the policy, without the environment's steps."""


@dataclass(frozen=True)
class Identity:
    """What a record is about; another policy, bundle or setting has another identity.

    Attributes:
        domain: Name of the domain.
        selector: Name of the policy: of a selector, of agents, or of a user's policy.
        env: Id of the environment.
        env_kwargs: Arguments of the environment.
        bundle: Hash of the bundle, see `bundle_digest`.
        first_seed: Seed of the first episode; the seeds are consecutive.
        episodes: Number of episodes.
        seeds: Training seed of each run; empty for policies without one.
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
        """How often the episodes were played: once for each training seed."""
        return max(1, len(self.seeds))


@dataclass(frozen=True)
class Record:
    """The episodes of one policy in one domain.

    Attributes:
        identity: Policy, domain and episodes.
        rows: Picked pool rows in order (runs, episodes, budget), then -1; int16, or
            int32 for a large pool.
        measures: float32 (runs, episodes) for each of `MEASURES`.
    """

    identity: Identity
    rows: NDArray[np.signedinteger]
    measures: dict[str, NDArray[np.float32]]

    def write(self, folder: Path) -> None:
        """Write the record to a folder of results, atomically."""
        header = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **vars(self.identity),
        }
        tensors = {"rows": self.rows, **self.measures}
        content = save(tensors, metadata={"played": json.dumps(header)})
        with whole_file(record_file(folder, self.identity)) as temporary:
            temporary.write_bytes(content)


def measures_of(episode: Episode) -> dict[str, float]:
    """Return the measures of an episode, named in `MEASURES`."""
    return {
        "return": episode.total_return,
        "domain_gain": episode.terms["domain_gain"],
        "anchor_change": episode.terms["anchor_gain"],
        "cost": episode.cost,
        "test_change": episode.test_change,
        "retention_change": episode.retention_change,
        "seconds": episode.policy_seconds,
    }


def record_file(folder: Path, identity: Identity) -> Path:
    """Return the file of the record of a policy in a domain."""
    name = identity.selector.replace("/", "--")
    return folder / SELECTIONS / identity.domain / f"{name}.safetensors"


def record_files(folder: Path) -> list[Path]:
    """Return the files of all records in a folder, sorted by domain and policy."""
    return sorted((folder / SELECTIONS).glob("*/*.safetensors"))


def read_record(file: Path) -> Record:
    """Read a record.

    Raises:
        InputError: If it is missing, damaged or of another version.
    """
    try:
        with safe_open(file, "numpy") as opened:
            header = json.loads((opened.metadata() or {}).get("played", "{}"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(
            f"{file}: cannot be read ({error}); delete it and run `ogs benchmark` again"
        ) from None
    fault = _fault(header, tensors)
    if fault:
        raise InputError(f"{file}: {fault}; delete it and run `ogs benchmark` again")
    del header["format"], header["format_version"]
    identity, rows = Identity(**header), tensors.pop("rows")
    return Record(identity, rows, tensors)


def read_records(folder: Path) -> list[Record]:
    """Read all records of a folder of results, sorted by domain and policy.

    Raises:
        InputError: If there are none, or one is damaged.
    """
    files = record_files(folder)
    if not files:
        raise InputError(
            f"{folder}: holds no selections; run `ogs benchmark --out {folder}`"
        )
    return [read_record(file) for file in files]


def _fault(header: Any, tensors: Mapping[str, NDArray[Any]]) -> str:
    """Return what is wrong with a record's content; an empty string if it is valid."""
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        return "is no record of the benchmark"
    if header.get("format_version") != FORMAT_VERSION:
        return (
            f"format version {header.get('format_version')}, this ogs_env reads "
            f"version {FORMAT_VERSION}"
        )
    fields = {"format", "format_version", *Identity.__dataclass_fields__}
    if fields != set(header):
        return f"'played' must have exactly the keys {', '.join(sorted(fields))}"
    if set(tensors) != {"rows", *MEASURES}:
        return f"must have exactly the tensors rows, {', '.join(MEASURES)}"
    shape = (max(1, len(header["seeds"])), header["episodes"])
    rows = tensors["rows"]
    if rows.ndim != 3 or rows.shape[:2] != shape or rows.dtype.kind != "i":
        return (
            f"tensor 'rows' is {rows.dtype} {rows.shape}, expected integers "
            f"({shape[0]}, {shape[1]}, budget)"
        )
    for name in MEASURES:
        values = tensors[name]
        if values.shape != shape or values.dtype != np.float32:
            return (
                f"tensor '{name}' is {values.dtype} {values.shape}, expected float32 "
                f"{shape}"
            )
        if not np.isfinite(values).all():
            return f"tensor '{name}' holds a NaN or infinity"
    return ""
