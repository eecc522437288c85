"""Measures of a training run, by the names of `ogs train --wandb` and `ogs sweep`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

from ogs_env.agents.episodes import CHOICE_SEEDS, make_together
from ogs_env.agents.navigator import Navigator, one_thread
from ogs_env.agents.training import TrainSettings, rank
from ogs_env.rewards import NO_PICK

CURVE = ("evaluation/return", "evaluation/cost", "kept/return", "kept/cost")
"""Logged at every evaluation: the model's, and those of the best checkpoint so far."""
_HELD_OUT = ("test_change", "retention_change")
END = tuple(f"kept/{name}" for name in (*NO_PICK, *_HELD_OUT, "held_out_gain"))
"""Logged once, at the end, of the best checkpoint."""


def curve_measures(
    point: Mapping[str, float], kept: Mapping[str, float]
) -> dict[str, float]:
    """Return an evaluation's measures by name: `CURVE` and, with a limit, more.

    Args:
        point: One of `description["training"]["curve"]`.
        kept: The best of those up to it.
    """
    values = {f"evaluation/{name}": value for name, value in point.items()}
    del values["evaluation/steps"]
    values |= {"kept/return": kept["return"], "kept/cost": kept["cost"]}
    # Before the first episode has ended, its cost is not known.
    return {name: value for name, value in values.items() if not math.isnan(value)}


def end_measures(settings: TrainSettings, agent: Navigator) -> dict[str, float]:
    """Return the agent's measures in the test episodes that chose it: `END`.

    Means over episodes: `return` and `cost`; of each reward term the sum over an
    episode, of `orthogonality` the mean over its steps; `test_change` and
    `retention_change` of `info`, percent; `held_out_gain`, minus their sum, which
    is comparable under different reward weights.
    """
    kwargs = {**settings.env_kwargs, "split": "test"}
    seeds = CHOICE_SEEDS[: settings.evaluation_episodes]
    with one_thread():
        columns = _play(settings.env, kwargs, agent, seeds)
    means = {f"kept/{name}": float(values.mean()) for name, values in columns.items()}
    change = means["kept/test_change"] + means["kept/retention_change"]
    return {**means, "kept/held_out_gain": -change}


class Evaluations(BaseCallback):
    """Passes every evaluation of the trainer to `tell`, which subclasses define."""

    def __init__(self) -> None:
        super().__init__()
        self._reported = 0

    def _on_rollout_start(self) -> None:
        self.catch_up()

    def _on_step(self) -> bool:
        return True

    def catch_up(self) -> None:
        """Pass on the evaluations since the last call; also call it after training."""
        # `train` puts its own callback before its argument `callbacks`.
        trainer = self.locals["callback"].callbacks[0]
        while self._reported < len(trainer.curve):
            self._reported += 1
            earlier = trainer.curve[: self._reported]
            kept = max(earlier, key=lambda point: rank(trainer.settings, point))
            self.tell(int(earlier[-1]["steps"]), curve_measures(earlier[-1], kept))

    def tell(self, steps: int, measures: dict[str, float]) -> None:
        """Handle the measures of an evaluation after `steps` environment steps."""
        raise NotImplementedError


def _play(
    env: str, kwargs: dict[str, Any], agent: Navigator, seeds: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """Play one episode per seed, side by side; return a column for each measure."""
    envs = make_together(env, kwargs, len(seeds))
    columns = {
        name: np.zeros(len(seeds)) for name in ("return", "cost", *NO_PICK, *_HELD_OUT)
    }
    steps = np.zeros(len(seeds))
    observations, infos = envs.reset(seed=list(seeds))  # type: ignore[arg-type]
    playing = np.ones(len(seeds), np.bool_)
    while playing.any():
        actions = agent.act(observations, infos["action_mask"].astype(np.bool_))
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        over = terminated | truncated
        last = infos.get("final_info", infos)
        for name in NO_PICK:
            terms = infos["reward_terms"][name]
            if over.any():  # the infos of those are about their next episodes
                terms = np.where(over, last["reward_terms"][name], terms)
            columns[name] += terms * playing
        cost = (
            np.where(over, last["cost"], infos["cost"]) if over.any() else infos["cost"]
        )
        columns["cost"] += cost * playing
        columns["return"] += rewards * playing
        for name in _HELD_OUT if over.any() else ():
            columns[name] += last[name] * (over & playing)
        steps += playing
        playing &= ~over
    envs.close()
    columns["orthogonality"] /= steps
    return columns
