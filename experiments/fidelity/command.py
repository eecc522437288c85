"""`ogs fidelity`: does the environment tell the truth about real fine-tuning?"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ogs_env.bundle import Bundle, load_bundle
from ogs_env.errors import InputError

if TYPE_CHECKING:
    from ogs_env.experiments.fidelity.training import Recipe

RESULTS = Path(__file__).parent.parent / "results" / "fidelity"
LISTS = ("development", "held-out", "rewarded")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `ogs fidelity`."""
    add = parser.add_argument
    add("--summary", action="store_true",
        help="read the results and print one JSON line a domain")  # fmt: skip
    add("--quick", action="store_true",
        help="a small version: eight subsets of 16, in minutes")  # fmt: skip
    add("--fit", action="store_true",
        help="fit the learner to the development list, judge it on the held-out list, "
        "and write both into the bundle's manifest, a table and a plot")  # fmt: skip
    add("--bundle", default="medical",
        help="bundle of a named domain (%(default)s)")  # fmt: skip
    add("--list", dest="list_", choices=LISTS, default="held-out",
        help="the subsets to fine-tune on (%(default)s)")  # fmt: skip
    add("--seeds", type=int, nargs="+", default=[0],
        help="seeds of each run (%(default)s)")  # fmt: skip
    add("--epochs", type=int, default=1,
        help="of each run; more than one is a list of its own")  # fmt: skip
    add("--agent", metavar="FOLDER",
        help="also fine-tune on what this trained agent picks")  # fmt: skip
    add("--results", type=Path, default=RESULTS, metavar="FOLDER",
        help="one file a run is read from and written to here")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Run `ogs fidelity`."""
    from ogs_env.experiments.fidelity.report import summarise

    if arguments.summary:
        folders = sorted(path.parent for path in arguments.results.glob("*/held-out"))
        if not folders:
            raise InputError(
                f"{arguments.results}: holds no results of a held-out list; run "
                "`ogs fidelity`"
            )
        for folder in folders:
            bundle = load_bundle(folder.name)
            print(json.dumps(summarise(bundle, folder / "held-out")))
        return
    bundle = load_bundle(arguments.bundle)
    if arguments.quick:
        with tempfile.TemporaryDirectory() as folder:
            _quick(bundle, Path(folder))
        return
    from ogs_env.experiments.fidelity.training import Recipe

    if arguments.epochs < 1:
        raise InputError(f"--epochs: is {arguments.epochs}; expected 1 or more")
    folder = arguments.results / bundle.name
    if arguments.fit:
        _fit(bundle, folder)
        return
    recipe = Recipe(epochs=arguments.epochs)
    _study(bundle, folder, arguments.list_, arguments.seeds, arguments.agent, recipe)


def _study(
    bundle: Bundle,
    folder: Path,
    name: str,
    seeds: list[int],
    agent: str | None,
    recipe: "Recipe",
) -> None:
    import torch
    from tqdm import tqdm

    from ogs_env.experiments.fidelity import subsets
    from ogs_env.experiments.fidelity.runs import Study

    torch.set_num_threads(1)
    makers = (subsets.development, subsets.held_out, subsets.rewarded)
    chosen = dict(zip(LISTS, makers, strict=True))[name](bundle)
    if agent is not None:
        chosen += subsets.of_agent(bundle, agent, name)
    # What was run once stays in the list, though a learner fitted anew, or another
    # agent, would pick other samples by now.
    fixed = subsets.of_results(bundle, folder / name)
    chosen = [fixed.get(subset.name, subset) for subset in chosen]
    study = Study(bundle, recipe)
    study.base(folder)
    place = folder / (name if recipe.epochs == 1 else f"{name}-{recipe.epochs}-epochs")
    jobs = [(subset, seed) for seed in seeds for subset in chosen]
    for subset, seed in tqdm(jobs, desc=place.name, unit="run"):
        study.run(subset, seed, place)


def _quick(bundle: Bundle, folder: Path) -> None:
    import torch
    from tqdm import tqdm

    from ogs_env.experiments.fidelity import subsets
    from ogs_env.experiments.fidelity.report import correlation, markdown, table
    from ogs_env.experiments.fidelity.runs import Study
    from ogs_env.experiments.fidelity.training import Recipe

    torch.set_num_threads(1)
    study = Study(bundle, Recipe(), retention=64, paragraphs=16)
    study.base(folder)
    for subset in tqdm(subsets.quick(bundle), desc="quick", unit="run"):
        study.run(subset, 0, folder / "quick")
    found = table(bundle, folder / "quick")
    print(markdown(found))
    for name, predicted in found.predicted.items():
        real = found.real["test" if name == "domain" else name]
        result = correlation(predicted, real)
        print(json.dumps({"measure": name, "subsets": len(found.names), **result}))


def _fit(bundle: Bundle, folder: Path) -> None:
    from ogs_env.experiments.fidelity.fitting import (
        fitted_learner,
        write_fidelity,
        write_learner,
    )
    from ogs_env.experiments.fidelity.foresight import foresight
    from ogs_env.experiments.fidelity.report import markdown, plot, summarise, table
    from ogs_env.files import write_json, write_text

    # Without a development list of its own a bundle keeps the response it has.
    lists = [name for name in LISTS[:2] if (folder / name).is_dir()]
    if LISTS[0] in lists:
        write_learner(bundle, fitted_learner(bundle, table(bundle, folder / LISTS[0])))
        bundle = load_bundle(bundle.path)
    print(json.dumps(bundle.manifest["learner"]), file=sys.stderr)
    write_fidelity(bundle, folder / LISTS[1])
    for name in lists:
        found = table(bundle, folder / name)
        summary = summarise(bundle, folder / name)
        write_text(folder / f"{name}.md", markdown(found) + "\n")
        plot(found, summary, folder / f"{name}.png")
        print(json.dumps(summary))
    write_json(folder / "foresight.json", foresight(bundle))
