"""Train agents, and compare them with the baselines: the command `ogs train`."""

import argparse
import contextlib
import importlib.metadata
import os
import platform
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.episodes import REPORT_SEEDS, make, play, play_together, summarise
from ogs_env.agents.navigator import one_thread
from ogs_env.agents.policies import make_policy
from ogs_env.agents.training import TrainSettings, described, train
from ogs_env.envs.mixture import MixtureEnv
from ogs_env.errors import InputError
from ogs_env.experiments.curves import plot_training
from ogs_env.experiments.settings import add_settings, read_settings
from ogs_env.files import write_json

BASELINES = ("random", "conflict", "orth", "greedy", "less", "oracle")
MIXTURE_BASELINES = ("random",)
AGENT = "agent"
RESULT = "train.json"
CURVES = "curves.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ogs train` to a parser."""
    parser.add_argument(
        "--out", type=Path, default=Path("trained"), help="folder (default trained)"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        help="train once per seed, each in its own folder, and report over all",
    )
    parser.add_argument(
        "--result", type=Path, help=f"result file (default {RESULT} in the folder)"
    )
    parser.add_argument(
        "--episodes",
        type=int,
        default=100,
        help="test episodes of the comparison (default 100)",
    )
    parser.add_argument(
        "--wandb",
        action="store_true",
        help="log to Weights & Biases; offline where nobody is logged in",
    )
    add_settings(parser)


def run(arguments: argparse.Namespace) -> None:
    """Train, compare, print the table, and write agents, curves and result.

    Raises:
        InputError: For a wrong option, or a folder that cannot be written.
    """
    if not 2 <= arguments.episodes <= len(REPORT_SEEDS):
        raise InputError(
            f"--episodes {arguments.episodes}: expected 2 to {len(REPORT_SEEDS)}"
        )
    settings = read_settings(arguments)
    seeds = arguments.seeds or [settings.seed]
    if len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {seeds}: a seed is given twice")
    if arguments.wandb and "WANDB_SWEEP_ID" in os.environ:
        # A sweep's agent runs one command many times, and says which run it is.
        arguments.out /= os.environ["WANDB_RUN_ID"]
    # Made before the training, so that a bad folder does not cost minutes.
    result_file = arguments.result or arguments.out / RESULT
    for folder in (arguments.out, result_file.parent):
        _check_writable(folder)
    result = study(settings, seeds, arguments.out, arguments.episodes, arguments.wandb)
    write_json(result_file, result)
    levels = {name: result["returns"][name]["mean"] for name in result["agent_minus"]}
    plot_training(result["agents"], levels, settings.cost_limit, arguments.out / CURVES)
    print(table(result))
    for agent in result["agents"]:
        print(f"agent: {agent['folder']}")
    print(f"result: {result_file}")


def study(
    settings: TrainSettings,
    seeds: list[int],
    out: Path,
    episodes: int,
    wandb: bool = False,
) -> dict[str, Any]:
    """Train one agent per seed and play all policies on the same test episodes.

    Args:
        settings: Of every run but for the seed.
        seeds: One run each.
        out: The agent's folder; of several seeds, it holds one folder each.
        episodes: Test episodes, seeded apart from those that chose the best models.
        wandb: Whether to log each run to Weights & Biases.

    Returns:
        JSON-able: returns with 95 % intervals, the agent's margin over each
        baseline on the same episodes, the runs' settings and summaries.
    """
    if wandb:
        from ogs_env.experiments.tracking import tracked
    kwargs = {**settings.env_kwargs, "split": "test"}
    environment = make(settings.env, kwargs)
    print(f"ogs train: {_episodes(described(environment))}", file=sys.stderr)
    played = REPORT_SEEDS[:episodes]
    returns: dict[str, NDArray[np.float64]] = {}
    mixture = isinstance(environment.unwrapped, MixtureEnv)
    baselines = MIXTURE_BASELINES if mixture else BASELINES
    for name in baselines:
        policy = make_policy(name, environment, np.random.default_rng(0))
        returns[name] = play(environment, policy, played)
    agents, runs = [], []
    for seed in seeds:
        folder = out if len(seeds) == 1 else out / f"seed-{seed}"
        with contextlib.ExitStack() as stack:
            own = replace(settings, seed=seed)
            if wandb:
                group = out.name if len(seeds) > 1 else None
                tracker = stack.enter_context(tracked(own, folder, group))
                agent = train(own, folder, tracker.callbacks, tracker.tensorboard)
            else:
                agent = train(own, folder)
            with one_thread():
                found, costs = play_together(settings.env, kwargs, agent, played)
            if wandb:
                tracker.report(agent, {**returns, AGENT: found}, costs, AGENT)
        runs.append(found)
        agents.append(
            {
                "folder": str(folder),
                "seed": seed,
                "return": summarise(found),
                "cost": summarise(costs),
                "training": agent.description["training"],
            }
        )
    returns[AGENT] = np.stack(runs)
    description = agent.description
    keys = ("bundle", "space", "environment", "reward_weights", "settings")
    return {
        **{key: description[key] for key in keys},
        "seeds": seeds,
        "episodes": episodes,
        "split": "test",
        "returns": {name: summarise(values) for name, values in returns.items()},
        "agent_minus": {
            name: summarise(returns[AGENT] - returns[name]) for name in baselines
        },
        "agents": agents,
        "versions": _versions(),
    }


def table(result: dict[str, Any]) -> str:
    """Return the comparison as text, lowest mean return first."""
    lines = [
        _episodes(result),
        f"test split, {result['episodes']} episodes, training seeds {result['seeds']}",
        f"{'policy':<16}{'return':>8}  {'95 % interval':<18}{'agent minus it':>14}  "
        "95 % interval",
    ]
    returns = result["returns"]
    for name in sorted(returns, key=lambda name: returns[name]["mean"]):
        line = f"{name:<16}{_columns(returns[name])}"
        if name != AGENT:
            line += f"{'':>6}{_columns(result['agent_minus'][name])}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def _episodes(description: dict[str, Any]) -> str:
    """Return the environment's id and the size of its episodes as text."""
    counts = dict(description["environment"])
    name = counts.pop("id")
    shown = ", ".join(f"{key} {count}" for key, count in counts.items())
    return f"{name} ({description['bundle']}): {shown}"


def _columns(summary: dict[str, float]) -> str:
    span = f"[{summary['low']:.2f}, {summary['high']:.2f}]"
    return f"{summary['mean']:>8.2f}  {span:<18}"


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); choose another folder"
        ) from None


def _versions() -> dict[str, str]:
    names = ("gymnasium", "numpy", "sb3-contrib", "stable-baselines3", "torch")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"python": platform.python_version(), **found}


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    add_arguments(options)
    try:
        run(options.parse_args())
    except InputError as error:
        sys.exit(f"error: {error}")
