"""Local search over training settings: the command `ogs sweep`.

It reads a sweep file of Weights & Biases and trains in this process, with the options
that `wandb agent` passes to `ogs train`. Optuna (Akiba et al. 2019) samples the
parameters: `method: bayes` is a tree-structured Parzen estimator (Bergstra et al.
2011), and `early_terminate` is Hyperband (Li et al. 2018).
"""

import contextlib
import itertools
import json
import logging
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna import distributions
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from ogs_env.agents import callback
from ogs_env.agents.training import TrainSettings, train
from ogs_env.errors import InputError, unknown_name
from ogs_env.experiments import measures
from ogs_env.experiments.settings import read_yaml, shipped_names
from ogs_env.experiments.train import Options as TrainOptions
from ogs_env.files import (
    check_writable,
    read_json,
    whole_file,
    write_json,
    write_text,
)
from ogs_env.options import parse

SWEEPS = Path(__file__).parent / "configs" / "sweeps"
TABLE = "trials.md"
_TRIALS = 20  # where neither the options nor the file give a number
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


class Sweep(NamedTuple):
    """A sweep file, the distribution of each parameter, and a trial's evaluations."""

    path: Path
    config: dict[str, Any]
    space: dict[str, distributions.BaseDistribution]
    evaluations: int = 0

    def settings(self, parameters: dict[str, Any]) -> TrainSettings:
        """Return the settings of the file's command with values for `${args}`."""
        words = [str(word) for word in self.config["command"]]
        if "train" not in words or "${args}" not in words:
            raise InputError(
                f"{self.path}: command: expected `ogs train` and ${{args}}"
            )
        place = words.index("${args}")
        words[place : place + 1] = [
            f"--{name}={value}" for name, value in parameters.items()
        ]
        words = words[words.index("train") + 1 :]
        try:
            settings = parse(TrainOptions, words, "ogs train").training_settings()
        except InputError as error:
            raise InputError(f"{self.path}: ogs train: {error}") from None
        if not isinstance(settings, TrainSettings):
            raise InputError(
                f"{self.path}: trains by imitation, which has no evaluations to search "
                "by; expected algorithm ppo or maskable-ppo"
            )
        return settings


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `ogs sweep`.

    Attributes:
        file: A sweep file of W&B, or the name of a shipped one.
        trials: Number of trials; by default the file's `run_cap`, else a whole grid,
            else a few.
        out: Folder of the trials, by default sweeps/FILE; a search there goes on.
        seed: Seed of the sampler.
    """

    file: str = field(
        metadata={"positional": True, "metavar": "FILE", "known": shipped_names(SWEEPS)}
    )
    trials: int | None = field(default=None, metadata={"known": [str(_TRIALS)]})
    out: Path | None = None
    seed: int = 0


def run(options: Options) -> None:
    """Run the trials that are missing, and write the table and the plot.

    Raises:
        InputError: For a wrong file or option.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sweep = read_sweep(options.file)
    folder = options.out or Path("sweeps") / sweep.path.stem
    grid = _grid(sweep)
    count = sweep.config.get("run_cap", len(grid) or _TRIALS)
    count = count if options.trials is None else options.trials
    if not isinstance(count, int) or count < 1:
        raise InputError(f"{count!r}: expected --trials or run_cap of at least 1")
    count = min(count, len(grid) or count)
    check_writable(folder / TABLE)
    study = open_study(sweep, folder, options.seed)
    for point in grid:  # GridSampler would not repeat a trial that was stopped
        study.enqueue_trial(point, skip_if_exists=True)
    print(f"{sweep.path}: {count} trials -> {folder}")
    while (ended := len(study.get_trials(states=_ENDED))) < count:
        # A sampler's state is not stored; one seed would repeat its draws after a stop.
        seed = (10_007 * options.seed + ended) % 2**32
        random = sweep.config["method"] == "random"
        study.sampler = RandomSampler(seed) if random else TPESampler(seed=seed)
        trial = run_trial(study, sweep, folder)
        line = f"{trial.state.name.lower()}, {trial.value:.4g} with {trial.params}"
        print(f"{time.strftime('%H:%M:%S')} {ended + 1}/{count} {line}", flush=True)
        write_text(folder / TABLE, table(study, sweep))
        _plot(study, sweep.config["metric"]["name"], folder / "trials.png")
    print(f"\n{table(study, sweep)}\ntable: {folder / TABLE}")
    print(f"best: {folder / study.best_trial.user_attrs['folder']}")


