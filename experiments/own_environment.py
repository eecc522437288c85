"""Settings for training a Navigator in the environment of a pool of one's own."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ogs_env.agents.evaluation import evaluate, make
from ogs_env.agents.settings import TrainSettings
from ogs_env.agents.training import described
from ogs_env.bundle import Bundle

ENVIRONMENT = "OGS-Custom-v0"
_RANDOM_EPISODES = 100


def environment_kwargs(
    bundle: Bundle, share: float, weights: Mapping[str, float]
) -> dict[str, Any]:
    """Return keyword arguments of the environment of a bundle.

    An episode picks from a part of the pool. Its learner predicts so many more epochs
    that the picks move the model as far as a selection from the whole pool does: what
    is forgotten grows faster than the number of picks.

    Args:
        bundle: The pool's bundle.
        share: Share of the candidates that is selected.
        weights: Weights of reward terms that are not the bundle's default.
    """
    kwargs: dict[str, Any] = {"bundle": str(bundle.path)}
    counts = described(make(ENVIRONMENT, kwargs))["environment"]
    stream = counts["num_slates"] * counts["slate_size"]
    budget = kwargs["budget"] = max(1, round(share * stream))
    epochs = bundle.manifest["learner"]["epochs"]
    kwargs["epochs"] = epochs * share * len(bundle.pool) / budget
    kwargs["fill"] = True
    kwargs["reward_weights"] = dict(weights)
    return kwargs


def navigator_settings(
    bundle: Bundle,
    share: float,
    weights: Mapping[str, float],
    steps: int,
    seed: int,
) -> TrainSettings:
    """Return settings of PPO in the environment of a bundle; a repeatable run.

    Args:
        bundle: The pool's bundle.
        share: Share of the candidates that is selected.
        weights: Weights of reward terms that are not the bundle's default.
        steps: Environment steps of the training.
        seed: Seed of the training.
    """
    return TrainSettings(
        env=ENVIRONMENT,
        env_kwargs=environment_kwargs(bundle, share, weights),
        seed=seed,
        seconds=None,
        steps=steps,
    )


def constrained_settings(
    bundle: Bundle, share: float, steps: int, seed: int
) -> TrainSettings:
    """Return settings of PPO with a limit on the cost; a repeatable run.

    The limit is the mean cost of episodes with random picks: what is selected may not
    make the model forget more than random picks do. The reward has the bundle's own
    weights.

    Args:
        bundle: The pool's bundle.
        share: Share of the candidates that is selected.
        steps: Environment steps of a training without a limit. This one has three
            times as many, since the multiplier of the cost has to be found as well.
        seed: Seed of the training.
    """
    settings = navigator_settings(bundle, share, {}, 3 * steps, seed)
    seeds = range(_RANDOM_EPISODES)
    costs = evaluate(
        "random", ENVIRONMENT, seeds, split="test", **settings.env_kwargs
    ).costs
    return dataclasses.replace(
        settings,
        cost_limit=round(float(costs.mean()), 4),
        multiplier_rate=0.5,
        evaluations=45,
    )
