"""The hands of many environments, and what is seen of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.envs.observations import BELOW_ANY_COSINE, Candidates
from ogs_env.learners.surrogate import SurrogateLearners

Copies = NDArray[np.integer]


class Hands:
    """The streams, tables and observations of environments side by side.

    What it holds of a copy is what a `SelectionEnv` holds, number by number; that
    class tells the observation. Row -1 is an empty place or no pick.

    Args:
        candidates: What is seen of the pool's samples.
        learners: Know what was picked.
        copies: Environments.
        hands: Most hands in a stream.
        hand_size: Places on a table.
        budget: Picks in an episode.

    Attributes:
        streams: int64 (copies, hands, hand_size), pool rows.
        sizes: int64 (copies,), candidates in a stream.
        hands_in_stream: int64 (copies,).
        hand: int64 (copies,), number of the hand on the table, from 0.
        table: int64 (copies, hand_size + 1), pool rows; the last place, that of a
            pass, is always empty.
        mask: int8 (copies, hand_size + 1), 1 = valid action.
        left: int64 (copies,), candidates on the table.
        candidates, context: float32, the observation's parts, of all copies.
    """

    def __init__(
        self,
        candidates: Candidates,
        learners: SurrogateLearners,
        copies: int,
        hands: int,
        hand_size: int,
        budget: int,
    ) -> None:
        self._pool, self._learners = candidates, learners
        d = self._d = len(candidates.directions) // 2
        self._budget = budget
        self._budget_left = 1 - np.arange(budget + 1) / budget
        self._picked_sum = np.zeros((copies, d + 2), np.float32)
        self.streams = np.full((copies, hands, hand_size), -1)
        self.sizes = np.zeros(copies, np.int64)
        self.hands_in_stream = np.ones(copies, np.int64)
        self.hand = np.zeros(copies, np.int64)
        self.table = np.full((copies, hand_size + 1), -1)
        self.mask = np.ones((copies, hand_size + 1), np.int8)
        self.left = np.zeros(copies, np.int64)
        self.candidates = np.zeros((copies, hand_size, d + 7), np.float32)
        self.context = np.zeros((copies, 3 * d + 8), np.float32)
        self.context[:, : 2 * d] = candidates.directions
        self.context[:, 3 * d + 5 :] = candidates.domain
        # Where a copy's places begin when all are in one row.
        self._begins = np.arange(copies) * (hand_size + 1)

    def start(self, copy: int, stream: NDArray[np.int64]) -> None:
        """Give a copy a new stream, and its first hand to be dealt."""
        hand_size = self.streams.shape[2]
        flat = self.streams[copy].reshape(-1)
        flat[: len(stream)], flat[len(stream) :] = stream, -1
        self.sizes[copy] = len(stream)
        self.hands_in_stream[copy] = -(-len(stream) // hand_size)
        self.hand[copy] = 0
        self._picked_sum[copy] = 0
        self.context[copy, 2 * self._d : 3 * self._d + 5] = 0
        self.context[copy, 3 * self._d] = 1

    def deal(self, which: Copies) -> None:
        """Put the hands that have their turn on the tables of some copies (n,)."""
        d, counts = self._d, self._learners.counts[which]
        rows = self.streams[which, self.hand[which]]
        there = rows >= 0
        self.table[which, :-1] = rows
        self.mask[which, :-1] = there
        self.left[which] = there.sum(axis=1)
        seen = self._pool.places(rows)
        some = np.flatnonzero(counts)
        if len(some):
            counts = counts[some]
            picked = self._learners.picked[:, which[some]].T
            cosines = self._pool.cosines(
                picked[picked >= 0][:, None], rows[some.repeat(counts)]
            )
            first = counts.cumsum() - counts
            seen[some, :, d + 5] = np.maximum.reduceat(cosines, first, axis=0)
        self.candidates[which] = seen
        hands = self.hands_in_stream[which]
        self.context[which, 3 * d + 1] = (hands - 1 - self.hand[which]) / hands

    def at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the pool rows at one place of each copy (copies,)."""
        return self.table.reshape(-1).take(self._begins + places)

    def pick(self, rows: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        """Take what the learners have just learned off the tables.

        Args:
            rows: Pool rows (copies,), -1 where a copy picks none.
            places: Where they lie (copies,).
        """
        d, counts, picking = self._d, self._learners.counts, rows >= 0
        self._picked_sum += self._pool.places(rows)[:, : d + 2]
        mean = self._picked_sum / np.maximum(counts, 1).astype(np.float32)[:, None]
        self.context[:, 2 * d : 3 * d] = mean[:, :d]
        self.context[:, 3 * d] = self._budget_left.take(counts)
        self.context[:, 3 * d + 2 : 3 * d + 4] = mean[:, d:]

        nearest = self.candidates[:, :, d + 5]
        nearest[picking & (counts == 1)] = BELOW_ANY_COSINE
        cosines = self._pool.cosines(rows[:, None], self.table[:, :-1])
        cosines[~picking] = BELOW_ANY_COSINE  # which leaves the nearest as it is
        np.maximum(nearest, cosines, out=nearest)

        who = np.flatnonzero(picking)
        where = places[who]
        self.candidates[who, where] = 0
        self.table[who, where] = -1
        self.mask[who, where] = 0
        self.left -= picking

    def observation(self, which: Any = ...) -> dict[str, Any]:
        """Return the observation of all copies, or of some or one; copied."""
        dealt = (self.hand[which] + 1) * self.streams.shape[2]
        to_come = np.maximum(self.sizes[which] - dealt, 0)
        left = np.maximum(self.left[which] + to_come, 1)
        picks_left = self._budget - self._learners.counts[which]
        self.context[which, 3 * self._d + 4] = np.minimum(picks_left / left, 1.0)
        return {
            "candidates": self.candidates[which].copy(),
            "context": self.context[which].copy(),
        }
