"""Run the study: fine-tune a target by every method on every pool, a file per run."""

import dataclasses
import hashlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ogs_env.experiments.study.locks import locked
from ogs_env.experiments.study.methods import Method, check_method
from ogs_env.experiments.study.results import BASE, result_file
from ogs_env.experiments.study.selections import Pool
from ogs_env.experiments.study.settings import StudySettings
from ogs_env.experiments.study.target import Target
from ogs_env.files import write_json

POOLS, ANSWERS = "pools", "answers"


def run_study(settings: StudySettings, folder: Path) -> None:
    """Do all runs that have no result yet.

    Processes that are started with the same folder share the work: a pool's selections
    and each run are made by the process that starts them first.

    Args:
        settings: Settings of the study.
        folder: Folder of pools, agents and results.

    Raises:
        InputError: If texts or the target are not available, or a result is of other
            samples or another recipe.
    """
    for draw in settings.draws:
        for domain in settings.domains:
            _run_pool(settings, folder, domain, draw)


def _run_pool(settings: StudySettings, folder: Path, domain: str, draw: int) -> None:
    open_methods = [
        method
        for method in map(check_method, settings.methods)
        if not result_file(folder, settings, domain, draw, method.name).exists()
    ]
    if not open_methods:
        return
    pool = Pool(domain, draw, settings, folder / POOLS)
    target: Target | None = None
    for method in open_methods:
        file = result_file(folder, settings, domain, draw, method.name)
        with _only_process(file) as is_only:
            if not is_only or file.exists():
                continue
            rows = pool.rows(method)
            if target is None:
                answers = folder / ANSWERS / settings.target_name
                with locked(answers):
                    target = Target(settings, pool.data, answers)
                _measure_untouched(target, file.with_name(BASE))
            print(
                f"{domain} {draw}: {method.name}, {len(rows)} samples", file=sys.stderr
            )
            write_json(file, _result(pool, target, method, rows))


@contextmanager
def _only_process(file: Path) -> Iterator[bool]:
    """Yield whether no other process makes a file; if so, none starts meanwhile."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{file}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
        Path(f"{file}.lock").unlink(missing_ok=True)


def _measure_untouched(target: Target, file: Path) -> None:
    if not file.exists():
        target.reset(0)
        write_json(file, target.measure())


def _result(
    pool: Pool, target: Target, method: Method, rows: list[int]
) -> dict[str, Any]:
    """Fine-tune and measure; return the content of a result file."""
    begin = time.process_time()
    surgery = method.kind if method.is_surgery else None
    target.train(rows, pool.draw, surgery)
    seconds = time.process_time() - begin
    measured = target.measure()
    ids = "\n".join(sorted(pool.data.pool[row].id for row in rows))
    return {
        "domain": pool.domain,
        "draw": pool.draw,
        "method": method.name,
        "target": target.settings.target_name,
        "samples": len(rows),
        "ids_sha256": hashlib.sha256(ids.encode()).hexdigest(),
        "recipe": recipe(target.settings),
        "select_seconds": round(pool.seconds(method), 1),
        "train_seconds": round(seconds, 1),
        **measured,
    }


def recipe(settings: StudySettings) -> dict[str, Any]:
    """Return the settings that a run's result depends on."""
    names = ("pool_size", "share", "layers", "epochs", "batch", "learning_rate")
    values = dataclasses.asdict(settings)
    return {name: values[name] for name in names}
