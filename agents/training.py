"""Train a Navigator: with PPO, or by imitation of the oracle."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from ogs_env.agents.callback import LoggerCallback
from ogs_env.agents.checkpoints import described, rank
from ogs_env.agents.imitation import imitate
from ogs_env.agents.navigator import Navigator, one_thread
from ogs_env.agents.ppo import new_model, train_ppo
from ogs_env.agents.settings import ImitationSettings, Settings, TrainSettings
from ogs_env.errors import InputError

__all__ = [
    "ImitationSettings",
    "TrainSettings",
    "described",
    "is_trained",
    "new_model",
    "rank",
    "train",
]


def train(
    settings: Settings,
    folder: Path | None = None,
    callbacks: Sequence[BaseCallback] = (),
    logger: Logger | None = None,
) -> Navigator:
    """Train a Navigator and, given a folder, save it there at the end.

    Training is on the environment's train split. At intervals the agent is evaluated
    in fixed episodes of the test split; the best one is returned, under a cost limit
    the best of those within it. A run that is killed starts again from the beginning.

    Args:
        settings: `TrainSettings` for PPO, `ImitationSettings` for imitation.
        folder: Folder of the agent; the end of the run replaces an agent there.
        callbacks: Further SB3 callbacks of PPO; each evaluation is done before they
            are called.
        logger: SB3's logger, such as `configure(folder, ["tensorboard"])`; it gets the
            numbers of training and of evaluations. None: they are not logged.

    Returns:
        The trained agent; `description["training"]` summarises the run.

    Raises:
        InputError: If the environment is unknown or one of its arguments is wrong, or
            if imitation is given callbacks.
    """
    with one_thread():
        if isinstance(settings, TrainSettings):
            if logger is not None:
                callbacks = [*callbacks, LoggerCallback(logger)]
            agent = train_ppo(settings, callbacks)
        elif callbacks:
            raise InputError(
                "algorithm: 'imitation' takes no callbacks; expected ppo or "
                "maskable-ppo with them"
            )
        else:
            agent = imitate(settings, logger)
    if folder is not None:
        agent.save(folder)
    return agent


def is_trained(settings: Settings, folder: Path) -> bool:
    """Return whether a folder has an agent that was trained with these settings.

    An agent that cannot be loaded, such as a damaged one, counts as missing.
    """
    try:
        description = Navigator.load(folder).description
    except InputError:
        return False
    match description:
        case {"settings": dict(saved), "training": {"curve": [_, *_], "kept": {}}}:
            # An agent of an earlier version may list settings that no longer exist.
            return bool({**saved, **asdict(settings)} == saved)
    return False
