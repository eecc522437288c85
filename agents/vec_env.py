"""Adapter from the native vector environment to Stable-Baselines3's `VecEnv`."""

import copy
import functools
from collections.abc import Sequence
from inspect import getmembers
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import (
    VecEnvIndices,
    VecEnvObs,
    VecEnvStepReturn,
)

from ogs_env.envs.vector import SelectionVectorEnv
from ogs_env.errors import InputError

# What differs between sub-environments; all other attributes they share.
_STATE = ("over", "picked", "slate", "slate_number", "slates_in_stream", "stream")
# Its value would be that of no sub-environment.
_HIDDEN = ("close", "learner", "np_random", "np_random_seed", "reset", "step")


class SelectionVecEnv(VecMonitor):
    """A `SelectionVectorEnv` as a `VecEnv` of Stable-Baselines3.

    It behaves as `VecMonitor(DummyVecEnv(...))` over as many `SelectionEnv`: an
    episode's last info has `terminal_observation`, `TimeLimit.truncated` and `episode`.
    MaskablePPO gets masks from `env_method("action_masks")`. `get_attr` and
    `env_method` replay the episodes so far where they ask for something that differs
    between sub-environments; attributes cannot be set.

    ```python
    envs = gymnasium.make_vec("OGS-Medical-v0", 32, autoreset_mode="SameStep")
    MaskablePPO("MultiInputPolicy", SelectionVecEnv(envs)).learn(100_000)
    ```

    Args:
        envs: The vector environment, made with `autoreset_mode="SameStep"`.
        info_keywords: Keys of the sub-environments' infos, in addition to those of an
            episode's end; all keys when omitted. A dictionary of all keys for every
            sub-environment takes longer than the step itself.

    Raises:
        InputError: If `envs` is another environment, or has another autoreset mode.
    """

    def __init__(
        self, envs: gym.vector.VectorEnv, info_keywords: Sequence[str] | None = None
    ) -> None:
        if (
            not isinstance(envs, SelectionVectorEnv)
            or envs.autoreset_mode != AutoresetMode.SAME_STEP
        ):
            raise InputError(
                f"envs: {envs}; expected gymnasium.make_vec(ID, NUM_ENVS, "
                "vectorization_mode='vector_entry_point', autoreset_mode='SameStep')"
            )
        super().__init__(_NativeVecEnv(envs, info_keywords))
        self.reset_infos = self.venv.reset_infos  # one list, also later
        self.metadata = envs.single.metadata

    def __getstate__(self) -> dict[str, Any]:
        # The members of the class include properties, which cannot be pickled.
        return {n: v for n, v in self.__dict__.items() if n != "class_attributes"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state | {"class_attributes": dict(getmembers(type(self)))}


class _NativeVecEnv(VecEnv):
    """A `SelectionVectorEnv` as a `VecEnv`, without statistics of episodes."""

    def __init__(
        self, envs: SelectionVectorEnv, info_keywords: Sequence[str] | None
    ) -> None:
        self.envs = envs
        self._info_keywords = info_keywords
        self._actions = np.zeros(envs.num_envs, np.int64)
        super().__init__(
            envs.num_envs, envs.single_observation_space, envs.single_action_space
        )

    def reset(self) -> VecEnvObs:
        """Reset all sub-environments with the seeds and options set before."""
        plain = np.array([not options for options in self._options])
        masks = [plain, *np.eye(self.num_envs, dtype=np.bool_)[~plain]]
        for mask in masks:
            if mask.any():
                options = {**self._options[mask.argmax()], "reset_mask": mask}
                observations, infos = self.envs.reset(seed=self._seeds, options=options)
                num_envs = np.flatnonzero(mask).tolist()
                for index, info in zip(num_envs, self._infos(infos, mask), strict=True):
                    self.reset_infos[index] = info
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Store the actions (num_envs,) for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step all sub-environments; those whose episodes end are reset."""
        observations, rewards, terminated, truncated, stacked = self.envs.step(
            self._actions
        )
        dones = terminated | truncated
        infos = self._infos(stacked, np.ones(self.num_envs, np.bool_))
        if dones.any():
            ended = np.flatnonzero(dones).tolist()
            lasts = self._infos(stacked["final_info"], dones)
            for index, last in zip(ended, lasts, strict=True):
                self.reset_infos[index], infos[index] = infos[index], last
                last["terminal_observation"] = stacked["final_obs"][index]
        for info, cut in zip(infos, (truncated & ~terminated).tolist(), strict=True):
            info["TimeLimit.truncated"] = cut
        return observations, rewards.astype(np.float32), dones, infos

    def _infos(self, infos: dict[str, Any], which: np.ndarray) -> list[dict[str, Any]]:
        """Return the infos of some sub-environments, with the keys `info_keywords`."""
        if self._info_keywords is not None:
            infos = {name: infos[name] for name in self._info_keywords}
        return _each(infos, which)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call a method that only reads the state of sub-environments."""
        methods = self.get_attr(method_name, indices)
        return [method(*method_args, **method_kwargs) for method in methods]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute or a method of each sub-environment."""
        if attr_name in _HIDDEN:
            raise AttributeError(
                f"{attr_name}: sub-environments have none of {', '.join(_HIDDEN)}"
            )
        num_envs = list(self._get_indices(indices))
        value = getattr(self.envs.single, attr_name)
        if callable(value):
            return [functools.partial(self._call, attr_name, i) for i in num_envs]
        if attr_name in _STATE:
            return [
                copy.copy(getattr(self.envs.replayed(index), attr_name))
                for index in num_envs
            ]
        return [value] * len(num_envs)

    def _call(self, name: str, index: int, *args: Any, **kwargs: Any) -> Any:
        if name == "action_masks":  # at every step of MaskablePPO
            return self.envs.action_masks()[index]
        return getattr(self.envs.replayed(index), name)(*args, **kwargs)

    def set_attr(
        self, attr_name: str, value: Any, indices: VecEnvIndices = None
    ) -> None:
        """Raise AttributeError: sub-environments have no attributes of their own."""
        raise AttributeError(
            f"{attr_name}: sub-environments have no attributes of their own"
        )

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Return False: sub-environments have no wrappers."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return a rendered frame of each sub-environment."""
        return self.envs.render() or [None] * self.num_envs

    def close(self) -> None:
        """Close the environment."""
        self.envs.close()


def _each(infos: dict[str, Any], which: np.ndarray) -> list[dict[str, Any]]:
    """Split stacked infos into one dictionary for each selected sub-environment."""
    names = [name for name in infos if name[0] != "_" and not name.startswith("final_")]
    if not names:
        return [{} for _ in range(which.sum())]
    columns = [list(infos[name][which]) for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
