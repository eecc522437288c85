"""The surrogate learner: fine-tuning in closed form, in sketch space.

A real run shuffles its selection, makes an optimizer step on every batch of 8, and
repeats this for some epochs. AdamW gives all steps the same length, whatever the
gradient's length, and the loss is a mean over response tokens. So at each checkpoint c
of the trajectory, with g_i the sketch (in Adam's metric) and t_i the response tokens of
sample i, a batch with the gradient G = sum of t_i g_i moves the model by -G / |G|. The
effect of a selection of n samples does not depend on their order: with S the sum of
t_i g_ic over the selection, p = |S|^2, q the sum of |t_i g_ic|^2 and B = 8, the mean of
|G|^2 over random batches and the displacement are

    E|G|^2 = B q / n + B (B - 1) (p - q) / (n (n - 1))
    d_c    = -epochs S / sqrt(E|G|^2)     less than a batch: -epochs (n / B) S / sqrt(p)

**Forgetting.** The untouched model's own answers have an expected gradient of zero at
the untouched model, so their loss has no slope. It rises by the divergence from the
untouched model, KL(before || after) per token: half the square of the displacement in
the metric of the untouched model's Fisher information. It therefore depends only on the
first checkpoint, the untouched model: with T_j the tokens of answer j, the loss of
capability k on own answers rises by

    A_k = mean over j of  curvature T_j <g_j0, d_0>^2 / 2

which is never negative: every move that changes the model's answers is forgetting, and
only a move back reduces it. For a bundle without own answers, gradients of reference
answers are used instead. The square is exact only near the untouched model. Over
several epochs the loss grows more slowly than the square, and also with the distance
that the model moves as a whole, so that it rises by

    share A_k + distance |d_0|

**Domain and references.** With x_j = sum over c of slope_c <g_jc, d_c>, the mean loss
of the domain's samples, or of a capability's references, changes by

    mean over j of log(1 + p_j (e^(x_j / p_j) - 1)) + share A,    p_j = 1 - e^-l_j

l_j is the loss before. The first term has the slope x_j; it is the change of a token's
loss when its logit moves relative to all others. The loss cannot fall below 0, but it
can rise without bound. The second term is a general loss of quality far from the
untouched model: A is the capability's A_k, or for the domain the mean over
capabilities, and each role has its own share.

The constants are those that best predict real fine-tuning on Medical's lists of `ogs
fidelity`; none is negative (`ogs_env.learners.fitted`).

No computation has the sketch's dimensions: losses need only the products of S with the
measured samples, which are sums over the picks of precomputed numbers, and p is a sum
over pairs of picks; see `ogs_env.learners.effects` and `tables`.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.gram import Floats, take
from ogs_env.learners.tables import tables_of

Losses = NDArray[np.float64]

BATCH = 8
"""Picks of an optimizer step."""

_TINY = 1e-12  # p without picks; not 0, because it is a divisor
# Upper bound of the rounding of p, as a share of q; it keeps p above 0 for gradients
# that cancel.
_ROUNDING = 1e-6


@functools.lru_cache(maxsize=4096)
def mean_square(picks: int) -> tuple[float, float]:
    """Return the factors of q and p in E|G|^2, so that d = -S / sqrt(E|G|^2).

    Args:
        picks: Number of picks n; less than a batch makes one shorter step.
    """
    whole = max(picks, BATCH)
    pairs = whole * (whole - 1)
    p_factor = BATCH * (BATCH - 1) / pairs * (whole / max(picks, 1)) ** 2
    return BATCH * (whole - BATCH) / pairs + _ROUNDING * p_factor, p_factor


@functools.lru_cache(maxsize=256)
def _earlier(before: int, count: int) -> NDArray[np.bool_]:
    """Return which picks (before + count, 1) come before each of the last `count`."""
    return np.arange(before + count)[:, None] < before + np.arange(count)


class Displacement:
    """The state of one surrogate learner, or of a batch of them for one bundle.

    A learner's numbers are bitwise the same alone and in a batch.

    Args:
        bundle: The bundle.
        shape: (n,) for a batch, () for a single learner.

    Attributes:
        tables: The tables that all learners of the bundle share.
        losses: Mean losses of the groups of `LearnerTables.initial`, nats per token
            (*shape, groups).
        lengths: Factors of the sum of the picks' gradients that give d
            (*shape, checkpoints).
        distances: |d| at the first checkpoint (*shape,).
    """

    def __init__(self, bundle: Bundle, shape: tuple[int, ...] = ()) -> None:
        self.tables = tables = tables_of(bundle)
        # Sums over the picks: their rows of effects; q and p.
        self._rows = np.empty((*shape, tables.reward_effects.width), np.float32)
        self._squares = np.empty((2, *shape, tables.checkpoints))
        self.losses = np.empty((*shape, len(tables.initial)))
        self.lengths = np.zeros((*shape, tables.checkpoints))
        self.distances = np.zeros(shape)
        self.reset(...)

    def reset(self, which: Any) -> None:
        """Return to d = 0.

        Args:
            which: Indices of learners; `...` for all of them, or for the only one.
        """
        self.losses = self.losses.copy()  # callers may still hold the old array
        self.losses[which] = self.tables.initial
        self._rows[which] = 0
        self._squares[0][which], self._squares[1][which] = 0, _TINY
        self.distances = np.array(self.distances)
        self.distances[which] = 0

    def update(
        self, rows: Any, before: NDArray[np.int64], square: tuple[Any, Any]
    ) -> None:
        """Add one sample to each selection.

        Args:
            rows: Pool rows (*shape,), -1 for no pick.
            before: Pool rows picked before (picks, *shape).
            square: `mean_square` of the number of picks, including these (*shape, 1).
        """
        self._add(self._squares, self._rows, rows, before)
        self._set(*self._measure(self._squares, self._rows, square))

    def update_many(
        self, rows: NDArray[np.int64], before: NDArray[np.int64], square: Any
    ) -> None:
        """Add samples (n,) to the selection of a single learner at once."""
        tables = self.tables
        self._rows += np.add.reduce(tables.reward_effects.rows(rows), axis=0)
        self._squares += np.add.reduce(take(tables.squares, rows), axis=0)
        # Each sample has products with the picks before and with the earlier rows.
        picked = np.concatenate((before, rows))[:, None]
        earlier = _earlier(len(before), len(rows))
        pairs = tables.gram.of(rows, np.where(earlier, picked, -1))
        products = np.add.reduce(pairs, axis=(0, 1))
        self._squares[1] += 2 * products[: tables.checkpoints]
        self._set(*self._measure(self._squares, self._rows, square))

    def preview(
        self,
        indices: NDArray[np.integer],
        before: NDArray[np.int64],
        square: tuple[float, float],
    ) -> Losses:
        """Return the losses (n, groups) after an update with each of n pool rows.

        Only for a single learner.
        """
        squares = np.repeat(self._squares[:, None], len(indices), axis=1)
        total = np.repeat(self._rows[None], len(indices), axis=0)
        self._add(squares, total, indices, before[:, None])
        return self._measure(squares, total, square)[2]

    def _add(
        self, squares: Losses, total: Floats, rows: Any, before: NDArray[np.int64]
    ) -> None:
        """Add one sample to each selection, in place.

        Args:
            squares: q and p of the selections (2, ..., checkpoints).
            total: Sums of the picks' rows of effects (..., width).
            rows: Pool rows (...).
            before: Pool rows picked before (picks, ...).
        """
        tables = self.tables
        total += tables.reward_effects.rows(rows)
        squares += take(tables.squares, rows)
        pairs = np.add.reduce(tables.gram.of(rows, before), axis=0)
        squares[1] += 2 * pairs[..., : tables.checkpoints]

    def _set(self, lengths: Losses, distances: Losses, losses: Losses) -> None:
        self.lengths, self.distances, self.losses = lengths, distances, losses

    def _measure(
        self, squares: Losses, total: Floats, square: tuple[Any, Any]
    ) -> tuple[Losses, Losses, Losses]:
        """Return lengths, distances and losses of selections; see `mean_square`."""
        tables, (q_factor, p_factor) = self.tables, square
        mean = q_factor * squares[0] + p_factor * squares[1]
        lengths = -tables.epochs / np.sqrt(mean)
        # Without picks p is _TINY, and the distance must be 0.
        first = np.maximum(squares[1][..., 0] - _TINY, 0)
        distances = -lengths[..., 0] * np.sqrt(first)
        return lengths, distances, tables.losses_after(total, lengths, distances)


class SurrogateLearner:
    """A model that is fine-tuned in sketch space, sample by sample.

    Its state depends on the picks, but not on their order.

    Args:
        bundle: Its manifest's `learner` entry gives the kind of sketches, the epochs
            on a selection and the constants of the losses' response.

    Raises:
        InputError: If the manifest's `learner` entry does not fit the bundle.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._displacement = Displacement(bundle)
        self._tables = self._displacement.tables
        self._anchors, self._answers = self._tables.anchors, self._tables.answers
        # The picks and free space, of which `_count` are used.
        self._picked = np.empty(2 * BATCH, np.int64)
        self.reset()

    def reset(self, rng: np.random.Generator | None = None) -> None:
        """Return to d = 0. This learner is deterministic and ignores `rng`."""
        self._displacement.reset(...)
        self._count = 0
        self._held_out: Losses | None = self._tables.initial_held_out

    def update(self, index: int) -> None:
        """Add pool row `index` to the selection."""
        count = self._count + 1
        self._displacement.update(index, self._picks(), mean_square(count))
        self._append(index, count)

    def update_many(self, rows: Sequence[int] | NDArray[np.integer]) -> None:
        """Add pool rows (n,) to the selection at once; same as repeated `update`."""
        indices = np.asarray(rows, np.int64)
        count = self._count + len(indices)
        self._displacement.update_many(indices, self._picks(), mean_square(count))
        self._append(indices, count)

    def finish(self) -> None:
        """Do nothing: every update takes effect immediately."""

    def domain_loss(self) -> float:
        """Return the mean loss of the dev samples, nats per token."""
        return float(self._displacement.losses[0])

    def test_loss(self) -> float:
        """Return the mean loss of the test samples, which no reward uses."""
        return float(self._held_out_losses()[0])

    def retention_loss(self) -> float:
        """Return the mean loss of the retention samples, which no reward uses."""
        return float(self._held_out_losses()[1])

    def anchor_losses(self) -> Losses:
        """Return the mean loss of each capability's anchor samples, (capabilities,)."""
        return self._displacement.losses[self._anchors]

    def answer_losses(self) -> Losses:
        """Return the mean loss of each capability's own answers, (capabilities,).

        Nats per token; empty for a bundle without own answers.
        """
        return self._displacement.losses[self._answers]

    def answers_loss(self) -> float:
        """Return the mean loss of the retention's own answers, which no reward uses.

        0 for a bundle without own answers.
        """
        return float(self._held_out_losses()[2:].sum())

    def anchor_cosine(self, index: int | NDArray[np.integer]) -> Floats:
        """Return cosines of a pool row, or of rows (n,), with mean anchor gradients.

        They are over all checkpoints together; positive if a step on the sample
        reduces the anchor loss.

        Returns:
            float32 (capabilities,), or (n, capabilities).
        """
        return self._tables.anchor_cosines[index]

    def preview(
        self, indices: NDArray[np.integer]
    ) -> tuple[Losses, Losses, Losses, Floats]:
        """Return the losses that `update` would give, for each of many pool rows.

        Args:
            indices: Pool rows (n,).

        Returns:
            The domain loss after the update (n,), the anchor losses and the losses of
            own answers after it (n, capabilities), and each sample's `anchor_cosine`
            (n, capabilities).
        """
        square = mean_square(self._count + 1)
        losses = self._displacement.preview(np.asarray(indices), self._picks(), square)
        after = losses[:, 0], losses[:, self._anchors], losses[:, self._answers]
        return *after, self._tables.anchor_cosines[indices]

    def shifts(self) -> dict[str, NDArray[np.float64]]:
        """Return x_jc = <g_jc, d_c> of the measured samples (checkpoints, n) by role.

        The unit is the dev samples' root mean square norm. Own answers have values at
        the first checkpoint, the untouched model, and 0 at the others.
        """
        return self._tables.shifts(self._picks(), self._displacement.lengths)

    def distance(self) -> float:
        """Return |d| at the first checkpoint: how far the model moves as a whole."""
        return float(self._displacement.distances)

    def _held_out_losses(self) -> Losses:
        # Computed on demand, because environments use them only at an episode's end.
        if self._held_out is None:
            self._held_out = self._tables.held_out_after(
                self._picks(), self._displacement.lengths, self._displacement.distances
            )
        return self._held_out

    def _picks(self) -> NDArray[np.int64]:
        """Return the picks (n,)."""
        return self._picked[: self._count]

    def _append(self, rows: int | NDArray[np.int64], count: int) -> None:
        """Append picks to the earlier ones; `count` is the new total."""
        if count > len(self._picked):
            self._picked = np.resize(self._picked, 2 * count)
        self._picked[self._count : count] = rows
        self._count, self._held_out = count, None


