"""Slates and observations of the sub-environments of a vector environment."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.envs.observations import BELOW_ANY_COSINE, Candidates
from ogs_env.envs.vector_base import EnvIndices
from ogs_env.learners.surrogate import VectorSurrogateLearner


class VectorSlates:
    """Streams, slates and observations of all sub-environments.

    The values of a sub-environment are equal to those of a `SelectionEnv`, which
    describes the observation. Row -1 stands for an empty place or no pick.

    Args:
        candidates: Observations of the pool's samples.
        learners: Learners of the sub-environments, with the picked samples.
        num_envs: Number of sub-environments.
        num_slates: Largest number of slates in a stream.
        slate_size: Places of a slate.
        budget: Picks in an episode.

    Attributes:
        streams: int64 (num_envs, slates, slate_size), pool rows.
        sizes: int64 (num_envs,), candidates in a stream.
        slates_in_stream: int64 (num_envs,).
        slate_number: int64 (num_envs,), number of the current slate, from 0.
        slate: int64 (num_envs, slate_size + 1), pool rows; the last place, that of a
            skip, is always empty.
        mask: int8 (num_envs, slate_size + 1), 1 = valid action.
        left: int64 (num_envs,), candidates on the slate.
        candidates: float32 (num_envs, slate_size, d + 7), part of the observation.
        context: float32 (num_envs, 3 d + 8), part of the observation.
    """

    def __init__(
        self,
        candidates: Candidates,
        learners: VectorSurrogateLearner,
        num_envs: int,
        num_slates: int,
        slate_size: int,
        budget: int,
    ) -> None:
        self._pool, self._learners = candidates, learners
        d = self._d = len(candidates.directions) // 2
        self._budget = budget
        self._budget_left = 1 - np.arange(budget + 1) / budget
        self._picked_sum = np.zeros((num_envs, d + 2), np.float32)
        self.streams = np.full((num_envs, num_slates, slate_size), -1)
        self.sizes = np.zeros(num_envs, np.int64)
        self.slates_in_stream = np.ones(num_envs, np.int64)
        self.slate_number = np.zeros(num_envs, np.int64)
        self.slate = np.full((num_envs, slate_size + 1), -1)
        self.mask = np.ones((num_envs, slate_size + 1), np.int8)
        self.left = np.zeros(num_envs, np.int64)
        self.candidates = np.zeros((num_envs, slate_size, d + 7), np.float32)
        self.context = np.zeros((num_envs, 3 * d + 8), np.float32)
        self.context[:, : 2 * d] = candidates.directions
        self.context[:, 3 * d + 5 :] = candidates.domain
        # Offset of each sub-environment in the flattened slates.
        self._offsets = np.arange(num_envs) * (slate_size + 1)

    def start(self, index: int, stream: NDArray[np.int64]) -> None:
        """Set a new stream of a sub-environment; `deal` then deals its first slate."""
        slate_size = self.streams.shape[2]
        flat = self.streams[index].reshape(-1)
        flat[: len(stream)], flat[len(stream) :] = stream, -1
        self.sizes[index] = len(stream)
        self.slates_in_stream[index] = -(-len(stream) // slate_size)
        self.slate_number[index] = 0
        self._picked_sum[index] = 0
        self.context[index, 2 * self._d : 3 * self._d + 5] = 0
        self.context[index, 3 * self._d] = 1

    def deal(self, which: EnvIndices) -> None:
        """Deal the current slates of some sub-environments (n,)."""
        d, counts = self._d, self._learners.counts[which]
        rows = self.streams[which, self.slate_number[which]]
        occupied = rows >= 0
        self.slate[which, :-1] = rows
        self.mask[which, :-1] = occupied
        self.left[which] = occupied.sum(axis=1)
        candidates = self._pool.places(rows)
        with_picks = np.flatnonzero(counts)
        if len(with_picks):
            counts = counts[with_picks]
            picked = self._learners.picked[:, which[with_picks]].T
            cosines = self._pool.cosines(
                picked[picked >= 0][:, None], rows[with_picks.repeat(counts)]
            )
            first = counts.cumsum() - counts
            nearest = np.maximum.reduceat(cosines, first, axis=0)
            candidates[with_picks, :, d + 5] = nearest
        self.candidates[which] = candidates
        slates = self.slates_in_stream[which]
        self.context[which, 3 * d + 1] = (
            slates - 1 - self.slate_number[which]
        ) / slates

    def at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the pool rows at one place of each sub-environment (num_envs,)."""
        return self.slate.reshape(-1).take(self._offsets + places)

    def pick(self, rows: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        """Remove the candidates just picked from the slates.

        Args:
            rows: Pool rows (num_envs,), -1 where a sub-environment picks none.
            places: Their places on the slates (num_envs,).
        """
        d, counts, picking = self._d, self._learners.counts, rows >= 0
        self._picked_sum += self._pool.places(rows)[:, : d + 2]
        mean = self._picked_sum / np.maximum(counts, 1).astype(np.float32)[:, None]
        self.context[:, 2 * d : 3 * d] = mean[:, :d]
        self.context[:, 3 * d] = self._budget_left.take(counts)
        self.context[:, 3 * d + 2 : 3 * d + 4] = mean[:, d:]

        nearest = self.candidates[:, :, d + 5]
        nearest[picking & (counts == 1)] = BELOW_ANY_COSINE
        cosines = self._pool.cosines(rows[:, None], self.slate[:, :-1])
        cosines[~picking] = BELOW_ANY_COSINE  # leaves `nearest` unchanged
        np.maximum(nearest, cosines, out=nearest)

        picked = np.flatnonzero(picking), places[picking]
        self.candidates[picked] = 0
        self.slate[picked] = -1
        self.mask[picked] = 0
        self.left -= picking

    def observation(self, which: Any = ...) -> dict[str, Any]:
        """Return a copy of the observation of all or some sub-environments.

        Args:
            which: Index of sub-environments; all by default.
        """
        dealt = (self.slate_number[which] + 1) * self.streams.shape[2]
        to_come = np.maximum(self.sizes[which] - dealt, 0)
        left = np.maximum(self.left[which] + to_come, 1)
        picks_left = self._budget - self._learners.counts[which]
        self.context[which, 3 * self._d + 4] = np.minimum(picks_left / left, 1.0)
        return {
            "candidates": self.candidates[which].copy(),
            "context": self.context[which].copy(),
        }
