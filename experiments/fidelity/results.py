"""Result files of the study: one for the untouched model, one for each run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ogs_env.bundle import Bundle
from ogs_env.errors import InputError
from ogs_env.files import read_json

BASE = "base.json"


def result_file(folder: Path, name: str, seed: int) -> Path:
    """Return the file of a run's result."""
    return folder / f"{name}--s{seed}.json"


def read_results(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the results of a list's runs by subset, seeds ascending.

    Raises:
        InputError: If there are none.
    """
    results: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(folder.glob("*--s*.json")):
        result = read_json(file, "result of a run")
        results.setdefault(result["subset"], []).append(result)
    for runs in results.values():
        runs.sort(key=lambda run: run["seed"])
    if not results:
        raise InputError(f"{folder}: holds no results; run `ogs fidelity` first")
    return results


def rows_of(bundle: Bundle, ids: Sequence[str]) -> list[int]:
    """Return the pool rows of samples by their ids.

    Raises:
        InputError: If a sample is not in the pool.
    """
    known = {name: row for row, name in enumerate(bundle.pool.hex_ids())}
    for name in ids:
        if name not in known:
            raise InputError(
                f"sample {name}: is not in the pool of {bundle.path}; the results "
                "belong to another bundle"
            )
    return [known[name] for name in ids]
