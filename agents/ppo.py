"""Train a Navigator with PPO or MaskablePPO.

PPO (Schulman et al. 2017), with invalid actions masked (Huang and Ontanon 2022).
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium as gym
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from ogs_env.agents.callback import Clock, TrainingCallback
from ogs_env.agents.episodes import is_native, make, make_together
from ogs_env.agents.lagrangian import CostLimit
from ogs_env.agents.navigator import Navigator
from ogs_env.agents.network import MaskableNavigatorPolicy, NavigatorPolicy
from ogs_env.agents.settings import TrainSettings
from ogs_env.agents.vec_env import SelectionVecEnv
from ogs_env.errors import InputError

_CLASSES = {
    "maskable-ppo": (MaskablePPO, MaskableNavigatorPolicy),
    "ppo": (PPO, NavigatorPolicy),
}
# The epsilon is SB3's default; the fused optimizer has less overhead per update, which
# dominates in so small a network.
_ADAM = {"eps": 1e-5, "fused": True}
_INFO_KEYWORDS = ("cost",)


def train_ppo(
    settings: TrainSettings,
    callbacks: Sequence[BaseCallback] = (),
) -> Navigator:
    """Train on the train split; return the best agent of the run's evaluations.

    SB3 seeds the global generators of Python, NumPy and torch with the run's seed.

    Args:
        settings: Settings of the run.
        callbacks: Further SB3 callbacks; `TrainingCallback` precedes them.

    Raises:
        InputError: If the environment is unknown or one of its arguments is wrong.
    """
    clock = Clock(settings.seconds, settings.steps)
    environment = make(settings.env, settings.env_kwargs)
    # Further callbacks can read all infos, the training itself reads the cost alone.
    info_keywords = None if callbacks else _INFO_KEYWORDS
    limit, environments = _environments(settings, info_keywords)
    callback = TrainingCallback(settings, clock, limit)

    def learning_rate(_: float) -> float:
        spent = clock.spent(callback.num_timesteps)
        return settings.learning_rate * max(1 - spent, 0.05)

    model = _model(settings, environments, learning_rate)
    with callback.bar, _diverging(settings.learning_rate):
        model.learn(
            settings.steps or 10**12,
            callback=[callback, *callbacks],
            log_interval=None,  # `LoggerCallback` logs, if there is one
        )
        callback.evaluate()
    environments.close()
    agent = callback.checkpoints.best_agent(
        model.policy.mlp_extractor, environment, clock.elapsed()
    )
    environment.close()
    return agent


def new_model(settings: TrainSettings) -> Any:
    """Return an untrained SB3 model with its environments, as `train_ppo` makes it."""
    environments = _environments(settings, _INFO_KEYWORDS)[1]
    return _model(settings, environments, lambda _: settings.learning_rate)


def _environments(
    settings: TrainSettings, info_keywords: Sequence[str] | None
) -> tuple[CostLimit | None, VecNormalize]:
    """Make the sub-environments; rewards are scaled, and charged if costs are limited.

    Returns:
        The wrapper that charges costs, or None, and the outermost wrapper.
    """
    kwargs = {**settings.env_kwargs, "split": "train"}
    environments = _environments_together(
        settings.env, kwargs, settings.n_envs, info_keywords
    )
    limit = None
    if settings.cost_limit is not None:
        limit = CostLimit(environments, settings.cost_limit, settings.multiplier_rate)
    return limit, VecNormalize(
        limit or environments, norm_obs=False, gamma=settings.gamma
    )


def _environments_together(
    env: str, kwargs: dict[str, Any], count: int, info_keywords: Sequence[str] | None
) -> VecEnv:
    """Make sub-environments, with the native vector environment if there is one."""
    if is_native(env, kwargs):
        return SelectionVecEnv(make_together(env, kwargs, count), info_keywords)
    return DummyVecEnv([lambda: _CostInfo(make(env, kwargs))] * count)


@contextlib.contextmanager
def _diverging(learning_rate: float) -> Iterator[None]:
    """Report in one line that a policy's outputs became infinite.

    Raises:
        InputError: If they did.
    """
    try:
        yield
    except ValueError as error:
        if "invalid values" not in str(error):  # of torch.distributions
            raise
        raise InputError(
            "training: the policy's outputs are no finite numbers any more; lower "
            f"learning_rate, which is {learning_rate}, or rebuild the bundle"
        ) from error


class _CostInfo(gym.Wrapper):
    """Reduces infos to the cost: `DummyVecEnv` copies all infos at every step."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(int(action))
        return observation, reward, terminated, truncated, {"cost": info["cost"]}

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(**kwargs)[0], {}


def _model(
    settings: TrainSettings,
    environments: VecEnv,
    learning_rate: Callable[[float], float],
) -> Any:
    algorithm, policy_class = _CLASSES[settings.algorithm]
    return algorithm(
        policy_class,
        environments,
        learning_rate=learning_rate,
        n_steps=settings.n_steps,
        batch_size=settings.batch_size,
        n_epochs=settings.n_epochs,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        clip_range=settings.clip_range,
        policy_kwargs={"width": settings.width, "optimizer_kwargs": _ADAM},
        seed=settings.seed,
        device="cpu",
    )
