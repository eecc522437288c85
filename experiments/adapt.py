"""The main job, from files to a fine-tuned model: the command `ogs adapt`.

A part of the pool becomes an environment. A Navigator is trained there and compared
with the selectors that read no texts. What is best there selects from the whole pool,
and the target is fine-tuned on that.
"""

import argparse
import dataclasses
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ogs_env.agents.deployment import AgentSelector, load_selector
from ogs_env.agents.episodes import make, summarise
from ogs_env.agents.selector import READERS, SELECTORS, Selector, make_selector
from ogs_env.agents.training import TrainSettings, described, is_trained, train
from ogs_env.bundle import Bundle
from ogs_env.data.domains import DomainData
from ogs_env.data.pairs import grammar_file, grammar_pairs
from ogs_env.errors import InputError, unknown_name
from ogs_env.experiments.adapt_report import write_report
from ogs_env.experiments.comparison import compare
from ogs_env.experiments.finetune import FinetuneSettings, finetune, table
from ogs_env.experiments.stages import Stages
from ogs_env.files import read_json, write_json
from ogs_env.selection import Selection, parse_budget, select
from ogs_env.sketching.basis import share_basis
from ogs_env.sketching.command import PATH_CHECKPOINTS, add_data_arguments, own_data
from ogs_env.sketching.proxy import load_model
from ogs_env.sketching.settings import SketchSettings
from ogs_env.sketching.sketcher import check, sketch
from ogs_env.sketching.warmup import BATCH

