"""What a run's trackers and sweeps are told: the names are W&B's and `ogs sweep`'s."""

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
"""Told at every evaluation: the model's, and those of the best model so far."""
_HELD_OUT = ("test_change", "retention_change")
END = tuple(f"kept/{name}" for name in (*NO_PICK, *_HELD_OUT, "held_out_gain"))
"""Told once, of the model that was kept."""


def curve_measures(
    point: Mapping[str, float], kept: Mapping[str, float]
) -> dict[str, float]:
    """Return what an evaluation tells, by name: `CURVE` and, with a limit, more.

    Args:
        point: One of `description["training"]["curve"]`.
        kept: The best of those up to it.
    """
    told = {f"evaluation/{name}": value for name, value in point.items()}
    del told["evaluation/steps"]
    told |= {"kept/return": kept["return"], "kept/cost": kept["cost"]}
    # Before the first episode has ended, its cost is not known.
    return {name: value for name, value in told.items() if not math.isnan(value)}


def end_measures(settings: TrainSettings, agent: Navigator) -> dict[str, float]:
    """Return what the kept model does in the test episodes that chose it: `END`.

    Means over episodes: `return` and `cost`; of each reward term the sum over an
    episode, of `orthogonality` the mean over its steps; `test_change` and
    `retention_change` of `info`, percent; `held_out_gain`, how far these two have
    fallen together, which means the same under any reward weights.
    """
    kwargs = {**settings.env_kwargs, "split": "test"}
    seeds = CHOICE_SEEDS[: settings.evaluation_episodes]
    with one_thread():
        found = _play(settings.env, kwargs, agent, seeds)
    means = {f"kept/{name}": float(values.mean()) for name, values in found.items()}
    fallen = means["kept/test_change"] + means["kept/retention_change"]
    return {**means, "kept/held_out_gain": -fallen}


class Evaluations(BaseCallback):
    """Is told every evaluation of the trainer: subclasses define `tell`."""

    def __init__(self) -> None:
        super().__init__()
        self._told = 0

    def _on_rollout_start(self) -> None:
        self.catch_up()

    def _on_step(self) -> bool:
        return True

    def catch_up(self) -> None:
        """Tell the evaluations since the last call; call it after the training too."""
        # `train` puts its own callback before those that it is given.
        trainer = self.locals["callback"].callbacks[0]
        while self._told < len(trainer.curve):
            self._told += 1
            earlier = trainer.curve[: self._told]
            kept = max(earlier, key=lambda point: rank(trainer.settings, point))
            self.tell(int(earlier[-1]["steps"]), curve_measures(earlier[-1], kept))

    def tell(self, steps: int, measures: dict[str, float]) -> None:
        """Hear what an evaluation after so many steps has measured."""
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
