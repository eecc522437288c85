"""Evaluate an agent during training, keep its best weights and describe it."""

import copy
from dataclasses import asdict
from typing import Any

import gymnasium as gym
import torch

from ogs_env.agents.episodes import CHOICE_SEEDS, play_together
from ogs_env.agents.navigator import Navigator
from ogs_env.agents.network import Network
from ogs_env.agents.settings import Settings
from ogs_env.envs.mixture import MixtureEnv
from ogs_env.envs.selection import SelectionEnv
from ogs_env.errors import InputError

# A mean cost of evaluated episodes up to this share above the limit is accepted.
_COST_TOLERANCE = 0.05


def rank(settings: Settings, point: dict[str, float]) -> tuple[bool, float]:
    """Return the sort key of an evaluation; a better evaluation has a larger key.

    Evaluations within the cost limit come before all others and are compared by
    return; the others are compared by cost, lower first.

    Args:
        settings: Settings of the run, with its `cost_limit`.
        point: An evaluation, with `return` and `cost`.
    """
    limit = settings.cost_limit
    within_limit = limit is None or point["cost"] <= limit * (1 + _COST_TOLERANCE)
    return within_limit, point["return"] if within_limit else -point["cost"]


class Checkpoints:
    """Evaluations of a training run and the weights of the best one.

    Args:
        settings: Settings of the run.

    Attributes:
        curve: The evaluations in order; each has `steps`, mean `return` and `cost`.
        best: The best evaluation by `rank`; the first one of equals.
        best_weights: State dict of the network at the best evaluation.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.curve: list[dict[str, float]] = []
        self.best: dict[str, float] = {}
        self.best_weights: dict[str, torch.Tensor] = {}

    def evaluate(
        self, network: Network, steps: int, measures: dict[str, float] | None = None
    ) -> dict[str, float]:
        """Run the evaluation episodes, on the test split and without exploration.

        Args:
            network: The network to evaluate; its weights are copied if it is the best.
            steps: Environment steps or examples that it is trained on.
            measures: Further entries of the evaluation.

        Returns:
            The evaluation, which is appended to `curve`.
        """
        evaluation = play_together(
            self.settings.env,
            {**self.settings.env_kwargs, "split": "test"},
            Navigator(network, {}),
            CHOICE_SEEDS[: self.settings.evaluation_episodes],
        )
        point = {
            "steps": steps,
            "return": float(evaluation.returns.mean()),
            "cost": float(evaluation.costs.mean()),
            **(measures or {}),
        }
        self.curve.append(point)
        if not self.best or rank(self.settings, point) > rank(self.settings, self.best):
            self.best = point
            self.best_weights = copy.deepcopy(network.state_dict())
        return point

    def best_agent(
        self, network: Network, environment: gym.Env, seconds: float
    ) -> Navigator:
        """Return the agent of the best evaluation, with its description.

        Args:
            network: The trained network; it is set to the best weights.
            environment: An environment of the run, for the description.
            seconds: Duration of the training in seconds.
        """
        network.load_state_dict(self.best_weights)
        description = {
            **described(environment),
            "settings": asdict(self.settings),
            "training": {
                "steps": self.curve[-1]["steps"],
                "seconds": round(seconds, 1),
                "kept": self.best,
                "curve": self.curve,
            },
        }
        return Navigator(network, description)


def described(environment: gym.Env) -> dict[str, Any]:
    """Return the entries of an agent's description that are about its environment.

    Raises:
        InputError: If it is neither a `SelectionEnv` nor a `MixtureEnv`.
    """
    inner = environment.unwrapped
    counts: dict[str, int]
    if isinstance(inner, SelectionEnv):
        counts = {
            "slate_size": inner.slate_size,
            "num_slates": inner.num_slates,
            "budget": inner.budget,
        }
    elif isinstance(inner, MixtureEnv):
        clusters = len(inner.left)
        counts = {"clusters": clusters, "batch": inner.batch, "steps": inner.steps}
    else:
        raise InputError(f"{environment}: expected a SelectionEnv or a MixtureEnv")
    return {
        "bundle": inner.bundle.name,
        "space": inner.bundle.space,
        "environment": {"id": inner.spec.id if inner.spec else "", **counts},
        "reward_weights": inner.reward_weights,
    }