AUTO, NAVIGATOR = "auto", "navigator"
ENVIRONMENT_SAMPLES = 512
"""Of the pool, at most, in the environment."""
FEWEST = 64
"""Samples that make an environment, with a train and a test split."""
FEWEST_OF_DOMAIN = 8
"""Samples of the domain in dev and in test."""
NOTE, COMPARISON, RESULT = "adapt.json", "comparison.json", "result.json"
# The others choose nothing, need a field or texts, or see what an environment knows.
_COMPARED = [
    name for name in SELECTORS if name not in {"all", "metadata", "oracle", *READERS}
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ogs adapt`."""
    tuning = FinetuneSettings()
    add = parser.add_argument
    add("pool", type=Path, metavar="POOL", help="JSON lines of candidates")
    add("--out", type=Path, required=True, help="folder for all it makes")
    # A raw % in argparse's help is a format character.
    add("--budget", default="10%", help="how many to select: 64, or 10%% of the pool")
    add(
        "--environment-samples",
        type=int,
        help="samples of the pool, drawn at random, that become the environment; by "
        f"default {ENVIRONMENT_SAMPLES}, or all of a smaller pool",
    )
    add(
        "--agent",
        default=AUTO,
        help="what selects: auto for what is best in the environment, navigator, a "
        "selector's name or an agent's folder",
    )
    add(
        "--compare",
        nargs="*",
        default=[],
        metavar="SELECTOR",
        help="selectors on whose choice the target is fine-tuned as well",
    )
    add("--draws", type=int, default=1, help="selections by random, where compared")
    add("--seed", type=int, default=0)
    add_data_arguments(parser.add_argument_group("data"))
    how = parser.add_argument_group("training").add_argument
    how("--proxy", default=SketchSettings().proxy, help="is sketched: id or folder")
    how(
        "--train-steps",
        type=int,
        default=600_000,
        help="steps of the environment that the Navigator learns from",
    )
    how("--model", default=tuning.model, help="the target: id or folder")
    how("--epochs", type=int, default=3, help="of fine-tuning")
    how("--learning-rate", type=float, default=tuning.learning_rate, help="peak")
    how(
        "--generate",
        type=int,
        default=tuning.generate,
        metavar="N",
        help="also generate answers to N retention samples that end in '#### number', "
        "and report how many are right",
    )


def run(arguments: argparse.Namespace) -> None:
    """Run the stages; those that are done already are not repeated."""
    job = _Job(arguments)
    environment, pool = job.sketch()
    job.train(environment)
    chosen = job.choose(environment)
    selections = job.select(pool, chosen)
    results = job.finetune(selections)
    job.report(pool, selections, results)


class _Job:
    """One run of the command."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.out = arguments, arguments.out
        self.data = own_data(arguments, arguments.pool, arguments.out.name)
        self.budget = parse_budget(arguments.budget, len(self.data.pool))
        self.samples = self._environment_samples()
        self.compared = self._compared()
        # Wrong settings are told before hours of work.
        self.tuning = FinetuneSettings(
            model=arguments.model,
            epochs=arguments.epochs,
            learning_rate=arguments.learning_rate,
            seed=arguments.seed,
            generate=arguments.generate,
        )
        if arguments.agent not in (AUTO, NAVIGATOR):
            load_selector(arguments.agent)
        self._check_domain()
        self.settings = SketchSettings(
            proxy=arguments.proxy,
            checkpoints=_checkpoints(self.samples),
            seed=arguments.seed,
        )
        check(self.data, self.settings)
        self._note()
        self.stages = Stages(self.out, 6)

    def _environment_samples(self) -> int:
        pool, asked = len(self.data.pool), self.arguments.environment_samples
        count = min(ENVIRONMENT_SAMPLES, pool) if asked is None else asked
        if pool < FEWEST:
            raise InputError(
                f"{self.arguments.pool}: has {pool} samples; expected at least "
                f"{FEWEST}, of which an environment can be made"
            )
        if not FEWEST <= count <= pool:
            raise InputError(
                f"--environment-samples: {count}; expected {FEWEST} to the {pool} "
                "samples of the pool"
            )
        return count

    def _check_domain(self) -> None:
        least = min(len(self.data.dev), len(self.data.test))
        if least < FEWEST_OF_DOMAIN:
            given = self.arguments.test or self.arguments.domain
            raise InputError(
                f"{given}: leaves {least} samples of the domain to select by or to "
                f"report on; expected at least {FEWEST_OF_DOMAIN} of each"
            )

    def _compared(self) -> dict[str, tuple[str, int]]:
        """Return selector and seed of the further selections by name."""
        found: dict[str, tuple[str, int]] = {}
        if self.arguments.draws < 1:
            raise InputError(f"--draws: {self.arguments.draws}; expected at least 1")
        for name in dict.fromkeys(self.arguments.compare):
            if name not in _COMPARED:
                raise unknown_name("selector to compare with", name, _COMPARED)
            draws = self.arguments.draws if name == "random" else 1
            for draw in range(draws):
                label = name if draws == 1 else f"{name}-{draw}"
                found[label] = name, self.arguments.seed + draw
        return found

    def _note(self) -> None:
        """Write what was asked for, or refuse a folder of another run."""
        given = {
            key: str(value) if isinstance(value, Path) else value
            for key, value in vars(self.arguments).items()
            if key != "out"
        }
        file = self.out / NOTE
        if file.exists():
            known = read_json(file, "note of a run of `ogs adapt`")
            other = [key for key in given if known.get(key) != given[key]]
            if other:
                raise InputError(
                    f"{self.out}: holds a run with other settings "
                    f"({', '.join(other)}); choose another --out or delete it"
                )
        else:
            # A model that cannot be had is told now, not after hours.
            for model in dict.fromkeys([self.arguments.proxy, self.arguments.model]):
                load_model(model)
            write_json(file, given)

    def sketch(self) -> tuple[Bundle, Bundle]:
        """Sketch the environment and the pool; a small pool is its own environment."""
        count, rest = self.samples, len(self.data.pool)
        rng = np.random.default_rng([self.arguments.seed, 61])
        rows = np.sort(rng.permutation(rest)[:count])
        part = [self.data.pool[row] for row in rows]
        environment = self.stages.do(
            "environment",
            f"make an environment of {count} of {rest} samples: sketch along a warm-up",
            lambda: self._sketch(part, "environment", self.settings),
        )
        if count == rest:
            self.stages.skip("sketch", "the environment holds the whole pool")
            return environment, environment
        # A selection needs no learner, and so no path and no own answers.
        settings = dataclasses.replace(
            self.settings, checkpoints=(), anchor_answers="reference"
        )
        pool = self.stages.do(
            "sketch",
            f"sketch the pool, {rest} samples, at the untouched model",
            lambda: self._sketch(self.data.pool, "pool", settings),
        )
        if environment.basis.tobytes() != pool.basis.tobytes():
            share_basis([environment.path, pool.path])
        return environment, pool

    def _sketch(self, pool: list[Any], name: str, settings: SketchSettings) -> Bundle:
        data: DomainData = dataclasses.replace(self.data, name=name, pool=pool)
        command = shlex.join(["ogs", *sys.argv[1:]])
        return sketch(data, self.out / name, settings, command)

    def train(self, environment: Bundle) -> None:
        """Train a Navigator in the environment."""
        share = self.budget / len(self.data.pool)
        kwargs: dict[str, Any] = {"bundle": str(environment.path)}
        counts = described(make("OGS-Custom-v0", kwargs))["environment"]
        stream = counts["hands"] * counts["hand_size"]
        kwargs["budget"] = max(1, round(share * stream))
        settings = TrainSettings(
            env="OGS-Custom-v0",
            env_kwargs=kwargs,
            seed=self.arguments.seed,
            seconds=None,
            steps=self.arguments.train_steps,
        )
        folder = self.out / NAVIGATOR

        def work() -> None:
            if not is_trained(settings, folder):
                train(settings, folder)

        what = (
            f"train a Navigator there: {kwargs['budget']} picks of {counts['hands']} "
            f"hands of {counts['hand_size']}"
        )
        self.stages.do("train", what, work)

    def choose(self, environment: Bundle) -> str:
        """Compare the selectors in the environment; return what deploys."""
        selectors: dict[str, Selector] = {n: make_selector(n) for n in _COMPARED}
        selectors[NAVIGATOR] = AgentSelector(self.out / NAVIGATOR)
        values = self.stages.do(
            "compare",
            f"compare {len(selectors)} selectors on samples that it has not met",
            lambda: compare(
                environment,
                selectors,
                self.budget / len(self.data.pool),
                self.arguments.seed,
            ),
        )
        summary = {name: summarise(own) for name, own in values.items()}
        write_json(self.out / COMPARISON, summary)
        ranked = sorted(summary, key=lambda name: -summary[name]["mean"])
        print(f"\n{'selector':<16}{'value':>8}  95 % interval", file=sys.stderr)
        for name in ranked:
            own = summary[name]
            span = f"[{own['low']:.2f}, {own['high']:.2f}]"
            print(f"{name:<16}{own['mean']:>8.2f}  {span}", file=sys.stderr)
        chosen = ranked[0] if self.arguments.agent == AUTO else self.arguments.agent
        print(f"\nwhat selects from the pool: {chosen}", file=sys.stderr)
        return str(chosen)

    def select(self, pool: Bundle, chosen: str) -> dict[str, Selection]:
        """Select from the pool; return selections by name, the chosen one first."""
        seed = self.arguments.seed
        asked = {Path(chosen).name: (chosen, seed), **self.compared}
        texts = {sample.id: sample for sample in self.data.pool}

        def work() -> dict[str, Selection]:
            found = {}
            for name, (selector, seed) in asked.items():
                given = self.out / NAVIGATOR if selector == NAVIGATOR else selector
                made = select(
                    load_selector(given), pool, self.budget, seed=seed, agent=name
                )
                made.save(self.out / "selections" / name, texts)
                found[name] = made
            return found

        what = f"select {self.budget} of {len(pool.pool)} samples"
        return dict(self.stages.do("select", what, work))

    def finetune(self, selections: dict[str, Selection]) -> list[dict[str, Any]]:
        """Fine-tune the target on every selection."""
        texts = {sample.id: sample for sample in self.data.pool}
        retention = [s for own in self.data.retention.values() for s in own]

        grammar = grammar_pairs() if grammar_file() else []

        def work() -> list[dict[str, Any]]:
            results: list[dict[str, Any]] = []
            for name, selection in selections.items():
                print(f"fine-tune on what {name} selected", file=sys.stderr)
                result = finetune(
                    [texts[i] for i in selection.ids],
                    self.data.test,
                    retention,
                    self.tuning,
                    self.out / "finetuned" / name,
                    grammar=grammar,
                    selector=self.compared.get(name, (name, 0))[0],
                    before=results[0]["before"] if results else None,
                )
                results.append(result)
            return results

        what = f"fine-tune {self.tuning.model}"
        return list(self.stages.do("fine-tune", what, work))

    def report(
        self,
        pool: Bundle,
        selections: dict[str, Selection],
        results: list[dict[str, Any]],
    ) -> None:
        """Write result and page, and print the table."""
        sources = {
            name: Counter(selection.sources).most_common()
            for name, selection in selections.items()
        }
        comparison = read_json(self.out / COMPARISON, "comparison of selectors")
        seconds = self.stages.seconds
        write_json(
            self.out / RESULT,
            {
                "results": results,
                "comparison": comparison,
                "sources": sources,
                "seconds": seconds,
            },
        )
        page = self.out / "report.html"
        write_report(
            page,
            results=results,
            comparison=comparison,
            selections=selections,
            pool=pool,
            texts={sample.id: sample for sample in self.data.pool},
            settings=read_json(self.out / NOTE, "note of the run"),
            seconds=seconds,
        )
        print("\n" + table(results))
        for name, counts in sources.items():
            shown = ", ".join(f"{count} {source}" for source, count in counts)
            print(f"{name}: {shown}")
        print(f"\nreport: {page}")


def _checkpoints(samples: int) -> tuple[int, ...]:
    """Return the warm-up's checkpoints: it meets each sample once at most."""
    longest = PATH_CHECKPOINTS[-1]
    last = min(longest, samples // BATCH)
    return tuple(step * last // longest for step in PATH_CHECKPOINTS)
