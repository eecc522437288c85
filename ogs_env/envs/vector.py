"""Vector environment of sample-level environments, computed on arrays."""

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from ogs_env.envs.observations import Candidates
from ogs_env.envs.selection import SelectionEnv, nearest_candidates
from ogs_env.envs.vector_base import EnvIndices, EpisodeVectorEnv, Outcome
from ogs_env.envs.vector_slates import VectorSlates
from ogs_env.episode_rewards import VectorRewards
from ogs_env.errors import InputError
from ogs_env.learners.surrogate import VectorSurrogateLearner


class SelectionVectorEnv(EpisodeVectorEnv[SelectionEnv]):
    """Vector environment of `SelectionEnv`.

    Observations, rewards and infos are equal, bit for bit, to those of
    `gymnasium.vector.SyncVectorEnv` over `SelectionEnv`, for the same seeds and
    actions. An int seed of `reset` seeds sub-environment i with seed + i; a list has
    one seed for each sub-environment.

    ```python
    >>> import gymnasium, ogs_env
    >>> envs = gymnasium.make_vec("OGS-Medical-v0", num_envs=4)
    >>> observations, infos = envs.reset(seed=0)
    >>> observations["candidates"].shape, infos["action_mask"].shape
    ((4, 16, 39), (4, 17))

    ```

    Args:
        num_envs: Number of sub-environments.
        autoreset_mode: When an ended episode is reset, as in `SyncVectorEnv`:
            `"NextStep"`, in the next step; `"SameStep"`, in the same step, and `infos`
            has `final_obs` and `final_info`; `"Disabled"`, only by
            `reset(options={"reset_mask": mask})`.
        max_episode_steps: Steps after which an episode is truncated, as by
            Gymnasium's `TimeLimit`; None: never.
        render_mode: `"ansi"` or `"rgb_array"`; a frame replays the episode so far.
        **kwargs: Arguments of `SelectionEnv`, except the live learner. A weight for
            `information` is slow: that term is computed for each sub-environment.

    Raises:
        InputError: For an invalid argument.
    """

    _streams: VectorSlates

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("learner", "surrogate") != "surrogate":
            raise InputError(
                f"learner: '{kwargs['learner']}' has no vector environment of its own; "
                "use gymnasium.make_vec(ID, NUM_ENVS, learner='live')"
            )
        super().__init__(
            SelectionEnv,
            num_envs,
            autoreset_mode=autoreset_mode,
            max_episode_steps=max_episode_steps,
            render_mode=render_mode,
            **kwargs,
        )
        single = self.single
        budget = single.budget
        samples = single._candidates
        assert isinstance(samples, Candidates)
        self._learners = VectorSurrogateLearner(single.bundle, num_envs, budget)
        size = num_envs, single.num_slates, single.slate_size
        self._streams = VectorSlates(samples, self._learners, *size, budget)
        self._rewards = VectorRewards(self._learners, self._informations(budget))
        # Number of candidates that filled the selection of an ended episode.
        self._filled = np.zeros(num_envs, np.int64)

    def replayed(self, index: int) -> SelectionEnv:
        """Return an environment in the state of a sub-environment.

        It is the same object at every call. Invalid actions are replayed without their
        penalty; candidates that filled the selection are not replayed.

        Args:
            index: Number of the sub-environment.
        """
        env, rows = self.single, self._streams.streams[index].ravel()
        env.reset(options={"indices": rows[rows >= 0]})
        count = self._learners.counts[index] - self._filled[index]
        for row in self._learners.picked[:count, index].tolist():
            while row not in env.slate:
                env.step(env.slate_size)
            env.step(int(np.flatnonzero(env.slate == row)[0]))
        while env.slate_number < self._streams.slate_number[index]:
            env.step(env.slate_size)
        return env

    def _act(self, places: NDArray[np.int64], beginning: EnvIndices) -> Outcome:
        slates = self._streams
        invalid = (slates.at(places) < 0) & (places != self.single.slate_size)
        if invalid.any():
            masks = slates.mask[invalid, :-1]
            places[invalid] = nearest_candidates(masks, places[invalid])
        rows = slates.at(places)
        picking = rows >= 0
        skipping = ~picking
        skipping[beginning] = False

        terms = self._rewards.pick(rows, self._units)
        slates.pick(rows, places)
        terminated, dealing = self._follow(picking, skipping)
        dealing = np.concatenate([beginning, dealing])
        if len(dealing):
            slates.deal(dealing)
        ended = np.flatnonzero(terminated)
        if self.single.fill and len(ended):
            terms = self._fill_up(terms, ended)
        return Outcome(terms, rows[:, None], invalid, terminated)

    def _begin(self, which: EnvIndices, options: dict[str, Any] | None = None) -> None:
        super()._begin(which, options)
        self._filled[which] = 0

    def _follow(
        self, picking: NDArray[np.bool_], skipping: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], EnvIndices]:
        """Advance slate numbers; return which episodes end and which slates to deal.

        Returns:
            bool (num_envs,), and indices of sub-environments.
        """
        slates = self._streams
        spent = picking & (self._learners.counts == self.single.budget)
        leaving = skipping | (picking & (slates.left == 0) & ~spent)
        last = slates.slate_number + 1 == slates.slates_in_stream
        dealing = np.flatnonzero(leaving & ~last)
        slates.slate_number[dealing] += 1
        return spent | (leaving & last), dealing

    def _fill_up(
        self, terms: dict[str, NDArray[np.float64]], ended: EnvIndices
    ) -> dict[str, NDArray[np.float64]]:
        """Fill the selections of ended episodes; return the terms with the rows'."""
        learners, filling = self._learners, {}
        for index in ended.tolist():
            picked = learners.picked[: learners.counts[index], index]
            stream = self._streams.streams[index].ravel()
            generator = self._generators[index]
            assert generator is not None
            filling[index] = self.single.fill_rows(
                picked.tolist(), stream[stream >= 0], generator
            )
            self._filled[index] = len(filling[index])
        for pick in range(max(map(len, filling.values()))):
            rows = np.full(self.num_envs, -1)
            for index, own in filling.items():
                if pick < len(own):
                    rows[index] = own[pick]
            added = self._rewards.pick(rows, self._units)
            terms = {
                name: value + np.where(rows >= 0, added[name], 0)
                for name, value in terms.items()
            }
        return terms
