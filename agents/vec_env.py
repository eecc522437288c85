"""Adapter from the native vector environment to Stable-Baselines3's `VecEnv`."""

import functools
import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import (
    VecEnvIndices,
    VecEnvObs,
    VecEnvStepReturn,
)

from ogs_env.envs.vector import SelectionVectorEnv
from ogs_env.errors import InputError

# Attributes that all sub-environments share, since they have no objects of their own.
_SHARED = (
    "action_space",
    "budget",
    "bundle",
    "slate_size",
    "num_slates",
    "observation_space",
    "order",
    "render_mode",
    "reward_weights",
)


class SelectionVecEnv(VecEnv):
    """A `SelectionVectorEnv` as a `VecEnv` of Stable-Baselines3.

    It behaves as `DummyVecEnv` over as many `Monitor(SelectionEnv)`: an episode's last
    info has `terminal_observation`, `TimeLimit.truncated` and `episode`. MaskablePPO
    gets masks from `env_method("action_masks")`.

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
        self.envs = envs
        self._info_keywords = info_keywords
        self._actions = np.zeros(envs.num_envs, np.int64)
        self._returns = np.zeros(envs.num_envs)
        self._steps = np.zeros(envs.num_envs, np.int64)
        self._start_time = time.time()
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
        self._returns[:] = self._steps[:] = 0
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
        self._returns += rewards
        self._steps += 1
        dones = terminated | truncated
        infos = self._infos(stacked, np.ones(self.num_envs, np.bool_))
        if dones.any():
            ended = np.flatnonzero(dones).tolist()
            lasts = self._infos(stacked["final_info"], dones)
            for index, last in zip(ended, lasts, strict=True):
                self.reset_infos[index], infos[index] = infos[index], last
                last["terminal_observation"] = stacked["final_obs"][index]
                last["episode"] = {
                    "r": round(float(self._returns[index]), 6),
                    "l": int(self._steps[index]),
                    "t": round(time.time() - self._start_time, 6),
                }
            self._returns[ended] = self._steps[ended] = 0
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
        """Return the action masks (slate_size + 1,) of sub-environments."""
        if method_name != "action_masks":
            raise AttributeError(
                f"{method_name}: sub-environments have the method action_masks only"
            )
        masks = self.envs.action_masks()
        return [masks[index] for index in self._get_indices(indices)]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return a shared attribute, once for each sub-environment."""
        num_envs = list(self._get_indices(indices))
        if attr_name == "action_masks":
            return [functools.partial(self._mask, index) for index in num_envs]
        if attr_name not in _SHARED:
            raise AttributeError(
                f"{attr_name}: sub-environments have {', '.join(_SHARED)}"
            )
        return [getattr(self.envs.single, attr_name)] * len(num_envs)

    def _mask(self, index: int) -> np.ndarray:
        return self.envs.action_masks()[index]

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
        """Return True for `Monitor`, whose infos they have, else False."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return a rendered frame of each sub-environment."""
        return self.envs.render() or [None] * self.num_envs

    def close(self) -> None:
        """Close the environment."""
        self.envs.close()


def _each(infos: dict[str, Any], which: np.ndarray) -> list[dict[str, Any]]:
    """Split stacked infos into one dictionary for each selected sub-environment."""
    names = [name for name in infos if name[0] != "_" and not name.startswith("final_")]
    columns = [list(infos[name][which]) for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
