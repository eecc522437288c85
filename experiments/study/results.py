"""Result files of the study: one for each untouched target and for each run."""

from pathlib import Path
from typing import Any

from ogs_env.errors import InputError
from ogs_env.experiments.study.settings import StudySettings
from ogs_env.files import read_object

RUNS, BASE, COSINES = "runs", "base", "cosines"


def result_file(
    folder: Path, settings: StudySettings, domain: str, draw: int, method: str
) -> Path:
    """Return the file of a run's result, or of another measure of a pool."""
    return folder / RUNS / settings.target_name / f"{domain}-{draw}" / f"{method}.json"


def read_runs(folder: Path) -> list[tuple[Path, dict[str, Any], dict[str, Any]]]:
    """Return every run of a study's folder: file, result, untouched model's measures.

    Raises:
        InputError: If there are none, or a file is damaged.
    """
    runs = []
    for file in sorted((folder / RUNS).glob("*/*/*.json")):
        if file.stem not in (BASE, COSINES):
            base = read_object(
                file.with_name(f"{BASE}.json"),
                "file of measures of an untouched target",
            )
            runs.append((file, read_object(file, "result of a run"), base))
    if not runs:
        raise InputError(f"{folder}: holds no runs; run `ogs study` first")
    return runs