def read_sweep(name: str) -> Sweep:
    """Read a sweep file, by its path or a shipped sweep's name.

    Raises:
        InputError: If the file is missing or wrong.
    """
    path, config = read_yaml("sweep", name, SWEEPS)
    match config:
        case {
            "method": "bayes" | "grid" | "random",
            "metric": {"name": str(metric), "goal": "minimize" | "maximize"},
            "parameters": dict(parameters),
            "command": [*_],
        }:
            space = {n: _distribution(f"{path}: {n}", s) for n, s in parameters.items()}
        case _:
            raise InputError(
                f"{path}: expected method (bayes, grid or random), metric (with name, "
                "and goal minimize or maximize), parameters and command"
            )
    if metric not in (names := (*measures.CURVE, *measures.END)):
        raise unknown_name(f"metric (in {path})", metric, names)
    sweep = Sweep(path, config, space)
    # A wrong setting is reported now, not after a trial is stored.
    try:
        first = optuna.create_study(sampler=RandomSampler(0)).ask(space)
    except OverflowError as error:
        raise InputError(
            f"{path}: parameters: nothing can be drawn from a range ({error}); give a "
            "smaller one"
        ) from None
    return sweep._replace(evaluations=sweep.settings(first.params).evaluations)


def _distribution(where: str, spec: Any) -> distributions.BaseDistribution:
    """Return Optuna's distribution for W&B's description of a parameter."""
    try:
        match spec:
            case {"value": value}:
                return distributions.CategoricalDistribution([value])
            case {"values": [*values]} if "probabilities" not in spec:
                return distributions.CategoricalDistribution(values)
            case {"distribution": "int_uniform", "min": int(low), "max": int(high)}:
                return distributions.IntDistribution(low, high)
            case {"distribution": "uniform", "min": low, "max": high}:
                return distributions.FloatDistribution(low, high)
            case {"distribution": "log_uniform_values", "min": low, "max": high}:
                return distributions.FloatDistribution(low, high, log=True)
            case {"distribution": "q_uniform", "min": low, "max": high, "q": step}:
                if all(isinstance(number, int) for number in (low, high, step)):
                    return distributions.IntDistribution(low, high, step=step)
                return distributions.FloatDistribution(low, high, step=step)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from None
    raise InputError(
        f"{where}: {spec}; expected value, values, or distribution uniform, "
        "log_uniform_values, int_uniform (each with min and max) or q_uniform (and q)"
    )


def _grid(sweep: Sweep) -> list[dict[str, Any]]:
    """Return the points of a grid, none for other methods."""
    if sweep.config["method"] != "grid":
        return []
    columns = [getattr(one, "choices", ()) for one in sweep.space.values()]
    if not all(columns):
        raise InputError(f"{sweep.path}: parameters of a grid need `values`")
    points = itertools.product(*columns)
    return [dict(zip(sweep.space, point, strict=True)) for point in points]


def _pruner(sweep: Sweep) -> BasePruner:
    metric = sweep.config["metric"]["name"]
    match sweep.config.get("early_terminate"):
        case None:
            return NopPruner()
        case {"type": "hyperband", "min_iter": int(least), "eta": int(eta)}:
            most = sweep.evaluations
            if 0 < least <= most and eta > 1 and metric in measures.CURVE:
                return HyperbandPruner(least, most, eta)
    raise InputError(
        f"{sweep.path}: early_terminate: expected type hyperband, min_iter from 1 to "
        f"{sweep.evaluations} (evaluations), eta from 2, and a metric of "
        f"{', '.join(measures.CURVE)}"
    )


