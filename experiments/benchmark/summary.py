"""The report as it was written: what `ogs benchmark --summary` tells."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ogs_env.errors import InputError
from ogs_env.files import read_json

REPORT = "benchmark.json"
KEYS = (
    "domain",
    "selector",
    "return_iqm",
    "interval",
    "share_of_oracle",
    "gap_closed",
    "cost",
    "seeds",
)


def read_report(folder: Path) -> dict[str, Any]:
    """Read the report of a folder of results.

    Raises:
        InputError: If it is missing or holds something else.
    """
    found = read_json(folder / REPORT, "report of `ogs benchmark`")
    if not isinstance(found, dict) or not isinstance(found.get("table"), list):
        raise InputError(f"{folder / REPORT}: is no report of `ogs benchmark`")
    return found


def summary(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what is told of each domain and selector.

    `seeds` are those of the training; there are none where nothing was trained.
    """
    return [{name: line[name] for name in KEYS} for line in report["table"]]
