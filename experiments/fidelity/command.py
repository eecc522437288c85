"""The command `ogs fidelity`: compare predictions with real fine-tuning."""

import itertools
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ogs_env.errors import InputError

RESULTS = Path(__file__).parent.parent / "results" / "fidelity"
DEVELOPMENT, TENTH = "development", "tenth"
LISTS = (DEVELOPMENT, "held-out", TENTH)
FITTED_POOL = "medical"
FEWEST = 3
"""Minimum number of subsets of a list, since two have a correlation of 1 or -1."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `ogs fidelity`.

    Attributes:
        summary: Read the results, print one JSON line per pool and recipe.
        quick: Run a small version on texts of packages: subsets of 16 samples.
        terms: Recompute the learner's terms of all subsets, and draw the plots. Needs
            the bundles; summaries of the repository's results go into the manifests of
            the shipped bundles.
        fit: Fit the learner to the development list; print its constants and an
            ablation of its predictions.
        pool: medical, legal, financial or icd10.
        list_: Subsets to fine-tune on: 48 samples for one epoch, or, with tenth, a
            tenth of the pool for three epochs.
        seeds: Seeds of each run.
        results: Folder of the results, one file per run; by default the repository's.
    """

    summary: bool = False
    quick: bool = False
    terms: bool = False
    fit: bool = False
    pool: str = FITTED_POOL
    list_: str = field(default="held-out", metadata={"choices": LISTS})
    seeds: tuple[int, ...] = (0,)
    results: Path = RESULTS

    def __post_init__(self) -> None:
        if self.summary + self.quick + self.terms + self.fit > 1:
            raise InputError("--summary, --quick, --terms, --fit: give one of them")
        if min(self.seeds) < 0:
            raise InputError(f"--seeds: has {min(self.seeds)}; expected 0 or more")


def run(options: Options) -> None:
    """Run `ogs fidelity`."""
    from ogs_env.experiments.fidelity.pools import check_pool

    check_pool(options.pool)
    if options.summary:
        _summary(options.results)
    elif options.fit:
        _fit(options.results)
    elif options.terms:
        _terms(options.results)
    elif options.quick:
        with tempfile.TemporaryDirectory() as scratch:
            _quick(Path(scratch))
    else:
        _study(options.pool, options.results, options.list_, options.seeds)


def _study(pool: str, results: Path, name: str, seeds: Sequence[int]) -> None:
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
    from ogs_env.experiments.fidelity.drawing import EXPLANATION, markdown, plot
    from ogs_env.experiments.fidelity.pools import ICD10, pool_bundle, write_fidelity
    from ogs_env.experiments.fidelity.report import summarise
    from ogs_env.experiments.fidelity.table import table
    from ogs_env.experiments.fidelity.terms import compute_terms, write_terms
    from ogs_env.files import check_writable, write_text

    for place, folders in itertools.groupby(_lists(results), lambda f: f.parent):
        check_writable(place / f"{TENTH}.md")
        bundle, summaries = pool_bundle(place.name, results), {}
        for folder in folders:
            write_terms(compute_terms(bundle, folder), folder)
            changes, summary = table(folder), summarise(folder)
            text = f"{EXPLANATION}\n{markdown(changes)}\n"
            write_text(place / f"{folder.name}.md", text)
            plot(changes, summary, place / f"{folder.name}.png")
            if folder.name != DEVELOPMENT:  # which the learner was fitted to
                summaries[folder.name] = summary
        # Shipped bundles have the summaries of the repository's results.
        if summaries and place.name != ICD10 and results.resolve() == RESULTS.resolve():
            write_fidelity(bundle, summaries)


def _fit(results: Path) -> None:
    from ogs_env.experiments.fidelity.ablation import EXPLANATION, ablation
    from ogs_env.experiments.fidelity.fitting import (
        fitted_constants,
        fitted_learner,
        fitted_untouched,
    )
    from ogs_env.experiments.fidelity.table import table
    from ogs_env.experiments.fidelity.terms import read_terms
    from ogs_env.files import check_writable, write_text

    ablation_file = results / "ablation.md"
    check_writable(ablation_file)
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
    write_text(ablation_file, f"{EXPLANATION}\n{text}\n")
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
