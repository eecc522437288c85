"""Vector environment of cluster-level environments, computed on arrays."""

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from ogs_env.envs.mixture import MixtureEnv
from ogs_env.envs.vector_base import EnvIndices, EpisodeVectorEnv, Outcome
from ogs_env.envs.vector_batches import BatchLearners, BatchRewards
from ogs_env.envs.vector_clusters import VectorClusters


class MixtureVectorEnv(EpisodeVectorEnv[MixtureEnv]):
    """Vector environment of `MixtureEnv`.

    Observations, rewards and infos are equal, bit for bit, to those of
    `gymnasium.vector.SyncVectorEnv` over `MixtureEnv`, for the same seeds and actions.

    ```python
    >>> import gymnasium, ogs_env
    >>> envs = gymnasium.make_vec("OGS-Medical-Mixture-v0", num_envs=4)
    >>> observations, infos = envs.reset(seed=0)
    >>> observations["clusters"].shape, infos["action_mask"].shape
    ((4, 16, 38), (4, 16))

    ```

    Args:
        num_envs: Number of sub-environments.
        autoreset_mode: When an ended episode is reset, as for `SelectionVectorEnv`.
        max_episode_steps: Steps after which an episode is truncated, as by
            Gymnasium's `TimeLimit`; None: never.
        render_mode: `"ansi"` or `"rgb_array"`; a frame replays the episode so far.
        **kwargs: Arguments of `MixtureEnv`. A weight for `information` is slow: that
            term is computed for each sub-environment.

    Raises:
        InputError: For an invalid argument.
    """

    _rewards: BatchRewards
    _streams: VectorClusters

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            MixtureEnv,
            num_envs,
            autoreset_mode=autoreset_mode,
            max_episode_steps=max_episode_steps,
            render_mode=render_mode,
            **kwargs,
        )
        single = self.single
        capacity = single.batch * single.steps
        learners = BatchLearners(single.bundle, num_envs, capacity)
        self._learners = learners
        self._streams = VectorClusters(
            single._clusters, single._candidates, num_envs, single.batch, single.steps
        )
        self._rewards = BatchRewards(learners, self._informations(capacity))
        # Actions of the episodes so far, which `replayed` repeats.
        self._actions = np.zeros((num_envs, single.steps), np.int64)

    def replayed(self, index: int) -> MixtureEnv:
        """Return an environment in the state of a sub-environment.

        It is the same object at every call.

        Args:
            index: Number of the sub-environment.
        """
        self.single.reset(options={"indices": self._streams.streams[index]})
        for action in self._actions[index, : self._streams.batches[index]].tolist():
            self.single.step(action)
        return self.single

    def _act(self, actions: NDArray[np.int64], beginning: EnvIndices) -> Outcome:
        streams = self._streams
        if len(beginning):
            streams.deal(beginning)
        drawing = np.ones(self.num_envs, np.bool_)
        drawing[beginning] = False
        which = np.flatnonzero(drawing)
        self._actions[which, streams.batches[which]] = actions[which]
        invalid = drawing & (streams.left[np.arange(self.num_envs), actions] == 0)
        actions[invalid] = streams.left[invalid].argmax(axis=1)
        picks = streams.draw(which, actions[which])
        terms = self._rewards.pick_batch(picks, self._units)
        ended = (streams.batches == self.single.steps) | streams.exhausted
        return Outcome(terms, picks, invalid, ended & drawing)
