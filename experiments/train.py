"""The command `ogs train`: train agents and compare them with baselines."""

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
from ogs_env.agents.navigator import Navigator, one_thread
from ogs_env.agents.policies import make_policy
from ogs_env.agents.settings import ImitationSettings, Settings
from ogs_env.agents.training import described, is_trained, train
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
        "--out",
        type=Path,
        default=Path("trained"),
        help="folder of the agent (default trained)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        help="train once per seed, each in a folder of its own, and report the mean",
    )
    parser.add_argument(
        "--result", type=Path, help=f"result file (default {RESULT} in the folder)"
    )
    parser.add_argument(
        "--episodes",
        type=int,
        default=100,
        help="number of test episodes of the comparison (default 100)",
    )
    parser.add_argument(
        "--wandb",
        action="store_true",
        help="log to Weights & Biases; offline if you are not logged in",
    )
    add_settings(parser)


def run(arguments: argparse.Namespace) -> None:
    """Train and compare; write agents, curves and result, and print the table.

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
        # A W&B agent runs the same command for every run of a sweep.
        arguments.out /= os.environ["WANDB_RUN_ID"]
    # Checked before the training, which takes minutes.
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
    settings: Settings,
    seeds: list[int],
    out: Path,
    episodes: int,
    wandb: bool = False,
) -> dict[str, Any]:
    """Train an agent per seed and run all policies in the same test episodes.

    An agent that is in its folder and was trained with the same settings is not trained
    again, except with `wandb`, which logs the training.

    Args:
        settings: Settings of all runs, except for the seed.
        seeds: Seeds of the runs.
        out: Folder of the agent; of several seeds, each has a folder in it.
        episodes: Number of test episodes. Their seeds differ from those of the
            episodes that select the best checkpoint.
        wandb: Whether to log the runs to Weights & Biases.

    Returns:
        JSON-able: mean returns with 95 % intervals, the agent's difference to each
        baseline in the same episodes, settings and summaries of the runs.

    Raises:
        InputError: If the environment is unknown or one of its arguments is wrong, or
            an agent cannot be trained or loaded.
    """
    if wandb:
        from ogs_env.experiments.tracking import tracked
    kwargs = {**settings.env_kwargs, "split": "test"}
    environment = make(settings.env, kwargs)
    print(f"ogs train: {_episodes(described(environment))}", file=sys.stderr)
    episode_seeds = REPORT_SEEDS[:episodes]
    returns: dict[str, NDArray[np.float64]] = {}
    is_mixture = isinstance(environment.unwrapped, MixtureEnv)
    baselines = MIXTURE_BASELINES if is_mixture else BASELINES
    for name in baselines:
        policy = make_policy(name, environment, np.random.default_rng(0))
        returns[name] = play(environment, policy, episode_seeds)
    agents, agent_returns = [], []
    for seed in seeds:
        folder = out if len(seeds) == 1 else out / f"seed-{seed}"
        with contextlib.ExitStack() as stack:
            run_settings = replace(settings, seed=seed)
            if wandb:
                if isinstance(run_settings, ImitationSettings):
                    raise InputError(
                        "--wandb: training by imitation is not logged; expected "
                        "--algorithm ppo or maskable-ppo"
                    )
                group = out.name if len(seeds) > 1 else None
                tracker = stack.enter_context(tracked(run_settings, folder, group))
                agent = train(
                    run_settings, folder, tracker.callbacks, tracker.tensorboard
                )
            elif is_trained(run_settings, folder):
                print(
                    f"{folder}: was trained already; delete it to train again",
                    file=sys.stderr,
                )
                agent = Navigator.load(folder)
            else:
                agent = train(run_settings, folder)
            with one_thread():
                played = play_together(settings.env, kwargs, agent, episode_seeds)
            run_returns, costs = played.returns, played.costs
            if wandb:
                tracker.report(agent, {**returns, AGENT: run_returns}, costs, AGENT)
        agent_returns.append(run_returns)
        agents.append(
            {
                "folder": str(folder),
                "seed": seed,
                "return": summarise(run_returns),
                "cost": summarise(costs),
                "training": agent.description["training"],
            }
        )
    returns[AGENT] = np.stack(agent_returns)
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
    """Return the comparison as a text table, lowest mean return first."""
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
    """Return the environment's id, bundle and episode size as text."""
    counts = dict(description["environment"])
    name = counts.pop("id")
    sizes = ", ".join(f"{key} {count}" for key, count in counts.items())
    return f"{name} ({description['bundle']}): {sizes}"


def _columns(summary: dict[str, float]) -> str:
    interval = f"[{summary['low']:.2f}, {summary['high']:.2f}]"
    return f"{summary['mean']:>8.2f}  {interval:<18}"


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
    packages = {name: importlib.metadata.version(name) for name in names}
    return {"python": platform.python_version(), **packages}


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    add_arguments(options)
    try:
        run(options.parse_args())
    except InputError as error:
        sys.exit(f"error: {error}")
