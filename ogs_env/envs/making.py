"""Makers of vector environments, for `gymnasium.make_vec`."""

from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from ogs_env.envs.arguments import check_whole, checked_autoreset_mode
from ogs_env.envs.vector import SelectionVectorEnv


def make_selection_envs(num_envs: int = 1, **kwargs: Any) -> VectorEnv[Any, Any, Any]:
    """Make a vector environment of `SelectionEnv`.

    It takes the same arguments, whether it is the native one or steps sub-environments
    in turn.

    Args:
        num_envs: Number of sub-environments.
        **kwargs: Arguments of `SelectionVectorEnv`; with `learner="live"` the
            sub-environments are stepped in turn.

    Raises:
        InputError: For an invalid argument.
    """
    if kwargs.get("learner") == "live":
        return _make_in_turn(num_envs, **kwargs)
    return SelectionVectorEnv(num_envs, **kwargs)


def _make_in_turn(
    num_envs: int,
    *,
    autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    **kwargs: Any,
) -> SyncVectorEnv:
    check_whole({"num_envs": num_envs})
    return SyncVectorEnv(
        [lambda: gymnasium.make("OGS-Custom-v0", **kwargs)] * num_envs,
        autoreset_mode=checked_autoreset_mode(autoreset_mode),
    )
