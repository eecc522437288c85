"""Sweeps over training settings on this machine: the command `ogs sweep`.

It runs the files of `wandb sweep`, without W&B: what `wandb agent` would give to
`ogs train` is read as that command reads it, and trained in this process. Optuna
(Akiba et al. 2019) chooses the values: a grid in the file's order, random draws, or a
tree-structured Parzen estimator (Bergstra et al. 2011) for `bayes`.
"""

import argparse
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from ogs_env.agents.training import TrainSettings, train
from ogs_env.errors import InputError, unknown_name
from ogs_env.experiments import train as train_command
from ogs_env.experiments.measures import (
    CURVE,
    END,
    Evaluations,
    curve_measures,
    end_measures,
)
from ogs_env.experiments.settings import read_settings
from ogs_env.experiments.sweep_files import SWEEPS, Sweep, read_sweep
from ogs_env.experiments.sweep_plots import plot_trials
from ogs_env.files import write_json, write_text

JOURNAL = "study.journal"
TABLE = "trials.md"
RESULT = "trials.json"
PLOT = "trials.png"
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
# Where neither the options nor the file say how many trials.
_TRIALS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ogs sweep` to a parser."""
    shipped = ", ".join(sorted(file.stem for file in SWEEPS.glob("*.yaml")))
    parser.add_argument(
        "file", help=f"a sweep file, as for `wandb sweep`, or one of {shipped}"
    )
    parser.add_argument(
        "--trials",
        type=int,
        help="how many (default: the file's run_cap, else a whole grid, else "
        f"{_TRIALS})",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the trials (default sweeps/FILE); a sweep there goes on",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what the trials try")


def run(arguments: argparse.Namespace) -> None:
    """Run the trials that are not there yet, and write table, plot and result.

    Raises:
        InputError: For a wrong file or option.
    """
    sweep = read_sweep(arguments.file)
    folder = arguments.out or Path("sweeps") / sweep.path.stem
    study = open_study(sweep, folder, arguments.seed)
    wanted = trial_count(sweep, arguments.trials)
    print(f"{sweep.path}: {wanted} trials, {sweep.method}, {sweep.metric} -> {folder}")
    while len(ended(study)) < wanted:
        run_trial(study, sweep, folder, arguments.seed)
        write_results(study, sweep, folder, arguments.seed)
        print(_line(sweep, ended(study), wanted), flush=True)
    print(f"\n{write_results(study, sweep, folder, arguments.seed)}")
    print(f"table: {folder / TABLE}\nplot: {folder / PLOT}\nresult: {folder / RESULT}")


def open_study(sweep: Sweep, folder: Path, seed: int) -> optuna.Study:
    """Return the folder's study, a new one if there is none.

    Raises:
        InputError: If the folder has trials of another sweep or seed, or the file's
            metric or early termination cannot be had.
    """
    if sweep.metric not in (*CURVE, *END):
        raise unknown_name(f"metric (in {sweep.path})", sweep.metric, (*CURVE, *END))
    pruner = _pruner(sweep)
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=sweep.path.stem,
        storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
        direction="maximize" if sweep.maximise else "minimize",
        pruner=pruner,
        load_if_exists=True,
    )
    asked = {"config": sweep.config, "seed": seed}
    if not study.user_attrs:
        for key, value in asked.items():
            study.set_user_attr(key, value)
    if study.user_attrs != asked:
        raise InputError(
            f"{folder}: has trials of another sweep or --seed; choose another --out"
        )
    # Of a run that was stopped: its trial is asked for again, and goes on.
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def trial_count(sweep: Sweep, asked: int | None) -> int:
    """Return how many trials a sweep has: a grid no more than its points.

    Raises:
        InputError: If less than one is asked for.
    """
    if asked is not None and asked < 1:
        raise InputError(f"--trials {asked}: expected at least 1")
    count = asked or sweep.config.get("run_cap")
    if sweep.method == "grid":
        return min(count or len(sweep.grid), len(sweep.grid))
    return count or _TRIALS


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that were finished or pruned, as they came."""
    return study.get_trials(states=_ENDED)


def ask(study: optuna.Study, sweep: Sweep, seed: int) -> optuna.Trial:
    """Return the next trial.

    Its parameters follow from the seed and the trials that have ended, so that a
    stopped sweep goes on as if it had not been stopped.
    """
    place = len(ended(study))
    if sweep.method == "grid":
        if not study.get_trials(states=(TrialState.WAITING,)):
            study.enqueue_trial(sweep.grid[place])
    else:
        study.sampler = _sampler(sweep.method, seed, place)
    return study.ask(sweep.space)


def run_trial(study: optuna.Study, sweep: Sweep, folder: Path, seed: int) -> None:
    """Train with the next parameters, and tell the study what came of it."""
    place = len(ended(study))
    trial = ask(study, sweep, seed)
    settings = trial_settings(sweep, trial.params)
    own = folder / f"trial-{place:03d}"
    watch = _Watch(trial, sweep.metric)
    agent = train(settings, own, [watch])
    training = agent.description["training"]
    trial.set_user_attr("folder", own.name)
    trial.set_user_attr("seconds", training["seconds"])
    trial.set_user_attr("steps", training["steps"])
    if watch.pruned:
        study.tell(trial, state=TrialState.PRUNED)
        return
    found = curve_measures(training["curve"][-1], training["kept"])
    found |= end_measures(settings, agent)
    trial.set_user_attr("measures", found)
    study.tell(trial, found[sweep.metric])


def trial_settings(sweep: Sweep, parameters: dict[str, Any]) -> TrainSettings:
    """Return the settings that `wandb agent`'s command has for sampled parameters.

    Raises:
        InputError: If `ogs train` would not take them.
    """
    parser = _Parser(prog=f"{sweep.path}: ogs train", add_help=False)
    train_command.add_arguments(parser)
    return read_settings(parser.parse_args(sweep.train_options(parameters)))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.prog}: {message}")


class _Watch(Evaluations):
    """Reports evaluations to the study, and ends the training of a pruned trial."""

    def __init__(self, trial: optuna.Trial, metric: str) -> None:
        super().__init__()
        self._trial, self._metric = trial, metric
        self._count = 0
        self.pruned = False

    def tell(self, steps: int, measures: dict[str, float]) -> None:
        self._count += 1
        if self._metric in measures and not self.pruned:
            self._trial.report(measures[self._metric], self._count)
            self.pruned = self._trial.should_prune()

    def _on_step(self) -> bool:
        return not self.pruned


def _sampler(method: str, seed: int, place: int) -> BaseSampler:
    # Optuna keeps no sampler's state but by pickle: each trial has a seed of its own.
    own = int(np.random.SeedSequence([seed, place]).generate_state(1)[0])
    return RandomSampler(own) if method == "random" else TPESampler(seed=own)


def _pruner(sweep: Sweep) -> optuna.pruners.BasePruner:
    """Return the file's early termination: W&B's "hyperband" has one bracket.

    At evaluations first, first * eta, ... the best 1/eta so far goes on: asynchronous
    successive halving (Li et al. 2020).
    """
    rule = sweep.config.get("early_terminate")
    if rule is None:
        return optuna.pruners.NopPruner()
    where = f"{sweep.path}: early_terminate"
    if sweep.metric not in CURVE:
        raise InputError(
            f"{where}: {sweep.metric} is known at the end alone; use one of "
            f"{', '.join(CURVE)}"
        )
    eta = rule.get("eta", 3)
    if eta != int(eta) or eta < 2:
        raise InputError(f"{where}: eta is {eta}, expected a whole number from 2")
    first = rule.get("min_iter")
    if first is None:
        first = max(1, int(rule["max_iter"] / eta ** int(rule["s"])))
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=first, reduction_factor=int(eta)
    )


def write_results(study: optuna.Study, sweep: Sweep, folder: Path, seed: int) -> str:
    """Write table, plot and JSON of the trials so far; return the table."""
    trials = [_record(trial, sweep) for trial in ended(study)]
    result = {
        "sweep": sweep.path.stem,
        "method": sweep.method,
        "metric": sweep.metric,
        "goal": "maximize" if sweep.maximise else "minimize",
        "seed": seed,
        "drawn": {name: _drawn(drawn) for name, drawn in sweep.space.items()},
        "trials": trials,
    }
    write_json(folder / RESULT, result)
    text = table(result)
    write_text(folder / TABLE, text)
    plot_trials(result, folder / PLOT)
    return text


def _drawn(distribution: BaseDistribution) -> dict[str, Any]:
    if isinstance(distribution, CategoricalDistribution):
        return {"values": list(distribution.choices)}
    range_: Any = distribution
    return {"min": range_.low, "max": range_.high, "log": range_.log}


def _record(trial: FrozenTrial, sweep: Sweep) -> dict[str, Any]:
    pruned = trial.state == TrialState.PRUNED
    reports = list(trial.intermediate_values.values())
    return {
        "folder": trial.user_attrs["folder"],
        "parameters": {name: trial.params[name] for name in sweep.space},
        "pruned": pruned,
        "value": reports[-1] if pruned else trial.value,
        "reports": reports,
        "steps": trial.user_attrs["steps"],
        "seconds": trial.user_attrs["seconds"],
        "measures": trial.user_attrs.get("measures", {}),
    }


def ranked(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the trials of a result, best first, pruned ones last."""
    sign = -1 if result["goal"] == "maximize" else 1
    return sorted(
        result["trials"], key=lambda trial: (trial["pruned"], sign * trial["value"])
    )


def table(result: dict[str, Any]) -> str:
    """Return the trials as Markdown, best first, pruned ones last."""
    metric = result["metric"]
    others = [name for name in ("kept/return", "kept/cost") if name != metric]
    names = list(result["trials"][0]["parameters"]) if result["trials"] else []
    head = ["trial", metric, *others, *names, "seconds", ""]
    lines = [head, ["---"] * len(head)]
    for trial in ranked(result):
        lines.append(
            [
                trial["folder"].removeprefix("trial-"),
                _shown(trial["value"]),
                *(_shown(trial["measures"].get(name, "")) for name in others),
                *(_shown(trial["parameters"][name]) for name in names),
                f"{trial['seconds']:.0f}",
                f"pruned at {trial['steps']:,} steps" if trial["pruned"] else "",
            ]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _line(sweep: Sweep, trials: list[FrozenTrial], wanted: int) -> str:
    now = time.strftime("%H:%M:%S")
    last = _record(trials[-1], sweep)
    state = "pruned" if last["pruned"] else "done"
    tried = ", ".join(f"{name} {_shown(v)}" for name, v in last["parameters"].items())
    return (
        f"{now} {len(trials)}/{wanted} {state}: {sweep.metric} "
        f"{_shown(last['value'])} ({tried}; {last['seconds']:.0f} s)"
    )
