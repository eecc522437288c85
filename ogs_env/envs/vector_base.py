"""What the native vector environments share: resets, autoreset, infos and frames."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

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
from ogs_env.envs.mixture import MixtureEnv
from ogs_env.envs.observations import candidates
from ogs_env.envs.selection import SelectionEnv
from ogs_env.episode_rewards import Information, VectorRewards
from ogs_env.errors import InputError
from ogs_env.learners import UNCHANGED
from ogs_env.learners.surrogate import VectorSurrogateLearner
from ogs_env.rewards import COST, NO_PICK, weighted_sum

AnyEnv = TypeVar("AnyEnv", SelectionEnv, MixtureEnv)

EnvIndices = NDArray[np.integer]


class VectorStreams(Protocol):
    """Streams and observations of all sub-environments."""

    mask: NDArray[np.int8]
    """Valid actions (num_envs, actions)."""

    def start(self, index: int, stream: NDArray[np.int64]) -> None:
        """Set a new stream of a sub-environment; `deal` then observes it."""

    def deal(self, which: EnvIndices) -> None:
        """Update the observations of sub-environments (n,) with new candidates."""

    def observation(self, which: Any = ...) -> Observation:
        """Return a copy of the observation of all or some sub-environments."""


@dataclass
class Outcome:
    """What the actions of a step have led to; a skip has the terms of `NO_PICK`.

    Attributes:
        terms: Every reward term (num_envs,).
        picks: int64 (num_envs, n), the pool rows picked, then -1.
        invalid: bool (num_envs,), which actions were invalid.
        terminated: bool (num_envs,), which episodes have ended.
    """

    terms: dict[str, NDArray[np.float64]]
    picks: NDArray[np.int64]
    invalid: NDArray[np.bool_]
    terminated: NDArray[np.bool_]


class EpisodeVectorEnv(
    VectorEnv[Observation, NDArray[np.int64], NDArray[Any]], Generic[AnyEnv], ABC
):
    """Base class of `SelectionVectorEnv` and `MixtureVectorEnv`.

    Subclasses set `_learners`, `_rewards` and `_streams`.

    Args:
        make_single: Class of the sub-environments.
        num_envs: Number of sub-environments.
        autoreset_mode: When an ended episode is reset.
        max_episode_steps: Steps after which an episode is truncated; None: never.
        render_mode: One of `metadata["render_modes"]`, or None.
        **kwargs: Arguments of the sub-environments.

    Attributes:
        single: A single environment with the arguments of the sub-environments.
    """

    metadata = {  # noqa: RUF012
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    _learners: VectorSurrogateLearner
    _rewards: VectorRewards
    _streams: VectorStreams

    def __init__(
        self,
        make_single: type[AnyEnv],
        num_envs: int,
        *,
        autoreset_mode: str | AutoresetMode,
        max_episode_steps: int | None,
        render_mode: str | None,
        **kwargs: Any,
    ) -> None:
        check_whole({"num_envs": num_envs})
        if max_episode_steps is not None:
            check_whole({"max_episode_steps": max_episode_steps})
        check_render_mode(render_mode, self.metadata["render_modes"])
        self.num_envs, self.render_mode = num_envs, render_mode
        self.single: AnyEnv = make_single(render_mode=render_mode, **kwargs)
        self.autoreset_mode = checked_autoreset_mode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_action_space = self.single.action_space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.single_observation_space = self.single.observation_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)

        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._over = np.zeros(num_envs, np.bool_)
        self._steps = np.zeros(num_envs, np.int64)
        self._most_steps = max_episode_steps or np.inf
        self._started = np.zeros(num_envs, np.bool_)
        self._no_picks = np.tile(self.single._no_picks, (num_envs, 1))
        self._no_selection = np.tile(self.single._no_selection, (num_envs, 1))

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin new episodes of all sub-environments, or of those in `reset_mask`.

        Args:
            seed: Sub-environment i gets the seed seed + i, or item i of a list.
            options: Options of a single environment, for every sub-environment that is
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
        self._streams.deal(which)
        self._started |= mask
        terms = {name: np.full(n, value) for name, value in NO_PICK.items()}
        values = self._info(terms, self._no_picks, np.zeros(n, np.bool_))
        return self._streams.observation(), _infos(values, mask.copy())

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
        actions = self._checked(actions, beginning)
        if len(beginning):
            self._begin(beginning)
        outcome = self._act(actions, beginning)
        terms, picks, invalid = outcome.terms, outcome.picks, outcome.invalid
        self._steps += 1
        self._steps[beginning] = 0
        terminated, truncated = outcome.terminated, self._steps >= self._most_steps
        self._over = over = terminated | truncated
        rewards = weighted_sum(terms, self.single.reward_weights)
        rewards -= INVALID_ACTION_PENALTY * invalid
        rewards[beginning] = 0  # a negative weight makes it -0.0

        values = self._info(terms, picks, invalid, np.flatnonzero(terminated))
        infos = {}
        if over.any() and self.autoreset_mode == AutoresetMode.SAME_STEP:
            resetting = np.flatnonzero(over)
            infos = self._final(values, resetting)
            self._over = np.zeros_like(over)
            self._begin(resetting)
            self._streams.deal(resetting)
            values = self._info(
                {n: np.where(over, NO_PICK[n], term) for n, term in terms.items()},
                np.where(over[:, None], -1, picks),
                invalid & ~over,
            )
        infos |= _infos(values, np.ones(self.num_envs, np.bool_))
        return self._streams.observation(), rewards, terminated, truncated, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Return the valid actions (num_envs, actions)."""
        return self._streams.mask.astype(np.bool_)

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

    @abstractmethod
    def replayed(self, index: int) -> AnyEnv:
        """Return an environment in the state of a sub-environment.

        It is the same object at every call.

        Args:
            index: Number of the sub-environment.
        """

    @abstractmethod
    def _act(self, actions: NDArray[np.int64], beginning: EnvIndices) -> Outcome:
        """Take the actions.

        Args:
            actions: Numbers of actions (num_envs,).
            beginning: Sub-environments that begin an episode, which is not dealt yet.
                Their actions are skips, or are ignored.
        """

    def _informations(self, picks: int) -> list[Information]:
        """Return one for each sub-environment, or none without a weight for it.

        Args:
            picks: Most picks of an episode.
        """
        count = self.num_envs * (self.single.reward_weights["information"] != 0)
        return [Information(self.single.bundle.k, picks) for _ in range(count)]

    def _checked(
        self, actions: NDArray[np.int64], beginning: EnvIndices
    ) -> NDArray[Any]:
        """Return checked actions; those that begin an episode are the last."""
        checked = np.array(actions)
        last = self._streams.mask.shape[1] - 1
        if checked.shape != (self.num_envs,) or checked.dtype.kind not in "iu":
            raise InputError(
                f"actions: {checked.dtype} of shape {checked.shape}; expected whole "
                f"numbers of shape ({self.num_envs},)"
            )
        checked[beginning] = last
        if checked.min() < 0 or checked.max() > last:
            wrong = checked[(checked < 0) | (checked > last)][0]
            raise InputError(f"action {wrong}: expected 0 to {last}")
        return checked

    def _begin(self, which: EnvIndices, options: dict[str, Any] | None = None) -> None:
        """Begin episodes of some sub-environments, without dealing their streams."""
        for index in which.tolist():
            generator = self._generators[index]
            if generator is None:
                first = self.np_random_seed
                own = None if first is None or first < 0 else first + index
                generator = self._generators[index] = seeding.np_random(own)[0]
            self._streams.start(index, self.single.draw_stream(generator, options))
        self._rewards.reset(which)
        self._over[which] = False
        self._steps[which] = 0

    def _units(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return candidates(self.single.bundle, "initial").rows(rows)[1]

    def _info(
        self,
        terms: dict[str, NDArray[np.float64]],
        picks: NDArray[np.int64],
        invalid: NDArray[np.bool_],
        ended: EnvIndices | None = None,
    ) -> dict[str, Any]:
        """Return the info of a single environment as arrays over sub-environments."""
        learners = self._learners
        changes = np.zeros((len(UNCHANGED), self.num_envs))
        selection = self._no_selection.copy()
        if ended is not None and len(ended):
            selection[ended] = learners.picked[:-1, ended].T
            start = learners.tables.initial_held_out
            losses = learners.held_out_losses(ended)
            changes[: len(start), ended] = 100 * (losses / start - 1).T
        return {
            "action_mask": self._streams.mask.copy(),
            **terms,
            "cost": terms[COST[self.single.cost_answers]].copy(),
            "picks": picks.copy(),
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
            observations[index] = self._streams.observation(index)
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
