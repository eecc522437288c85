"""From a user's files to a fine-tuned model: the command `ogs adapt`.

It makes an environment of the pool, trains a Navigator in it, compares the Navigator
with other selectors among the candidates that are most like the domain, and fine-tunes
the target on the selection of the best one.
"""

import dataclasses
import functools
import json
import shlex
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ogs_env.agents.baselines.oracle import OracleSelector
from ogs_env.agents.deployment import AgentSelector, load_selector
from ogs_env.agents.screening import SCREENED, ScreenedSelector
from ogs_env.agents.selector import Selector, make_selector
from ogs_env.bundle import Bundle
from ogs_env.data.pairs import grammar_file, grammar_pairs
from ogs_env.data.record_files import stem
from ogs_env.errors import InputError
from ogs_env.experiments.adapt_options import (
    AUTO,
    NAVIGATOR,
    Options,
    auto_selectors,
)
from ogs_env.experiments.adapt_report import write_report
from ogs_env.experiments.comparison import (
    best_selector,
    compare,
    comparison_summary,
    comparison_table,
)
from ogs_env.experiments.contrasts import contrasts, lines
from ogs_env.experiments.estimate import estimate
from ogs_env.experiments.finetune import FinetuneSettings, finetune, table
from ogs_env.experiments.limit import (
    MARGIN,
    ForgettingLimit,
    forgetting_limit,
    read_limit,
)
from ogs_env.experiments.own_environment import navigator_settings
from ogs_env.experiments.stages import Stages
from ogs_env.experiments.tracking.finetuning import (
    log_comparison,
    log_finetuning,
    log_results,
)
from ogs_env.experiments.tracking.logger import Logger
from ogs_env.experiments.tracking.opening import identity, opened
from ogs_env.experiments.tracking.training import trained
from ogs_env.files import exclusive, read_json, read_object, write_json
from ogs_env.lm.loading import load_model
from ogs_env.options import settings_of
from ogs_env.selection import Selection, parse_budget, select
from ogs_env.sketching.command import own_data
from ogs_env.sketching.settings import SketchSettings
from ogs_env.sketching.sketcher import check, sketch

ORACLE = "oracle"
FEWEST = 64
"""Samples that make an environment, with a train and a test split."""
SHOWN = 8
"""Retention samples per capability that the environment's infos are measured on."""
FEWEST_OF_DOMAIN = 8
"""Samples of the domain in dev and in test."""
ENVIRONMENT = "environment"
NOTE, COMPARISON, RESULT = "adapt.json", "comparison.json", "result.json"
LIMIT = "limit.json"


def run(options: Options) -> None:
    """Run the stages; those that are done already are not repeated."""
    with exclusive(options.out):
        job = _Job(options)
        given, out = job.given, options.out
        with opened(options.report_to, out, given, command="adapt") as log:
            job.start(log)
            environment = job.sketch()
            limit = job.weigh(environment)
            job.train(environment, limit)
            chosen = job.choose(environment, limit)
            selections = job.select(environment, chosen, limit)
            results = job.finetune(selections)
            job.report(environment, selections, results)


