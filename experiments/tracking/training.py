"""Log trainings and their results.

Steps are environment steps; of imitation, examples.

- `rollout/`, `train/`, `time/`: those of Stable-Baselines3 (SB3); of imitation,
  `train/loss` of each minibatch.
- `episode/TERM`, `episode/cost`: terms (as `rewards.episode_terms`) and cost of an
  episode, averaged over the training episodes that ended in the last rollout.
- `evaluation/return`, `evaluation/cost`: the current model in test episodes. With a
  cost limit also `evaluation/multiplier` and `evaluation/training_cost`.
- `kept/return`, `kept/cost`: the best model so far in the same episodes.
- `kept/TERM`, `kept/test_change` and others: at the end, see `end_measures`.
- `report/return`, `report/cost`, `report/minus_BASELINE`: at the end, the agent and its
  margins in test episodes that were not used to choose the best model.
- `returns`: a table of all policies in those episodes.
- `selection`, `frames`: a table of the agent's picks in the first of them, and frames.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common import logger as sb3
from stable_baselines3.common.callbacks import BaseCallback

from ogs_env.agents.callback import curve_measures
from ogs_env.agents.episodes import REPORT_SEEDS, make, summarise
from ogs_env.agents.evaluation import play_episode
from ogs_env.agents.navigator import DESCRIPTION, WEIGHTS, Navigator, one_thread
from ogs_env.agents.settings import Settings, TrainSettings
from ogs_env.agents.training import is_trained, rank, train
from ogs_env.experiments.measures import end_measures
from ogs_env.experiments.tracking.logger import STEP, Logger
from ogs_env.rewards import NO_PICK, episode_terms

FRAMES = 8
_COLUMNS = (
    "order",
    "id",
    "source",
    "domain cosine",
    "anchor cosine",
    "probability",
)


def trained(
    settings: Settings, folder: Path, log: Logger, prefix: str = ""
) -> Navigator:
    """Return the agent of a folder; train it if it is not trained yet.

    Of an agent that was trained before, the evaluations are logged.

    Args:
        settings: Settings of the training.
        folder: The agent's folder.
        log: Where the training and the agent are logged.
        prefix: Of the numbers' names.
    """
    if is_trained(settings, folder):
        print(
            f"{folder}: was trained already; delete it to train again", file=sys.stderr
        )
        agent = Navigator.load(folder)
        _log_curve(settings, agent, log, prefix)
    elif log.enabled:
        # Imitation has no episodes of its own, and takes no callbacks.
        callbacks = [_EpisodeTerms()] if isinstance(settings, TrainSettings) else []
        agent = train(settings, folder, callbacks, _sb3_logger(log, prefix))
    else:
        agent = train(settings, folder)
    files = [folder / name for name in (DESCRIPTION, WEIGHTS)]
    log.agent(files, agent.description)
    return agent


def log_result(
    log: Logger,
    settings: Settings,
    agent: Navigator,
    returns: Mapping[str, NDArray[np.float64]],
    costs: NDArray[np.float64],
    name: str,
) -> None:
    """Log the results of a trained agent.

    Args:
        log: The logger.
        settings: Settings of the training.
        agent: The agent.
        returns: Returns of every policy in the same episodes, with the agent's.
        costs: The agent's cost of each episode.
        name: Key of the agent in `returns`.
    """
    own = returns[name]
    measures = end_measures(settings, agent)
    measures |= {
        "report/return": float(own.mean()),
        "report/cost": float(costs.mean()),
    }
    rows: list[list[Any]] = []
    for policy, values in returns.items():
        summary = summarise(values)
        margin = float((own - values).mean())
        rows.append([policy, summary["mean"], summary["low"], summary["high"], margin])
        if policy != name:
            measures[f"report/minus_{policy}"] = margin
    log.numbers(measures, agent.description["training"]["steps"])
    log.table("returns", ["policy", "return", "low", "high", "agent minus it"], rows)
    with one_thread():
        picks, frames = episode(settings, agent, REPORT_SEEDS[0])
    log.table("selection", _COLUMNS, picks)
    log.images("frames", frames)


def _log_curve(settings: Settings, agent: Navigator, log: Logger, prefix: str) -> None:
    """Log the evaluations of a training that has ended."""
    curve = agent.description["training"]["curve"]
    for number, point in enumerate(curve, start=1):
        best = max(curve[:number], key=lambda earlier: rank(settings, earlier))
        values = curve_measures(point, best)
        named = {f"{prefix}{name}": value for name, value in values.items()}
        log.numbers(named, int(point["steps"]), f"{prefix}{STEP}")


def _sb3_logger(log: Logger, prefix: str) -> sb3.Logger:
    """Return a logger of SB3 that writes to another one."""
    return sb3.Logger(folder=None, output_formats=[_Writer(log, prefix)])


class _Writer(sb3.KVWriter):
    """Passes SB3's numbers on, those that its tensorboard log has too."""

    def __init__(self, log: Logger, prefix: str) -> None:
        self._log, self._prefix = log, prefix

    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        values = {
            f"{self._prefix}{name}": float(value)
            for name, value in key_values.items()
            if "tensorboard" not in key_excluded[name]
        }
        if values:
            self._log.numbers(values, step, f"{self._prefix}{STEP}")

    def close(self) -> None:
        """Leave the logger open: others write to it too."""


