"""Vector environment of sample-level environments, computed on arrays."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from ogs_env.envs.arguments import (
    check_render_mode,
    check_whole,
    checked_autoreset_mode,
)
from ogs_env.envs.base import INVALID_ACTION_PENALTY, Observation
from ogs_env.envs.observations import Candidates, candidates
from ogs_env.envs.selection import SelectionEnv
from ogs_env.envs.vector_slates import EnvIndices, VectorSlates
from ogs_env.episode_rewards import Information, VectorRewards
from ogs_env.errors import InputError
from ogs_env.learners import UNCHANGED
from ogs_env.learners.surrogate import VectorSurrogateLearner
from ogs_env.rewards import COST, NO_PICK, weighted_sum


class SelectionVectorEnv(VectorEnv[Observation, NDArray[np.int64], NDArray[Any]]):
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

    metadata = {  # noqa: RUF012
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

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
        check_whole({"num_envs": num_envs})
        if max_episode_steps is not None:
            check_whole({"max_episode_steps": max_episode_steps})
        check_render_mode(render_mode, self.metadata["render_modes"])
        self.num_envs, self.render_mode = num_envs, render_mode
        self.single = single = SelectionEnv(render_mode=render_mode, **kwargs)
        self.autoreset_mode = checked_autoreset_mode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_action_space = single.action_space
        self.action_space = batch_space(single.action_space, num_envs)
        self.single_observation_space = single.observation_space
        self.observation_space = batch_space(single.observation_space, num_envs)

        bundle, budget = single.bundle, single.budget
        samples = single._candidates
        assert isinstance(samples, Candidates)
        self._learners = VectorSurrogateLearner(bundle, num_envs, budget)
        size = num_envs, single.num_slates, single.slate_size
        self._slates = VectorSlates(samples, self._learners, *size, budget)
        informed = single.reward_weights["information"] != 0
        self._rewards = VectorRewards(
            self._learners,
            [Information(bundle.k, budget) for _ in range(num_envs * informed)],
        )
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._over = np.zeros(num_envs, np.bool_)
        self._steps = np.zeros(num_envs, np.int64)
        self._most_steps = max_episode_steps or np.inf
        # Number of candidates that filled the selection of an ended episode.
        self._filled = np.zeros(num_envs, np.int64)
        self._started = np.zeros(num_envs, np.bool_)

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin new episodes of all sub-environments, or of those in `reset_mask`.

        Args:
            seed: Sub-environment i gets the seed seed + i, or item i of a list.
            options: Options of `SelectionEnv`, for every sub-environment that is
                reset; `reset_mask`, bool (num_envs,), selects these.
        """
        n = self.num_envs
        if seed is None or isinstance(seed, int):
            super().reset(seed=seed)
            seed = [None if seed is None else seed + index for index in range(n)]
        else:
            self._np_random_seed = -1  # Gymnasium's value for "no single seed"
        if len(seed) != n:
            raise InputError(
                f"seed: {len(seed)} seeds for {n} sub-environments; expected {n}"
            )
        options = dict(options or {})
        mask = options.pop("reset_mask", np.ones(n, np.bool_))
        is_mask = isinstance(mask, np.ndarray) and mask.dtype == np.bool_
        if not is_mask or mask.shape != (n,) or not mask.any():
            raise InputError(
                f"reset option 'reset_mask': expected a bool array of shape ({n},), "
                "True at least once"
            )
        for index in np.flatnonzero(mask):
            if seed[index] is not None:
                self._generators[index] = seeding.np_random(seed[index])[0]
        which = np.flatnonzero(mask)
        self._begin(which, options)
        self._slates.deal(which)
        self._started |= mask
        terms = {name: np.full(n, value) for name, value in NO_PICK.items()}
        values = self._info(terms, np.full(n, -1), np.zeros(n, np.bool_))
        return self._slates.observation(), _infos(values, mask.copy())

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[
        Observation,
        NDArray[np.float64],
        NDArray[np.bool_],
        NDArray[np.bool_],
        dict[str, Any],
    ]:
        """Take an action in each sub-environment, or begin its next episode."""
        if not self._started.all():
            raise gymnasium.error.ResetNeeded("call reset() before the first step()")
        beginning = np.flatnonzero(self._over)
        if len(beginning) and self.autoreset_mode == AutoresetMode.DISABLED:
            raise gymnasium.error.ResetNeeded(
                f"the episodes of sub-environments {beginning.tolist()} are over: call "
                "reset(options={'reset_mask': ...})"
            )
        places = self._places(actions, beginning)
        if len(beginning):
            self._begin(beginning)
        rows = self._slates.at(places)
        picking = rows >= 0
        invalid = ~picking & (places != self.single.slate_size)
        skipping = ~picking
        skipping[beginning] = False

        terms = self._rewards.pick(rows, self._units)
        self._slates.pick(rows, places)
        terminated, dealing = self._follow(picking, skipping)
        dealing = np.concatenate([beginning, dealing])
        if len(dealing):
            self._slates.deal(dealing)
        self._steps += 1
        self._steps[beginning] = 0
        truncated = self._steps >= self._most_steps
        self._over = over = terminated | truncated
        ended, infos = np.flatnonzero(terminated), {}
        if self.single.fill and len(ended):
            terms = self._fill_up(terms, ended)
        rewards = weighted_sum(terms, self.single.reward_weights)
        rewards -= INVALID_ACTION_PENALTY * invalid

        values = self._info(terms, rows, invalid, ended)
        if over.any() and self.autoreset_mode == AutoresetMode.SAME_STEP:
            resetting = np.flatnonzero(over)
            infos = self._final(values, resetting)
            self._over = np.zeros_like(over)
            self._begin(resetting)
            self._slates.deal(resetting)
            values = self._info(
                {n: np.where(over, NO_PICK[n], term) for n, term in terms.items()},
                np.where(over, -1, rows),
                invalid & ~over,
            )
        infos |= _infos(values, np.ones(self.num_envs, np.bool_))
        return self._slates.observation(), rewards, terminated, truncated, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Return the valid actions (num_envs, slate_size + 1)."""
        return self._slates.mask.astype(np.bool_)

    def sample_ids(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the ids of pool rows, such as those of `infos["selection"][0]`.

        Args:
            rows: int64 (n,), row numbers; those of -1 are left out.

        Returns:
            16 hex digits for each row.
        """
        return self.single.sample_ids(rows.tolist())

    def render(self) -> tuple[Any, ...] | None:
        """Return a frame of each sub-environment."""
        if self.render_mode is None:
            gymnasium.logger.warn("render_mode is None: make_vec(..., render_mode=...)")
            return None
        return tuple(self.replayed(index).render() for index in range(self.num_envs))

    def replayed(self, index: int) -> SelectionEnv:
        """Return an environment in the state of a sub-environment.

        It is the same object at every call. Invalid actions are replayed as skips,
        without their penalty; candidates that filled the selection are not replayed.

        Args:
            index: Number of the sub-environment.
        """
        env, rows = self.single, self._slates.streams[index].ravel()
        env.reset(options={"indices": rows[rows >= 0]})
        count = self._learners.counts[index] - self._filled[index]
        for row in self._learners.picked[:count, index].tolist():
            while row not in env.slate:
                env.step(env.slate_size)
            env.step(int(np.flatnonzero(env.slate == row)[0]))
        while env.slate_number < self._slates.slate_number[index]:
            env.step(env.slate_size)
        return env

    def _places(
        self, actions: NDArray[np.int64], beginning: EnvIndices
    ) -> NDArray[Any]:
        """Return checked actions; sub-environments that begin an episode skip."""
        places = np.array(actions)
        last = self.single.slate_size
        if places.shape != (self.num_envs,) or places.dtype.kind not in "iu":
            raise InputError(
                f"actions: {places.dtype} of shape {places.shape}; expected whole "
                f"numbers of shape ({self.num_envs},)"
            )
        places[beginning] = last
        if places.min() < 0 or places.max() > last:
            wrong = places[(places < 0) | (places > last)][0]
            raise InputError(f"action {wrong}: expected 0 to {last}")
        return places

    def _begin(self, which: EnvIndices, options: dict[str, Any] | None = None) -> None:
        """Begin episodes of some sub-environments, without dealing a slate."""
        for index in which.tolist():
            generator = self._generators[index]
            if generator is None:
                first = self.np_random_seed
                own = None if first is None or first < 0 else first + index
                generator = self._generators[index] = seeding.np_random(own)[0]
            self._slates.start(index, self.single.draw_stream(generator, options))
        self._rewards.reset(which)
        self._over[which] = False
        self._steps[which] = 0
        self._filled[which] = 0

    def _follow(
        self, picking: NDArray[np.bool_], skipping: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], EnvIndices]:
        """Advance slate numbers; return which episodes end and which slates to deal.

        Returns:
            bool (num_envs,), and indices of sub-environments.
        """
        slates = self._slates
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
            stream = self._slates.streams[index].ravel()
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

    def _units(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return candidates(self.single.bundle, "initial").rows(rows)[1]

    def _info(
        self,
        terms: dict[str, NDArray[np.float64]],
        rows: NDArray[np.int64],
        invalid: NDArray[np.bool_],
        ended: EnvIndices | None = None,
    ) -> dict[str, Any]:
        """Return the info of `SelectionEnv` as arrays over sub-environments."""
        n, learners = self.num_envs, self._learners
        changes = np.zeros((len(UNCHANGED), n))
        selection = np.full((n, self.single.budget), -1)
        if ended is not None and len(ended):
            selection[ended] = learners.picked[:-1, ended].T
            start = learners.tables.initial_held_out
            losses = learners.held_out_losses(ended)
            changes[: len(start), ended] = 100 * (losses / start - 1).T
        return {
            "action_mask": self._slates.mask.copy(),
            **terms,
            "cost": terms[COST[self.single.cost_answers]].copy(),
            "picks": rows[:, None].copy(),
            "invalid_action": invalid.astype(np.int64),
            "domain_loss": learners.losses[:, 0].copy(),
            "selection": selection,
            **dict(zip(UNCHANGED, changes, strict=True)),
        }

    def _final(self, values: dict[str, Any], ended: EnvIndices) -> dict[str, Any]:
        """Return the final observations and infos of episodes that a step resets."""
        which = np.zeros(self.num_envs, np.bool_)
        which[ended] = True
        observations = np.full(self.num_envs, None, object)
        for index in ended.tolist():
            observations[index] = self._slates.observation(index)
        return {
            "final_obs": observations,
            "_final_obs": which,
            "final_info": _infos(values, which),
            "_final_info": which,
        }


def _infos(values: dict[str, Any], which: NDArray[np.bool_]) -> dict[str, Any]:
    """Return infos in the format of Gymnasium's vector environments.

    Args:
        values: Arrays over sub-environments by name.
        which: bool (num_envs,), sub-environments with infos; others get 0.
    """
    infos: dict[str, Any] = {}
    complete = which.all()
    for name, value in values.items():
        infos[name] = value
        if not complete:
            infos[name] = np.zeros_like(value)
            infos[name][which] = value[which]
        infos[f"_{name}"] = which
    return infos
