"""Settings of the training algorithms.

`TrainSettings` configures PPO, `ImitationSettings` imitation of the oracle.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ogs_env.errors import InputError, unknown_name
from ogs_env.seeding import MOST_SEED

PPO_ALGORITHMS = ("maskable-ppo", "ppo")
IMITATION = "imitation"


@dataclass(frozen=True)
class TrainSettings:
    """Settings of PPO training; the defaults suit the shipped environments.

    With `steps` and without `seconds` a run is repeatable to the last bit.

    Attributes:
        env: Id of the environment.
        env_kwargs: Arguments of the environment, without `split`.
        algorithm: `"ppo"` (Stable-Baselines3) or `"maskable-ppo"` (sb3-contrib);
            `"imitation"` has `ImitationSettings`. MaskablePPO is slower and learns the
            same: the Navigator reads the empty places of a slate from the observation
            and never picks one.
        seed: Seed of weights, exploration and episodes.
        seconds: Limit of wall-clock time, evaluations included; None: no limit.
        steps: Limit of environment steps; None: no limit.
        n_envs: Number of sub-environments.
        n_steps: Steps of each sub-environment between two updates.
        batch_size: Steps in a minibatch.
        n_epochs: Passes over a rollout.
        learning_rate: Initial learning rate of Adam; decays linearly to a twentieth.
        gamma: Discount factor; 1 because episodes are short and always end.
        gae_lambda: Lambda of generalised advantage estimation (Schulman et al. 2016).
        clip_range: Clip range of PPO.
        ent_coef: Initial weight of the entropy bonus; decays linearly to 0.
        width: Units of each hidden layer.
        cost_limit: Limit of an episode's mean cost, the sum of `info["cost"]`; None:
            no limit. See `ogs_env.agents.lagrangian`.
        multiplier_rate: Largest change of the cost multiplier at an evaluation. The
            multiplier follows the cost of evaluated episodes, not of training
            episodes: these have random actions and other candidates.
        evaluations: Number of evaluations, evenly spaced over the run.
        evaluation_episodes: Test episodes of an evaluation.

    Raises:
        InputError: If a value is out of range, the algorithm is unknown or both
            limits are None.
    """

    env: str = "OGS-Medical-v0"
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    algorithm: str = "ppo"
    seed: int = 0
    seconds: float | None = 150.0
    steps: int | None = None
    n_envs: int = 128
    n_steps: int = 16
    batch_size: int = 512
    n_epochs: int = 1
    learning_rate: float = 3e-3
    gamma: float = 1.0
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    ent_coef: float = 0.1
    width: int = 64
    cost_limit: float | None = None
    multiplier_rate: float = 0.3
    evaluations: int = 8
    evaluation_episodes: int = 48

    def __post_init__(self) -> None:
        if self.seconds is None and self.steps is None:
            raise InputError("training needs a limit: give seconds, steps or both")
        if self.seconds is not None and not self.seconds > 0:
            raise InputError(f"seconds is {self.seconds}, expected a positive number")
        _check_counts(
            self,
            {
                "seed": 0,
                "n_envs": 1,
                "n_steps": 1,
                # PPO normalises the advantages of a minibatch.
                "batch_size": 2,
                "n_epochs": 1,
                "width": 1,
                "evaluations": 1,
                "evaluation_episodes": 1,
            },
        )
        for name, least, most in (
            ("learning_rate", 0, math.inf),
            ("gamma", 0, 1),
            ("gae_lambda", 0, 1),
            ("clip_range", 0, math.inf),
            ("ent_coef", 0, math.inf),
            ("multiplier_rate", 0, math.inf),
        ):
            value = getattr(self, name)
            if not least <= value <= most or value == math.inf:
                span = f"from 0 to {most}" if most == 1 else "of 0 or more"
                raise InputError(f"{name} is {value}, expected a number {span}")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps is {self.steps}, expected at least 1")
        if self.algorithm == IMITATION:
            raise InputError(
                "algorithm 'imitation' has settings of its own: use ImitationSettings"
            )
        if self.algorithm not in PPO_ALGORITHMS:
            raise unknown_name("algorithm", self.algorithm, ALGORITHMS)
        if self.cost_limit is not None and not self.cost_limit > 0:
            raise InputError(f"cost_limit is {self.cost_limit}, expected more than 0")


@dataclass(frozen=True)
class ImitationSettings:
    """Settings of imitation of the oracle.

    A run is repeatable to the last bit. See `ogs_env.agents.imitation`.

    Attributes:
        env: Id of the environment, a `SelectionEnv`.
        env_kwargs: Arguments of the environment, without `split`.
        algorithm: `"imitation"`.
        seed: Seed of weights, episodes and minibatches.
        width: Units of each hidden layer.
        oracle_episodes: Episodes of the oracle that are imitated.
        evaluation_episodes: Test episodes of the evaluation after each epoch.
        cost_limit: Always None: imitation supports no limit.

    Raises:
        InputError: If a value is out of range.
    """

    env: str = "OGS-Medical-v0"
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    algorithm: str = IMITATION
    seed: int = 0
    width: int = 64
    oracle_episodes: int = 1200
    evaluation_episodes: int = 48
    cost_limit: ClassVar[None] = None

    def __post_init__(self) -> None:
        if self.algorithm != IMITATION:
            raise InputError(
                f"algorithm is '{self.algorithm}', ImitationSettings expects "
                f"'{IMITATION}'; use TrainSettings for PPO"
            )
        least = {"seed": 0, "width": 1, "oracle_episodes": 1, "evaluation_episodes": 1}
        _check_counts(self, least)


def _check_counts(settings: "Settings", least: Mapping[str, int]) -> None:
    """Check that settings, by name, are not below their least values."""
    for name, bound in least.items():
        value = getattr(settings, name)
        if value < bound:
            raise InputError(f"{name} is {value}, expected at least {bound}")
    if settings.seed > MOST_SEED:
        raise InputError(f"seed is {settings.seed}, expected at most {MOST_SEED}")


Settings = TrainSettings | ImitationSettings
ALGORITHMS: dict[str, type[Settings]] = {
    **dict.fromkeys(PPO_ALGORITHMS, TrainSettings),
    IMITATION: ImitationSettings,
}
"""Settings class of each algorithm."""
