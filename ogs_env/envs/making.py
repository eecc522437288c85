"""Makers of vector environments, for `gymnasium.make_vec`.

They take the same arguments, whether an environment has a native vector environment
or sub-environments that are stepped in turn.
"""

from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from ogs_env.envs.arguments import check_whole, checked_autoreset_mode
from ogs_env.envs.vector import SelectionVectorEnv


def make_selection_envs(num_envs: int = 1, **kwargs: Any) -> VectorEnv[Any, Any, Any]:
    """Make a vector environment of `SelectionEnv`.

    Args:
        num_envs: Number of sub-environments.
        **kwargs: Arguments of `SelectionVectorEnv`; with `learner="live"` the
            sub-environments are stepped in turn.

    Raises:
        InputError: For an invalid argument.
    """
    if kwargs.get("learner") == "live":
        return _make_in_turn("OGS-Custom-v0", num_envs, **kwargs)
    return SelectionVectorEnv(num_envs, **kwargs)


def make_mixture_envs(num_envs: int = 1, **kwargs: Any) -> VectorEnv[Any, Any, Any]:
    """Make a vector environment of `MixtureEnv`, whose members are stepped in turn.

    Args:
        num_envs: Number of sub-environments.
        **kwargs: `autoreset_mode` and `max_episode_steps` as for `SelectionVectorEnv`,
            and arguments of `MixtureEnv`.

    Raises:
        InputError: For an invalid argument.
    """
    return _make_in_turn("OGS-Custom-Mixture-v0", num_envs, **kwargs)


def _make_in_turn(
    env_id: str,
    num_envs: int,
    *,
    autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    **kwargs: Any,
) -> SyncVectorEnv:
    check_whole({"num_envs": num_envs})
    return SyncVectorEnv(
        [lambda: gymnasium.make(env_id, **kwargs)] * num_envs,
        autoreset_mode=checked_autoreset_mode(autoreset_mode),
    )