class VectorSurrogateLearner:
    """A batch of surrogate learners for one bundle, each with its own picks.

    Args:
        bundle: As for `SurrogateLearner`.
        num_learners: Number of learners.
        capacity: Maximum number of picks of each.

    Attributes:
        tables: The tables that all learners of the bundle share.
        picked: int64 (capacity + 1, num_learners), their picks in order, then -1.
        counts: int64 (num_learners,), their numbers of picks.
    """

    def __init__(self, bundle: Bundle, num_learners: int, capacity: int) -> None:
        self._displacement = Displacement(bundle, (num_learners,))
        self.tables = self._displacement.tables
        self._indices = np.arange(num_learners)
        self.counts = np.zeros(num_learners, np.int64)
        self.picked = np.full((capacity + 1, num_learners), -1)
        self._squares = np.array([mean_square(n) for n in range(capacity + 1)])

    @property
    def losses(self) -> Losses:
        """Mean losses (num_learners, groups), groups as in `LearnerTables.initial`."""
        return self._displacement.losses

    def reset(self, which: NDArray[np.integer]) -> None:
        """Return some learners (n,) to d = 0."""
        self._displacement.reset(which)
        self.counts[which] = 0
        self.picked[:, which] = -1

    def update(self, rows: NDArray[np.int64]) -> None:
        """Add a pool row to each learner's selection (num_learners,); -1 for none."""
        before = self.picked[: self.counts.max()]
        counts = self.counts + (rows >= 0)
        q_factor, p_factor = self._squares.take(counts, 0).T[..., None]
        self._displacement.update(rows, before, (q_factor, p_factor))
        self.picked[self.counts, self._indices] = rows
        self.counts = counts

    def held_out_losses(self, which: NDArray[np.integer]) -> Losses:
        """Return the mean held-out losses of some learners (n,), which no reward uses.

        Returns:
            float64 (n, 2 or 3): of test and retention samples and, if the bundle has
            own answers, of the retention's own answers.
        """
        state = self._displacement
        lengths, distances = state.lengths[which], state.distances[which]
        return self.tables.held_out_after(self.picked[:, which], lengths, distances)
