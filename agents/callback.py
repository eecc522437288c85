"""The Stable-Baselines3 callback of PPO training, and the clock of its limits."""

import time
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from ogs_env.agents.checkpoints import Checkpoints
from ogs_env.agents.lagrangian import CostLimit
from ogs_env.agents.settings import TrainSettings


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
        self.bar = tqdm(total=100, unit="%", desc="training", leave=False)

    def _on_rollout_start(self) -> None:
        spent = self.clock.spent(self.num_timesteps)
        model: Any = self.model
        model.ent_coef = self.settings.ent_coef * (1 - spent)
        self.bar.update(round(100 * spent) - self.bar.n)
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
        texts = {name: f"{value:.3g}" for name, value in point.items()}
        self.bar.set_postfix({**texts, "steps": self.num_timesteps})
