"""Read the report of a benchmark, for `ogs benchmark --summary`."""

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
        InputError: If it is missing or is another file.
    """
    report = read_json(folder / REPORT, "report of `ogs benchmark`")
    if not isinstance(report, dict) or not isinstance(report.get("table"), list):
        raise InputError(f"{folder / REPORT}: is no report of `ogs benchmark`")
    return report


def summary(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the main statistics of each domain and policy, named in `KEYS`.

    `seeds` are the training seeds; empty for policies without training.
    """
    return [{name: line[name] for name in KEYS} for line in report["table"]]