class _Job:
    """One run of the command."""

    def __init__(self, options: Options) -> None:
        self.options, self.out = options, options.out
        name = stem(options.pool)
        self.data = own_data(options, options.pool, name, options.seed)
        self.budget = parse_budget(options.budget, len(self.data.pool))
        self.compared = options.compared()
        self.tuning = settings_of(FinetuneSettings, options)
        # Errors are reported before hours of work.
        named = options.agent.removeprefix(SCREENED)
        if options.agent != AUTO and named != NAVIGATOR:
            load_selector(named)
        self._check_sizes()
        # Gradients of the untouched model tell what a selection does about as well as
        # those of a trajectory do (`ogs fidelity`), at a third of the time. They must
        # be of the layers that are trained: others change unseen.
        self.settings = SketchSettings(
            proxy=options.proxy,
            layers=options.layers,
            checkpoints=(0,),
            epochs=options.epochs,
            max_tokens=options.max_tokens,
            seed=options.seed,
        )
        check(self.data, self.settings)
        self.given = self._given()
        self._check_folder()
        self.stages = Stages(self.out, 6)
        self.log = Logger()

    def _check_sizes(self) -> None:
        pool = len(self.data.pool)
        if pool < FEWEST:
            raise InputError(
                f"{self.options.pool}: has {pool} samples; expected at least "
                f"{FEWEST}, of which an environment can be made"
            )
        least = min(len(self.data.dev), len(self.data.test))
        if least < FEWEST_OF_DOMAIN:
            given = self.options.test or self.options.domain
            raise InputError(
                f"{given}: leaves {least} samples of the domain to select by or to "
                f"report on; expected at least {FEWEST_OF_DOMAIN} of each"
            )

    def _given(self) -> dict[str, Any]:
        """Return the options that the results depend on."""
        given = json.loads(json.dumps(dataclasses.asdict(self.options), default=str))
        del given["out"], given["report_to"]
        return dict(given)

    def _check_folder(self) -> None:
        """Refuse a folder of another run, or models that cannot be loaded."""
        file = self.out / NOTE
        if file.exists():
            known = read_object(file, "note of a run of `ogs adapt`")
            other = [key for key in self.given if known.get(key) != self.given[key]]
            if other:
                raise InputError(
                    f"{self.out}: holds a run with other settings "
                    f"({', '.join(other)}); choose another --out or delete it"
                )
        else:
            # A model that cannot be loaded is an error now, not after hours of work.
            if self.options.proxy != self.options.model:
                load_model(self.options.proxy)
            self._announce()

    def _announce(self) -> None:
        """Load the target, and say how long it will take."""
        runs = 1 + len(self.compared)
        times = estimate(self.data, self.tuning, self.budget, runs)
        sketching, tuning = (seconds / 60 for seconds in times)
        print(
            f"about {sketching:.0f} min to sketch {len(self.data.pool):,} samples and "
            f"{tuning:.0f} min to fine-tune on {runs} selections of {self.budget}",
            file=sys.stderr,
        )

    def start(self, log: Logger) -> None:
        """Write the options into the folder; log the stages to `log`."""
        self.log = log
        write_json(self.out / NOTE, self.given)

    def _do(self, name: str, what: str, work: Callable[[], Any]) -> Any:
        """Do one stage, and log how long it took."""
        result = self.stages.do(name, what, work)
        seconds = self.stages.seconds
        number = list(seconds).index(name) + 1
        self.log.numbers({f"seconds/{name}": seconds[name]}, number, "stage")
        return result

    def sketch(self) -> Bundle:
        """Make the environment: sketch the pool."""
        # Retention samples only serve the environment's infos, so a few are enough.
        few = {name: own[:SHOWN] for name, own in self.data.retention.items()}
        bundle: Bundle = self._do(
            "sketch",
            f"make an environment: sketch the pool, {len(self.data.pool)} samples",
            lambda: sketch(
                dataclasses.replace(self.data, retention=few),
                self.out / ENVIRONMENT,
                self.settings,
                shlex.join(["ogs", *sys.argv[1:]]),
            ),
        )
        self.log.config(identity(bundle))
        return bundle

    def weigh(self, environment: Bundle) -> ForgettingLimit:
        """Find the reward weight of `forgetting` that keeps to the limit."""
        file, seed = self.out / LIMIT, self.options.seed

        def work() -> ForgettingLimit:
            if file.exists():
                return read_limit(file)
            limit = forgetting_limit(environment, self.budget, seed)
            write_json(file, dataclasses.asdict(limit))
            return limit

        what = f"weigh forgetting: at most {MARGIN:.0%} of that of random picks"
        limit: ForgettingLimit = self._do("weigh", what, work)
        print(
            f"weight {limit.weight:.3g}: greedy selection is predicted to forget "
            f"{limit.predicted:.1f} %, the limit is {limit.limit:.1f} %",
            file=sys.stderr,
        )
        return limit

    def train(self, environment: Bundle, limit: ForgettingLimit) -> None:
        """Train a Navigator in the environment."""
        share = self.budget / len(self.data.pool)
        settings = navigator_settings(
            environment,
            share,
            limit.weights,
            self.options.train_steps,
            self.options.seed,
        )
        folder = self.out / NAVIGATOR
        self._do(
            "train",
            f"train a Navigator there: {settings.env_kwargs['budget']} picks",
            lambda: trained(settings, folder, self.log, f"{NAVIGATOR}/"),
        )

    def choose(self, environment: Bundle, limit: ForgettingLimit) -> str:
        """Compare the selectors in the environment; return the one to deploy.

        They select from the candidates whose texts are most like the domain's. By
        default, the one of highest value is chosen.
        """
        names = auto_selectors(NAVIGATOR)
        selectors = {name: self._selector(name, limit) for name in names}
        setting = self.budget, self.options.seed, limit.weights
        draws = self._do(
            "compare",
            f"compare {len(selectors)} selectors by the predicted value of selections",
            lambda: compare(environment, selectors, *setting),
        )
        summary = comparison_summary(draws)
        write_json(self.out / COMPARISON, summary)
        log_comparison(self.log, summary)
        print(f"\n{comparison_table(summary)}", file=sys.stderr)
        best = best_selector(summary)
        chosen = best if self.options.agent == AUTO else self.options.agent
        print(f"\nwhat selects from the pool: {chosen}", file=sys.stderr)
        return str(chosen)

    @functools.cached_property
    def _screen(self) -> Selector:
        """The selector of the candidates that are most like the domain."""
        texts = {sample.id: sample for sample in (*self.data.pool, *self.data.dev)}
        return make_selector("rds", texts)

    def _selector(self, name: str, limit: ForgettingLimit) -> Selector:
        """Return the selector of a name, or the agent of a folder."""
        if name.startswith(SCREENED):
            screened = self._selector(name.removeprefix(SCREENED), limit)
            return ScreenedSelector(screened, self._screen)
        if name == NAVIGATOR:
            return AgentSelector(self.out / NAVIGATOR)
        if name == ORACLE:
            return OracleSelector(limit.weights)
        selector: Selector = load_selector(name)
        return selector

    def select(
        self, pool: Bundle, chosen: str, limit: ForgettingLimit
    ) -> dict[str, Selection]:
        """Select from the pool; return selections by name, the chosen one first."""
        seed = self.options.seed
        selectors = {Path(chosen).name: (chosen, seed), **self.compared}
        texts = {sample.id: sample for sample in self.data.pool}

        def work() -> dict[str, Selection]:
            selections = {}
            for name, (source, seed) in selectors.items():
                selector = self._selector(source, limit)
                selection = select(selector, pool, self.budget, seed=seed, agent=name)
                selection.save(self.out / "selections" / name, texts)
                selections[name] = selection
            return selections

        what = f"select {self.budget} of {len(pool.pool)} samples"
        return dict(self._do("select", what, work))

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
                log_finetuning(self.log, result)
            return results

        what = f"fine-tune {self.tuning.model}"
        return list(self._do("fine-tune", what, work))

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
        seconds, differences = self.stages.seconds, contrasts(results)
        write_json(
            self.out / RESULT,
            {
                "results": results,
                "contrasts": differences,
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
        log_results(self.log, results, page)
        print("\n" + table(results))
        for line in lines(differences, results[0]["selection"]):
            print(line)
        for name, counts in sources.items():
            shown = ", ".join(f"{count} {source}" for source, count in counts)
            print(f"{name}: {shown}")
        print(f"\nreport: {page}")
