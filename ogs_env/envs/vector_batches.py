"""Learners and rewards of sub-environments that pick a batch of samples in a step."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ogs_env.episode_rewards import VectorRewards
from ogs_env.learners.surrogate import VectorSurrogateLearner
from ogs_env.rewards import TERMS

# Most products of pairs of samples in memory at a time.
_MOST_PAIRS = 2**14
# Learners whose held-out losses are computed at a time.
_MEASURED_TOGETHER = 8


def of_equal_size(
    batches: NDArray[np.int64],
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.int64]]]:
    """Group batches by their size, because sums of as many numbers are rounded alike.

    Args:
        batches: Pool rows (num_envs, n), after the last of each -1.

    Yields:
        Indices of the batches of one size, at least 1, and their rows (batches, size).
    """
    sizes = (batches >= 0).sum(axis=1)
    for size in set(sizes.tolist()) - {0}:
        which = np.flatnonzero(sizes == size)
        yield which, np.ascontiguousarray(batches[which, :size])


class BatchLearners(VectorSurrogateLearner):
    """Surrogate learners, each of which can be updated with many samples at once."""

    def update_many(self, batches: NDArray[np.int64]) -> None:
        """Update each learner as `SurrogateLearner.update_many` does.

        Args:
            batches: Pool rows (num_learners, n), after the last of each -1.
        """
        state, tables = self._displacement, self.tables
        squares = np.zeros((len(batches), tables.checkpoints))
        for which, rows in of_equal_size(batches):
            squares[which] = np.add.reduce(tables.squares.take(rows, axis=0), axis=1)
        effects = tables.reward_effects.rows(batches[:, 0])
        for column in batches.T[1:]:
            effects += tables.reward_effects.rows(column)
        state._rows += effects
        state._squares += squares
        state._squares[1] += 2 * self._products(batches)[:, : tables.checkpoints]

        index, place = np.nonzero(batches >= 0)
        self.picked[self.counts[index] + place, index] = batches[index, place]
        self.counts = self.counts + np.bincount(index, minlength=len(batches))
        q_factor, p_factor = self._squares.take(self.counts, 0).T[..., None]
        state._set(*state._measure(state._squares, state._rows, (q_factor, p_factor)))

    def held_out_losses(self, which: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return the mean held-out losses of some learners (n,), a few at a time.

        Many episodes end at once, and the effects of all picks would not fit into the
        processor's cache.
        """
        measure = super().held_out_losses
        parts = np.split(
            which, range(_MEASURED_TOGETHER, len(which), _MEASURED_TOGETHER)
        )
        return np.concatenate([measure(part) for part in parts])

    def _products(self, batches: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return each learner's sum of products of pairs with a sample of its batch.

        The other sample is one of its picks before, or of the batch before that sample.

        Returns:
            float32 (num_learners, width).
        """
        before = self.picked[: self.counts.max()]
        others = np.concatenate([before, batches.T])[:, None]
        rows = batches.T[None]
        place = np.arange(len(others))[:, None, None]
        is_earlier = place < len(before) + np.arange(rows.shape[1])[:, None]
        step = max(1, _MOST_PAIRS // is_earlier.size)
        sums = []
        for start in range(0, len(batches), step):
            part = slice(start, start + step)
            pairs = np.where(is_earlier, others[..., part], -1)
            products = self.tables.gram.of(rows[..., part], pairs)
            sums.append(np.add.reduce(products, axis=(0, 1)))
        return np.concatenate(sums)


class BatchRewards(VectorRewards):
    """Rewards of sub-environments that pick batches, equal to those of `Rewards`."""

    _learners: BatchLearners

    def pick_batch(
        self,
        batches: NDArray[np.int64],
        units: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    ) -> dict[str, NDArray[np.float64]]:
        """Update the learners and return every term (num_envs,).

        Args:
            batches: Pool rows (num_envs, n), after the last of each -1.
            units: From pool rows (n,) to their unit initial sketches (n, width).
        """
        transition = self._transition
        self._learners.update_many(batches)
        transition.advance(*self._losses())
        terms = {
            term.name: np.full(len(batches), term.no_pick)
            if term.of_samples
            else term.value(transition)
            for term in TERMS
        }
        information = np.zeros(batches.shape)
        for index in range(len(self._information)):
            picks = batches[index, batches[index] >= 0]
            gains = [self._information[index].pick(unit) for unit in units(picks)]
            information[index, : len(gains)] = gains
        for which, rows in of_equal_size(batches):
            samples = transition.of_many(rows.size)
            cosines = self._learners.tables.anchor_cosines[rows.ravel()]
            samples.cosines = cosines.T
            samples.information = information[which, : rows.shape[1]].ravel()
            for term in TERMS:
                if term.of_samples:
                    values = term.value(samples).reshape(rows.shape)
                    terms[term.name][which] = (
                        values.mean(axis=1)
                        if term.of_samples == "mean"
                        else [term.of_batch(own) for own in values]
                    )
        return terms
