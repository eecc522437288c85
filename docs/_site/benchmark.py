"""Returns of the committed benchmark, for tables of the site."""

import functools
import json
from pathlib import Path
from typing import Any

import gymnasium

import ogs_env  # noqa: F401  (registers the ids)

REPOSITORY = Path(__file__).parents[2]
_RESULTS = REPOSITORY / "experiments" / "results" / "benchmark" / "benchmark.json"


@functools.cache
def _table() -> dict[tuple[str, str], dict[str, Any]]:
    rows = json.loads(_RESULTS.read_text())["table"]
    return {(row["domain"], row["selector"]): row for row in rows}


def domains() -> dict[str, str]:
    """Return the id of each domain's environment, in the registry's order."""
    measured = json.loads(_RESULTS.read_text())["domains"]
    by_id = {row["env"]: row["domain"] for row in measured}
    return {by_id[name]: name for name in gymnasium.registry if name in by_id}


def returned(domain: str, selector: str) -> str:
    """Return the return of a selector with its interval, as in docs/benchmark.md."""
    row = _table()[domain, selector]
    low, high = row["interval"]
    return f"{row['return_iqm']:.2f} [{low:.2f}, {high:.2f}]"
