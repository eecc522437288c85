"""The command `ogs train`: train agents and compare them with baselines."""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ogs_env.agents.episodes import REPORT_SEEDS, make, play, play_together, summarise
from ogs_env.agents.navigator import one_thread
from ogs_env.agents.policies import make_policy
from ogs_env.agents.settings import ImitationSettings, Settings, TrainSettings
from ogs_env.agents.training import described
from ogs_env.envs.mixture import MixtureEnv
from ogs_env.errors import InputError
from ogs_env.experiments.curves import plot_training
from ogs_env.experiments.settings import CONFIGS, read_settings, shipped_names
from ogs_env.experiments.tracking.logger import NONE, WANDB, LogOptions
from ogs_env.experiments.tracking.opening import identity, opened
from ogs_env.experiments.tracking.training import log_result, trained
from ogs_env.files import check_writable, exclusive, write_json

BASELINES = ("random", "conflict", "orth", "greedy", "less", "oracle")
MIXTURE_BASELINES = ("random",)
AGENT = "agent"
RESULT = "train.json"
CURVES = "curves.png"


@dataclass(frozen=True, kw_only=True)
class Options(LogOptions):
    """Options of `ogs train`.

    Attributes:
        out: Folder of the agent.
        seeds: Train once per seed, each in a folder of its own, and report the mean;
            by default only with the seed of the settings.
        result: Result file; by default `train.json` in the agent's folder.
        episodes: Number of test episodes of the comparison.
        config: YAML file of settings, which options override, or the name of a shipped
            one.
        bundle: Name of a shipped bundle, a folder, or OWNER/NAME on the Hugging Face
            hub.
        settings: Settings of training.
    """

    out: Path = Path("trained")
    seeds: tuple[int, ...] | None = None
    result: Path | None = None
    episodes: int = 100
    config: str | None = field(default=None, metadata={"known": shipped_names(CONFIGS)})
    bundle: str | None = None
    settings: dict[str, Any] = field(
        default_factory=dict,
        metadata={"options_of": (TrainSettings, ImitationSettings)},
    )

    def __post_init__(self) -> None:
        if not 2 <= self.episodes <= len(REPORT_SEEDS):
            raise InputError(
                f"--episodes {self.episodes}: expected 2 to {len(REPORT_SEEDS)}"
            )
        if self.seeds and len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"--seeds {self.seeds}: a seed is given twice")

    def training_settings(self) -> Settings:
        """Return the settings of the config and of the options."""
        return read_settings(self.config, self.bundle, self.settings)


def run(options: Options) -> None:
    """Train and compare; write agents, curves and result, and print the table.

    Raises:
        InputError: For a wrong option, or a folder that cannot be written.
    """
    settings = options.training_settings()
    seeds = list(options.seeds or [settings.seed])
    out = options.out
    if options.report_to == WANDB and "WANDB_SWEEP_ID" in os.environ:
        # A W&B agent runs the same command for every run of a sweep.
        out /= os.environ["WANDB_RUN_ID"]
        if len(seeds) > 1:
            raise InputError(
                "--seeds: a run of a W&B sweep has one seed; sweep over `seed` instead"
            )
    # Checked before the training, which takes minutes.
    result_file = options.result or out / RESULT
    for file in (result_file, out / CURVES):
        check_writable(file)
    with exclusive(out):
        result = study(settings, seeds, out, options.episodes, options.report_to)
        write_json(result_file, result)
        returns = result["returns"]
        levels = {name: returns[name]["mean"] for name in result["agent_minus"]}
        plot_training(result["agents"], levels, settings.cost_limit, out / CURVES)
    print(table(result))
    for agent in result["agents"]:
        print(f"agent: {agent['folder']}")
    print(f"result: {result_file}")


def study(
    settings: Settings,
    seeds: list[int],
    out: Path,
    episodes: int,
    report_to: str = NONE,
) -> dict[str, Any]:
    """Train an agent per seed and run all policies in the same test episodes.

    An agent that is in its folder and was trained with the same settings is not trained
    again.

    Args:
        settings: Settings of all runs, except for the seed.
        seeds: Seeds of the runs.
        out: Folder of the agent; of several seeds, each has a folder in it.
        episodes: Number of test episodes. Their seeds differ from those of the
            episodes that select the best checkpoint.
        report_to: Where to log, a run per seed.

    Returns:
        JSON-able: mean returns with 95 % intervals, the agent's difference to each
        baseline in the same episodes, settings and summaries of the runs.

    Raises:
        InputError: If the environment is unknown or one of its arguments is wrong, or
            an agent cannot be trained or loaded.
    """
    kwargs = {**settings.env_kwargs, "split": "test"}
    environment = make(settings.env, kwargs)
    print(f"ogs train: {_episodes(described(environment))}", file=sys.stderr)
    inner: Any = environment.unwrapped
    episode_seeds = REPORT_SEEDS[:episodes]
    returns: dict[str, NDArray[np.float64]] = {}
    agents, agent_returns = [], []
    for seed in seeds:
        several = len(seeds) > 1
        folder = out / f"seed-{seed}" if several else out
        run_settings = replace(settings, seed=seed)
        with opened(
            report_to,
            folder,
            {**asdict(run_settings), **identity(inner.bundle)},
            command="train",
            name=f"{out.name}, seed {seed}" if several else None,
            group=out.name if several else None,
        ) as log:
            returns = returns or _baseline_returns(environment, episode_seeds)
            agent = trained(run_settings, folder, log)
            with one_thread():
                played = play_together(settings.env, kwargs, agent, episode_seeds)
            own, costs = played.returns, played.costs
            if log.enabled:
                own_returns = {**returns, AGENT: own}
                log_result(log, run_settings, agent, own_returns, costs, AGENT)
        agent_returns.append(own)
        agents.append(
            {
                "folder": str(folder),
                "seed": seed,
                "return": summarise(own),
                "cost": summarise(costs),
                "training": agent.description["training"],
            }
        )
    baselines = list(returns)
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


def _baseline_returns(
    environment: Any, episode_seeds: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """Play the baselines that suit an environment, one episode per seed."""
    is_mixture = isinstance(environment.unwrapped, MixtureEnv)
    names = MIXTURE_BASELINES if is_mixture else BASELINES
    returns = {}
    for name in (bar := tqdm(names, desc="baselines", leave=False)):
        bar.set_postfix_str(name)
        policy = make_policy(name, environment, np.random.default_rng(0))
        returns[name] = play(environment, policy, episode_seeds)
    return returns


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


def _versions() -> dict[str, str]:
    names = ("gymnasium", "numpy", "sb3-contrib", "stable-baselines3", "torch")
    packages = {name: importlib.metadata.version(name) for name in names}
    return {"python": platform.python_version(), **packages}
