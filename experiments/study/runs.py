"""Run the study: fine-tune a target by every method on every pool, a file per run."""

import dataclasses
import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ogs_env.errors import InputError
from ogs_env.experiments.study.cosines import cosine_agreement
from ogs_env.experiments.study.methods import AUTO, Method, parse_method
from ogs_env.experiments.study.results import BASE, COSINES, result_file
from ogs_env.experiments.study.selections import Pool
from ogs_env.experiments.study.settings import StudySettings
from ogs_env.experiments.study.target import Target
from ogs_env.files import locked, only_process, read_object, write_json

POOLS, ANSWERS, TARGETS, NOTE = "pools", "answers", "targets", "settings.json"
OF_TARGET = ("learning_rate", "generated")
"""Settings of each target: a rate that suits one can be too large for another, and only
a large one answers questions."""


def run_study(
    settings: StudySettings,
    folder: Path,
    on_result: Callable[[Path], None] = lambda file: None,
) -> None:
    """Do all runs that have no result yet.

    Processes that are started with the same folder share the work: a pool's selections
    and each run are made by the process that starts them first.

    Args:
        settings: Settings of the study.
        folder: Folder of pools, agents and results.
        on_result: Called with the file of each result that this process has written.

    Raises:
        InputError: If texts or the target are not available, or the folder has runs of
            another recipe.
    """
    _note(settings, folder)
    for draw in settings.draws:
        for domain in settings.domains:
            _run_pool(settings, folder, domain, draw, on_result)


def _note(settings: StudySettings, folder: Path) -> None:
    """Write the recipe of a folder's runs, and the target's own part of it.

    Raises:
        InputError: If the folder has runs of another recipe, or of another model or
            learning rate under this target's name.
    """
    shared = recipe(settings)
    own = {"target": settings.target, **{n: shared.pop(n) for n in OF_TARGET}}
    target_note = folder / TARGETS / f"{settings.target_name}.json"
    _check_note(folder / NOTE, shared, "")
    _check_note(target_note, own, "another target_name or ")


def _check_note(file: Path, given: dict[str, Any], remedy: str) -> None:
    """Write a file of settings, or check that it has the given ones."""
    if not file.exists():
        with locked(file):
            if not file.exists():
                write_json(file, given)
    known = read_object(file, "recipe of a study")
    other = [name for name in given if known.get(name) != given[name]]
    if other:
        raise InputError(
            f"{file}: has other values of {', '.join(other)}; give these or choose "
            f"{remedy}another --out"
        )


def _run_pool(
    settings: StudySettings,
    folder: Path,
    domain: str,
    draw: int,
    on_result: Callable[[Path], None],
) -> None:
    open_methods = [
        method
        for method in map(parse_method, settings.methods)
        if not result_file(folder, settings, domain, draw, method.name).exists()
    ]
    if not open_methods:
        return
    pool = Pool(domain, draw, settings, folder / POOLS)
    if draw == settings.draws[0]:
        _compare_cosines(pool, folder)
    target: Target | None = None
    for method in open_methods:
        file = result_file(folder, settings, domain, draw, method.name)
        with only_process(file) as is_only:
            if not is_only or file.exists():
                continue
            rows = pool.rows(method)
            if known := _repeated(pool, method, rows, file):
                write_json(file, known)
                on_result(file)
                continue
            if target is None:
                answers = folder / ANSWERS / settings.target_name
                with locked(answers):
                    target = Target(settings, pool.data, answers)
                _measure_untouched(target, file.with_name(f"{BASE}.json"))
            print(
                f"{domain} {draw}: {method.name}, {len(rows)} samples", file=sys.stderr
            )
            write_json(file, _result(pool, target, method, rows))
            on_result(file)


def _compare_cosines(pool: Pool, folder: Path) -> None:
    """Write how well the proxy's cosines rank the target's, if they differ."""
    settings = pool.settings
    if settings.target == settings.proxy:
        return
    file = result_file(folder, settings, pool.domain, pool.draw, COSINES)
    with only_process(file) as is_only:
        if is_only and not file.exists():
            bundle = pool.folder / settings.target_name
            write_json(file, cosine_agreement(pool, settings.cosines, bundle))


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
    return {
        "domain": pool.domain,
        "draw": pool.draw,
        "method": method.name,
        "target": target.settings.target_name,
        "samples": len(rows),
        "ids_sha256": _hash(pool, rows),
        "recipe": recipe(target.settings),
        "device": target.device,
        "select_seconds": round(pool.seconds(method), 1),
        "train_seconds": round(seconds, 1),
        **measured,
    }


def _repeated(
    pool: Pool, method: Method, rows: list[int], file: Path
) -> dict[str, Any] | None:
    """Return the result of the selector that `auto` chose, if it has been run."""
    if method.kind != AUTO:
        return None
    known = file.with_name(f"{pool.selector(method)}.json")
    if not known.exists():
        return None
    result = read_object(known, "result of a run")
    if result.get("ids_sha256") != _hash(pool, rows):
        return None
    seconds = round(pool.seconds(method), 1)
    return result | {"method": method.name, "select_seconds": seconds}


def _hash(pool: Pool, rows: list[int]) -> str:
    ids = "\n".join(sorted(pool.data.pool[row].id for row in rows))
    return hashlib.sha256(ids.encode()).hexdigest()


def recipe(settings: StudySettings) -> dict[str, Any]:
    """Return the settings that the results of a target share."""
    # Others choose what is run, or the target, which has a folder of its own.
    left_out = {"domains", "draws", "methods", "target", "target_name", "cosines"}
    values = dataclasses.asdict(settings)
    return {name: value for name, value in values.items() if name not in left_out}