class _EpisodeTerms(BaseCallback):
    """Writes reward terms and costs of the training episodes to SB3's log."""

    def _on_training_start(self) -> None:
        count = self.training_env.num_envs
        self._names: list[str] | None = None
        self._sums, self._steps = np.zeros((count, 0)), np.zeros(count)
        self._ended: list[NDArray[np.float64]] = []

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        if self._names is None:
            # Environments without native vectors have only the cost in their infos.
            self._names = [name for name in NO_PICK if name in infos[0]]
            self._sums = np.zeros((len(infos), len(self._names) + 1))
        names = self._names
        self._sums += [
            [*(info[name] for name in names), info["cost"]] for info in infos
        ]
        self._steps += 1
        over = self.locals["dones"]
        if over.any():
            ended = self._sums[over]
            terms = dict(zip(names, ended[:, :-1].T, strict=True))
            terms = episode_terms(terms, self._steps[over])
            self._ended.append(np.column_stack([*terms.values(), ended[:, -1]]))
            self._sums[over] = self._steps[over] = 0
        return True

    def _on_rollout_end(self) -> None:
        if self._ended and self._names is not None:
            means = np.concatenate(self._ended).mean(axis=0).tolist()
            for name, mean in zip([*self._names, "cost"], means, strict=True):
                self.logger.record(f"episode/{name}", mean)
            self._ended = []


def episode(
    settings: Settings, agent: Navigator, seed: int
) -> tuple[list[list[Any]], dict[str, NDArray[np.uint8]]]:
    """Play one test episode and record its picks and frames.

    Returns:
        For each pick the columns `_COLUMNS`: cosines of initial sketches, the anchor's
        being the least over capabilities, and the probability of the action; and at
        most `FRAMES` frames, uint8 (560, 1000, 3), by step.
    """
    kwargs = {**settings.env_kwargs, "split": "test", "render_mode": "rgb_array"}
    environment = make(settings.env, kwargs)
    inner: Any = environment.unwrapped
    actions: list[int] = []
    action_probabilities: list[float] = []
    picked_before: list[int] = []

    def act(observation: Any, info: dict[str, Any], env: Any) -> int:
        """Return the agent's action and record its probability."""
        batch = {key: value[None] for key, value in observation.items()}
        mask = np.asarray(info["action_mask"], np.bool_)[None]
        action = int(agent.act(batch, mask)[0])
        probability = np.exp(agent.log_probabilities(batch, mask)[0, action])
        actions.append(action)
        action_probabilities.append(float(probability))
        picked_before.append(len(inner.picked))
        return action

    play_episode(environment, act, seed)
    # An action of MixtureEnv picks several samples.
    counts = np.diff([*picked_before, len(inner.picked)])
    probabilities = np.repeat(action_probabilities, counts).tolist()
    rows = np.array(inner.picked, np.int64)
    frames = _frames(environment, seed, actions)
    environment.close()
    bundle = inner.bundle
    domain = bundle.domain_cosines(rows).tolist()
    anchor = bundle.anchor_cosines(rows).min(axis=1, initial=1).tolist()
    ids = bundle.pool.hex_ids()
    return [
        [
            order + 1,
            ids[row],
            bundle.sources[bundle.pool.sources[row]],
            domain[order],
            anchor[order],
            probabilities[order],
        ]
        for order, row in enumerate(rows.tolist())
    ], frames


def _frames(
    environment: Any, seed: int, actions: list[int]
) -> dict[str, NDArray[np.uint8]]:
    """Replay actions and render evenly spaced steps."""
    rendered_steps = set(
        np.linspace(0, len(actions), FRAMES).round().astype(int).tolist()
    )
    frames = {}
    environment.reset(seed=seed)
    for step in range(len(actions) + 1):
        if step in rendered_steps:
            frames[f"step {step} of {len(actions)}"] = environment.render()
        if step < len(actions):
            environment.step(actions[step])
    return frames
