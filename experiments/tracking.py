"""Log training runs to Weights & Biases, for `ogs train --wandb`.

Numbers go through SB3's tensorboard log, which W&B reads during the run. Their steps
are environment steps (`global_step` in W&B).

- `rollout/`, `train/`, `time/`: SB3's own.
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

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from numpy.typing import NDArray
from requests.utils import get_netrc_auth
from stable_baselines3.common.callbacks import BaseCallback
from wandb.integration.sb3 import WandbCallback
from wandb.integration.tensorboard import unpatch

from ogs_env.agents.episodes import REPORT_SEEDS, make, summarise
from ogs_env.agents.evaluation import play_episode
from ogs_env.agents.navigator import Navigator, one_thread
from ogs_env.agents.training import TrainSettings
from ogs_env.errors import InputError
from ogs_env.experiments.measures import Evaluations, end_measures
from ogs_env.rewards import NO_PICK, episode_terms

PROJECT = "ogs_env"
"""The project, unless `WANDB_PROJECT` names another."""
FRAMES = 8
_COLUMNS: list[str | int] = [
    "order",
    "id",
    "source",
    "domain cosine",
    "anchor cosine",
    "probability",
]


class Tracker:
    """A run in W&B.

    Args:
        run: The run, just started.
        settings: Settings of the training.
        folder: Folder for SB3's tensorboard log.

    Attributes:
        callbacks: Argument `callbacks` of `train`.
        tensorboard: Argument `tensorboard` of `train`.
    """

    def __init__(self, run: wandb.Run, settings: TrainSettings, folder: Path) -> None:
        self._run, self._settings = run, settings
        self._log = _Log()
        self.callbacks: list[BaseCallback] = [WandbCallback(), self._log]
        self.tensorboard = folder

    def report(
        self,
        agent: Navigator,
        returns: Mapping[str, NDArray[np.float64]],
        costs: NDArray[np.float64],
        name: str,
    ) -> None:
        """Log the results of the trained agent.

        Args:
            agent: The agent, trained with `callbacks`.
            returns: Returns of every policy in the same episodes, with the agent's.
            costs: The agent's cost of each episode.
            name: Key of the agent in `returns`.
        """
        own = returns[name]
        measures = end_measures(self._settings, agent)
        measures |= {
            "report/return": float(own.mean()),
            "report/cost": float(costs.mean()),
        }
        table = wandb.Table(["policy", "return", "low", "high", "agent minus it"])
        for policy, values in returns.items():
            summary = summarise(values)
            margin = float((own - values).mean())
            table.add_data(
                policy, summary["mean"], summary["low"], summary["high"], margin
            )
            if policy != name:
                measures[f"report/minus_{policy}"] = margin
        self._log.catch_up()
        self._log.end(measures, agent.description["training"]["steps"])
        with one_thread():
            picks, frames = episode(self._settings, agent, REPORT_SEEDS[0])
        pictures = [wandb.Image(frame, caption=text) for text, frame in frames.items()]
        self._run.log(
            {
                "returns": table,
                "selection": wandb.Table(_COLUMNS, picks),
                "frames": pictures,
            }
        )


@contextlib.contextmanager
def tracked(
    settings: TrainSettings, folder: Path, group: str | None
) -> Iterator[Tracker]:
    """Start a run in W&B, and finish it also after an error.

    The run is offline, without network access, if no user is logged in or `WANDB_MODE`
    is offline; `wandb sync` uploads it later. `WANDB_PROJECT` and `WANDB_ENTITY` are
    supported.

    Args:
        settings: The run's config.
        folder: The agent's folder; the log is in its folder `wandb`.
        group: Group of runs that differ in the seed, or None for a single run.

    Raises:
        InputError: If W&B cannot be reached, or a run of a sweep has several seeds.
    """
    if group is not None and "WANDB_RUN_ID" in os.environ:
        raise InputError(
            "--seeds: a run of a W&B sweep has one seed; sweep over `seed` instead"
        )
    folder.mkdir(parents=True, exist_ok=True)
    # By default W&B sends its error reports over the network, offline too.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name if group is None else f"{group}, seed {settings.seed}",
            group=group,
            dir=str(folder),
            config=asdict(settings),
            mode=_mode(),
            sync_tensorboard=True,
            settings=wandb.Settings(console="off"),
        )
    except wandb.Error as error:
        raise InputError(f"W&B: {error}; WANDB_MODE=offline logs offline") from error
    try:
        with run:
            yield Tracker(run, settings, folder / "tensorboard" / run.id)
    finally:
        # The patch holds this run's log folder; the next run has another one.
        unpatch()


def _mode() -> Any:
    """Return the requested mode, or offline if no user is logged in."""
    settings = wandb.setup().settings
    known = settings.api_key or settings.identity_token_file
    if settings.mode != "online" or known or get_netrc_auth(settings.base_url):
        return settings.mode
    print(
        "ogs: note: not logged in to W&B (`wandb login`): the run is logged offline, "
        "for `wandb sync`",
        file=sys.stderr,
    )
    return "offline"


class _Log(Evaluations):
    """Callback that writes evaluations, reward terms and costs to SB3's log."""

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

    def tell(self, steps: int, measures: dict[str, float]) -> None:
        for name, value in measures.items():
            self.logger.record(name, value)
        self.logger.dump(steps)

    def end(self, measures: dict[str, float], steps: int) -> None:
        """Write the last numbers."""
        self.tell(steps, measures)
        self.logger.close()


def episode(
    settings: TrainSettings, agent: Navigator, seed: int
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
