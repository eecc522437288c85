"""Wrappers of the environments for libraries that train in them."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from ogs_env.errors import InputError


class ActionMaskObservation(
    gymnasium.ObservationWrapper[dict[str, Any], Any, Any], RecordConstructorArgs
):
    """Adds the mask of valid actions to the observation.

    RLlib and Tianshou read masks there, under keys of their own. The default keys are
    RLlib's; Tianshou's are `observation_key="obs", mask_key="mask"`. For a library that
    needs a flat vector beside the mask, flatten the environment first:

    ```python
    >>> import gymnasium, ogs_env
    >>> from gymnasium.wrappers import FlattenObservation
    >>> from ogs_env.wrappers import ActionMaskObservation
    >>> env = FlattenObservation(gymnasium.make("OGS-Medical-v0"))
    >>> observation, info = ActionMaskObservation(env).reset(seed=0)
    >>> {name: part.shape for name, part in observation.items()}
    {'observations': (728,), 'action_mask': (17,)}

    ```

    Args:
        env: An environment with discrete actions and the method `action_masks`.
        observation_key: Key of the environment's own observation.
        mask_key: Key of the mask, int8 (actions,), 1 = valid.

    Raises:
        InputError: If the environment has no masks, or both keys are the same.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        *,
        observation_key: str = "observations",
        mask_key: str = "action_mask",
    ) -> None:
        RecordConstructorArgs.__init__(
            self, observation_key=observation_key, mask_key=mask_key
        )
        super().__init__(env)
        actions = env.action_space
        has_masks = env.has_wrapper_attr("action_masks")
        if not isinstance(actions, spaces.Discrete) or not has_masks:
            raise InputError(
                f"{env}: expected an environment with discrete actions and the method "
                "action_masks, such as OGS-Medical-v0"
            )
        if observation_key == mask_key:
            raise InputError(
                f"observation_key, mask_key: both are '{mask_key}'; expected two names"
            )
        self._keys = observation_key, mask_key
        parts = env.observation_space, spaces.Box(0, 1, (int(actions.n),), np.int8)
        self.observation_space = spaces.Dict(dict(zip(self._keys, parts, strict=True)))

    def observation(self, observation: Any) -> dict[str, Any]:
        """Return the observation with the mask of the current state."""
        mask = self.get_wrapper_attr("action_masks")().astype(np.int8)
        return dict(zip(self._keys, (observation, mask), strict=True))
