"""Measures of a training run, by the names of the loggers and of `ogs sweep`."""

from abc import abstractmethod

from stable_baselines3.common.callbacks import BaseCallback

from ogs_env.agents.callback import curve_measures
from ogs_env.agents.episodes import CHOICE_SEEDS, play_together
from ogs_env.agents.navigator import Navigator, one_thread
from ogs_env.agents.settings import Settings
from ogs_env.agents.training import rank
from ogs_env.rewards import NO_PICK

CURVE = ("evaluation/return", "evaluation/cost", "kept/return", "kept/cost")
"""Logged at every evaluation: the model's, and those of the best checkpoint so far."""
_CHANGES = ("test_change", "retention_change", "held_out_gain")
END = tuple(f"kept/{name}" for name in (*NO_PICK, *_CHANGES))
"""Logged once, at the end, of the best checkpoint."""


def end_measures(settings: Settings, agent: Navigator) -> dict[str, float]:
    """Return the agent's measures in the test episodes that chose it: `END`.

    Means over episodes: `return` and `cost`; each reward term, as
    `rewards.episode_terms`; `test_change` and `retention_change` of `info`, percent;
    `held_out_gain`, minus their sum, which is comparable under different reward
    weights.
    """
    kwargs = {**settings.env_kwargs, "split": "test"}
    seeds = CHOICE_SEEDS[: settings.evaluation_episodes]
    with one_thread():
        episodes = play_together(settings.env, kwargs, agent, seeds)
    columns = {
        "return": episodes.returns,
        "cost": episodes.costs,
        **episodes.terms,
        "test_change": episodes.test_changes,
        "retention_change": episodes.retention_changes,
    }
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
            best = max(earlier, key=lambda point: rank(trainer.settings, point))
            self.tell(int(earlier[-1]["steps"]), curve_measures(earlier[-1], best))

    @abstractmethod
    def tell(self, steps: int, measures: dict[str, float]) -> None:
        """Handle the measures of an evaluation after `steps` environment steps."""