def open_study(sweep: Sweep, folder: Path, seed: int) -> optuna.Study:
    """Return the folder's study, a new one if there is none.

    A trial that was running when its process stopped is queued again.

    Raises:
        InputError: If the folder has trials of another sweep or seed.
    """
    pruner, origin = _pruner(sweep), {"sweep": sweep.config, "seed": seed}
    if not (folder / "sweep.json").exists():
        write_json(folder / "sweep.json", origin)
    elif read_json(folder / "sweep.json", "sweep") != origin:
        raise InputError(f"{folder}: has another sweep or --seed; choose another --out")
    journal = folder / "study.journal"
    damaged = f"{journal}: is damaged; delete {folder}, or choose another --out"
    try:
        if journal.exists():
            for line in journal.read_bytes().splitlines():
                json.loads(line)  # Optuna appends to a last line that is cut
        storage = JournalStorage(JournalFileBackend(str(journal)))
        if storage.get_all_studies():
            study = optuna.load_study(
                study_name="sweep", storage=storage, pruner=pruner
            )
        else:
            study = optuna.create_study(
                study_name="sweep",
                storage=storage,
                direction=sweep.config["metric"]["goal"],
                pruner=pruner,
            )
    except OSError:
        raise
    # Optuna replays the journal without checks, so that any error can follow.
    except Exception as error:
        raise InputError(damaged) from error
    for trial in study.get_trials(states=_ENDED):
        if not {"folder", "cost", "seconds"} <= set(trial.user_attrs):
            raise InputError(damaged)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.enqueue_trial(trial.params, trial.user_attrs)
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def run_trial(study: optuna.Study, sweep: Sweep, folder: Path) -> FrozenTrial:
    """Train with the next parameters, and return the trial once it has ended."""
    metric = sweep.config["metric"]["name"]
    trial = study.ask(sweep.space)
    if "folder" not in trial.user_attrs:
        trial.set_user_attr("folder", f"trial-{trial.number:03d}")
    settings = sweep.settings(trial.params)
    watch = _Watch(trial, metric)
    with _no_evaluation_lines():
        agent = train(settings, folder / trial.user_attrs["folder"], [watch])
    training = agent.description["training"]
    trial.set_user_attr("cost", training["kept"]["cost"])
    trial.set_user_attr("seconds", training["seconds"])
    if watch.pruned:
        return study.tell(trial, state=TrialState.PRUNED)
    values = callback.curve_measures(training["curve"][-1], training["kept"])
    if metric not in values:
        values = measures.end_measures(settings, agent)
    return study.tell(trial, values[metric])


@contextlib.contextmanager
def _no_evaluation_lines() -> Iterator[None]:
    """Show no line for each evaluation, since each trial has one."""
    log = logging.getLogger(callback.__name__)
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


class _Watch(measures.Evaluations):
    """Reports evaluations to the study, and ends the training of a pruned trial."""

    def __init__(self, trial: optuna.Trial, metric: str) -> None:
        super().__init__()
        self._trial, self._metric = trial, metric
        self.pruned = False

    def tell(self, steps: int, measures: dict[str, float]) -> None:
        if self._metric in measures and not self.pruned:
            self._trial.report(measures[self._metric], self._reported)
            self.pruned = self._trial.should_prune()

    def _on_step(self) -> bool:
        return not self.pruned


def table(study: optuna.Study, sweep: Sweep) -> str:
    """Return the trials as Markdown, best first, pruned ones last."""
    metric, names = sweep.config["metric"], list(sweep.space)
    sign = -1 if metric["goal"] == "maximize" else 1
    rows: list[list[Any]] = []
    for trial in study.get_trials(states=_ENDED):
        parameters = [trial.params[name] for name in names]
        extra, state = trial.user_attrs, trial.state.name.lower()
        row = [extra["folder"], trial.value, extra["cost"], *parameters]
        rows.append([*row, extra["seconds"], state])
    rows.sort(key=lambda row: (row[-1], sign * row[1]))
    head = ["trial", metric["name"], "kept/cost", *names, "seconds", "state"]
    return "".join(
        f"| {' | '.join(_cell(cell) for cell in row)} |\n"
        for row in (head, ["---"] * len(head), *rows)
    )


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plot(study: optuna.Study, metric: str, path: Path) -> None:
    """Draw the metric over the trials, if matplotlib is installed."""
    try:
        from matplotlib import pyplot, rc_context
        from optuna.visualization.matplotlib import plot_optimization_history
    except ImportError:
        return
    with warnings.catch_warnings(), rc_context(), whole_file(path) as temporary:
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        plot_optimization_history(study, target_name=metric)
        pyplot.savefig(temporary, format="png", bbox_inches="tight")
        pyplot.close()
