"""The command `ogs fidelity`: compare predictions with real fine-tuning."""

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path

from ogs_env.errors import InputError

RESULTS = Path(__file__).parent.parent / "results" / "fidelity"
DEVELOPMENT, TENTH = "development", "tenth"
LISTS = (DEVELOPMENT, "held-out", TENTH)
FITTED_POOL = "medical"
FEWEST = 3
"""Minimum number of subsets of a list, since two have a correlation of 1 or -1."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `ogs fidelity`."""
    add = parser.add_argument
    add("--summary", action="store_true",
        help="read the results, print one JSON line per pool and recipe")  # fmt: skip
    add("--quick", action="store_true",
        help="small version on texts of packages: subsets of 16 samples")  # fmt: skip
    add("--terms", action="store_true",
        help="recompute the learner's terms of all subsets, and draw the plots; needs "
        "the bundles; summaries of the repository's results go into the manifests of "
        "the shipped bundles")  # fmt: skip
    add("--fit", action="store_true",
        help="fit the learner to the development list; print its constants and an "
        "ablation of its predictions")  # fmt: skip
    add("--pool", default=FITTED_POOL,
        help="medical, legal, financial or icd10 (%(default)s)")  # fmt: skip
    add("--list", dest="list_", choices=LISTS, default="held-out",
        help="subsets to fine-tune on: 48 samples for one epoch, or, with tenth, a "
        "tenth of the pool for three epochs (%(default)s)")  # fmt: skip
    add("--seeds", type=int, nargs="+", default=[0],
        help="seeds of each run (%(default)s)")  # fmt: skip
    add("--results", type=Path, default=RESULTS, metavar="FOLDER",
        help="folder of the results, one file per run")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Run `ogs fidelity`."""
    from ogs_env.experiments.fidelity.pools import check_pool

    check_pool(arguments.pool)
    if min(arguments.seeds) < 0:
        raise InputError(f"--seeds: has {min(arguments.seeds)}; expected 0 or more")
    if arguments.summary:
        _summary(arguments.results)
    elif arguments.fit:
        _fit(arguments.results)
    elif arguments.terms:
        _terms(arguments.results)
    elif arguments.quick:
        with tempfile.TemporaryDirectory() as scratch:
            _quick(Path(scratch))
    else:
        _study(arguments.pool, arguments.results, arguments.list_, arguments.seeds)


def _study(pool: str, results: Path, name: str, seeds: list[int]) -> None:
    import torch
    from tqdm import tqdm

    from ogs_env.experiments.fidelity import subsets
    from ogs_env.experiments.fidelity.pools import pool_bundle, pool_data
    from ogs_env.experiments.fidelity.runs import Study
    from ogs_env.experiments.fidelity.training import Recipe

    torch.set_num_threads(1)
    bundle, folder = pool_bundle(pool, results), results / pool
    functions = (subsets.development, subsets.held_out, subsets.tenth)
    chosen = dict(zip(LISTS, functions, strict=True))[name](bundle)
    # Subsets with results stay as they are, even if a refitted learner or another agent
    # would pick other samples now.
    existing = subsets.of_results(bundle, folder / name)
    chosen = [existing.get(subset.name, subset) for subset in chosen]
    study = Study(bundle, pool_data(pool), Recipe(epochs=3 if name == TENTH else 1))
    study.base(folder)
    jobs = [(subset, seed) for seed in seeds for subset in chosen]
    for subset, seed in tqdm(jobs, desc=f"{pool}, {name}", unit="run"):
        study.run(subset, seed, folder / name)


def _quick(folder: Path) -> None:
    import torch
    from tqdm import tqdm

    from ogs_env.experiments.fidelity import subsets
    from ogs_env.experiments.fidelity.drawing import markdown
    from ogs_env.experiments.fidelity.pools import quick_pool
    from ogs_env.experiments.fidelity.report import summarise
    from ogs_env.experiments.fidelity.runs import Study
    from ogs_env.experiments.fidelity.table import table
    from ogs_env.experiments.fidelity.terms import compute_terms, write_terms
    from ogs_env.experiments.fidelity.training import Recipe

    torch.set_num_threads(1)
    data, bundle = quick_pool(folder / "bundle")
    runs = folder / "packages" / "quick"
    study = Study(bundle, data, Recipe(), paragraphs=16, grammar=False)
    study.base(runs.parent)
    for subset in tqdm(subsets.quick(bundle), desc="quick", unit="run"):
        study.run(subset, 0, runs)
    write_terms(compute_terms(bundle, runs), runs)
    print(markdown(table(runs)))
    print(json.dumps(summarise(runs)))


def _summary(results: Path) -> None:
    from ogs_env.experiments.fidelity.report import summarise

    for folder in _with_terms(results):
        print(json.dumps(summarise(folder)))


def _terms(results: Path) -> None:
    from ogs_env.experiments.fidelity.drawing import markdown, plot
    from ogs_env.experiments.fidelity.pools import ICD10, pool_bundle, write_fidelity
    from ogs_env.experiments.fidelity.report import summarise
    from ogs_env.experiments.fidelity.table import table
    from ogs_env.experiments.fidelity.terms import compute_terms, write_terms
    from ogs_env.files import write_text

    for place, folders in itertools.groupby(_lists(results), lambda f: f.parent):
        bundle, summaries = pool_bundle(place.name, results), {}
        for folder in folders:
            write_terms(compute_terms(bundle, folder), folder)
            changes, summary = table(folder), summarise(folder)
            write_text(place / f"{folder.name}.md", markdown(changes) + "\n")
            plot(changes, summary, place / f"{folder.name}.png")
            if folder.name != DEVELOPMENT:  # which the learner was fitted to
                summaries[folder.name] = summary
        # Shipped bundles have the summaries of the repository's results.
        if summaries and place.name != ICD10 and results.resolve() == RESULTS.resolve():
            write_fidelity(bundle, summaries)


def _fit(results: Path) -> None:
    from ogs_env.experiments.fidelity.ablation import ablation
    from ogs_env.experiments.fidelity.fitting import (
        fitted_constants,
        fitted_learner,
        fitted_untouched,
    )
    from ogs_env.experiments.fidelity.table import table
    from ogs_env.experiments.fidelity.terms import read_terms
    from ogs_env.files import write_text

    development = results / FITTED_POOL / DEVELOPMENT
    terms, real = read_terms(development), table(development)
    others = {
        f"{folder.parent.name}, {folder.name}": folder
        for folder in _with_terms(results)
        if folder != development
    }
    # The recipe that users run: with the development list's single epoch, terms linear
    # and quadratic in the distance cannot be distinguished.
    further = [name for name in (f"{FITTED_POOL}, {TENTH}",) if name in others]
    lists = [(read_terms(others[name]), table(others[name])) for name in further]
    trajectory, untouched = {}, {}
    for kind in ("own", "reference"):
        trajectory[kind] = fitted_constants(fitted_learner(terms, real, kind))
        untouched[kind] = fitted_constants(fitted_untouched(terms, real, kind, lists))
    known = {"steps": terms.steps, "norms": terms.norms}
    print(json.dumps({**known, **trajectory, "untouched": untouched}, indent=2))
    text = ablation(development, others, further)
    write_text(results / "ablation.md", text + "\n")
    print(text)


def _lists(results: Path) -> list[Path]:
    """Return the folders of lists with enough runs; print a note for the others."""
    folders = sorted({file.parent for file in results.glob("*/*/*--s*.json")})
    if not folders:
        raise InputError(f"{results}: holds no results; run `ogs fidelity`")
    complete = []
    for folder in folders:
        names = {file.name.rpartition("--s")[0] for file in folder.glob("*--s*.json")}
        if len(names) < FEWEST:
            _note(f"{folder}: left out: has runs of {len(names)} subsets of {FEWEST}")
        else:
            complete.append(folder)
    return complete


def _with_terms(results: Path) -> list[Path]:
    """Return the folders of lists with terms; print a note for the others."""
    from ogs_env.experiments.fidelity.terms import TERMS

    folders = _lists(results)
    complete = [folder for folder in folders if (folder / TERMS).exists()]
    for folder in folders:
        if folder not in complete:
            _note(f"{folder}: left out: no {TERMS} yet; run `ogs fidelity --terms`")
    return complete


def _note(text: str) -> None:
    print(f"ogs: note: {text}", file=sys.stderr)
