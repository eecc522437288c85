"""The Stable-Baselines3 callbacks of PPO training, and the clock of its limits."""

import logging
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from tqdm import tqdm

from ogs_env.agents.checkpoints import Checkpoints
from ogs_env.agents.lagrangian import CostLimit
from ogs_env.agents.settings import TrainSettings

_log = logging.getLogger(__name__)


class Clock:
    """Measures the share of a run's limits that is spent.

    Args:
        seconds: Limit of wall-clock time; None: no limit.
        steps: Limit of environment steps; None: no limit.
    """

    def __init__(self, seconds: float | None, steps: int | None) -> None:
        self.seconds = seconds
        self.steps = steps
        self.started = time.monotonic()

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.started

    def spent(self, steps: int) -> float:
        """Return the larger spent share of the two limits, at most 1."""
        shares = [0.0]
        if self.steps is not None:
            shares.append(steps / self.steps)
        if self.seconds is not None:
            shares.append(self.elapsed() / self.seconds)
        return min(max(shares), 1.0)


class TrainingCallback(BaseCallback):
    """Stops at the time limit, decays the entropy bonus and evaluates at intervals.

    Args:
        settings: Settings of the run.
        clock: Measures the limits of the run.
        limit: The wrapper that charges costs, if costs are limited.

    Attributes:
        checkpoints: The evaluations and the best weights.
        curve: The evaluations so far.
        bar: The progress bar.
    """

    def __init__(
        self, settings: TrainSettings, clock: Clock, limit: CostLimit | None
    ) -> None:
        super().__init__()
        self.settings = settings
        self.clock = clock
        self.limit = limit
        self.checkpoints = Checkpoints(settings)
        self.curve = self.checkpoints.curve
        self.bar = tqdm(
            total=100,
            desc="training",
            bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}",
            leave=False,
            disable=None,  # in a file the lines of evaluations are enough
        )

    def _on_rollout_start(self) -> None:
        spent = self.clock.spent(self.num_timesteps)
        model: Any = self.model
        model.ent_coef = self.settings.ent_coef * (1 - spent)
        self._show(spent)
        if spent * self.settings.evaluations >= len(self.curve) + 1:
            self.evaluate()

    def _on_step(self) -> bool:
        return self.clock.seconds is None or self.clock.elapsed() < self.clock.seconds

    def evaluate(self) -> None:
        """Evaluate the model and move the cost multiplier."""
        network: Any = self.model.policy.mlp_extractor
        measures = {}
        if self.limit:
            measures["multiplier"] = self.limit.multiplier
            measures["training_cost"] = self.limit.mean_cost()
        point = self.checkpoints.evaluate(network, self.num_timesteps, measures)
        if self.limit:
            self.limit.ascend(point["cost"])
        tell_evaluation(self.checkpoints, self.logger, "steps")

    def _show(self, spent: float) -> None:
        """Show in the progress bar what share of the limits is spent."""
        speed = self.num_timesteps / max(self.clock.elapsed(), 1e-3)
        text = f"{self.num_timesteps:,} steps, {speed:,.0f} a second"
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(round(100 * spent) - self.bar.n)


class LoggerCallback(BaseCallback):
    """Gives the model a logger, and writes to it after each rollout.

    Args:
        logger: Logger for SB3's numbers and those of evaluations.
    """

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self._logger = logger

    def _on_training_start(self) -> None:
        self.model.set_logger(self._logger)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        model.dump_logs()


def tell_evaluation(checkpoints: Checkpoints, logger: Logger, unit: str) -> None:
    """Log the last evaluation and the best one so far, and show them in a line.

    The line is logged to `ogs_env.agents.callback` at level INFO.

    Args:
        checkpoints: The evaluations.
        logger: Where `curve_measures` are written.
        unit: What the evaluations' `steps` count.
    """
    point, best = checkpoints.curve[-1], checkpoints.best
    for name, value in curve_measures(point, best).items():
        logger.record(name, value)
    logger.dump(int(point["steps"]))
    parts = [
        f"{int(point['steps']):>11,} {unit}: return {point['return']:6.2f}",
        f"kept model {best['return']:6.2f}",
    ]
    if (limit := checkpoints.settings.cost_limit) is not None:
        parts[0] += f", cost {point['cost']:5.2f}"
        parts[1] += f", cost {best['cost']:5.2f} (limit {limit:g})"
    with tqdm.external_write_mode(file=sys.stderr):
        _log.info("; ".join(parts))


def curve_measures(
    point: Mapping[str, float], best: Mapping[str, float]
) -> dict[str, float]:
    """Return the measures of an evaluation by the names that are logged.

    Args:
        point: One of `description["training"]["curve"]`.
        best: The best of those up to it.

    Returns:
        `evaluation/return` and `evaluation/cost`; with a cost limit also
        `evaluation/multiplier` and `evaluation/training_cost`; and `kept/return` and
        `kept/cost` of the best one.
    """
    values = {f"evaluation/{name}": value for name, value in point.items()}
    del values["evaluation/steps"]
    values |= {"kept/return": best["return"], "kept/cost": best["cost"]}
    # Before the first episode has ended, its cost is not known.
    return {name: value for name, value in values.items() if not math.isnan(value)}
