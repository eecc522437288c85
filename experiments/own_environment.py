"""Settings for training a Navigator in the environment of a pool of one's own."""

from collections.abc import Mapping
from typing import Any

from ogs_env.agents.episodes import make
from ogs_env.agents.settings import TrainSettings
from ogs_env.agents.training import described
from ogs_env.bundle import Bundle

ENVIRONMENT = "OGS-Custom-v0"


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
