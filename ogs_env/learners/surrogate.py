"""The surrogate learner: fine-tuning in closed form, in sketch space.

A real run shuffles its selection, makes an optimizer step on every batch of 8, and
does so for some epochs. AdamW gives all steps the same length, whatever the gradient's,
and the loss is a mean over response tokens. So, for each checkpoint c of the path, with
g_i the sketch (in Adam's metric) and t_i the response tokens of sample i, a batch whose
gradient is G = sum of t_i g_i moves by -G / |G|. What a selection of n samples teaches
does not depend on an order: with S the sum of t_i g_ic over all of it, p = |S|^2, q the
sum of |t_i g_ic|^2 and B = 8, the mean of |G|^2 over random batches and the
displacement are

    E|G|^2 = B q / n + B (B - 1) (p - q) / (n (n - 1))
    d_c    = -epochs S / sqrt(E|G|^2)     less than a batch: -epochs (n / B) S / sqrt(p)

**Forgetting.** Answers that the untouched model itself gave have an expected gradient
of zero there, so their loss has no slope, and what it gains is the divergence from the
untouched model, KL(before || after) per token: half the square of the displacement in
the metric of the untouched model's Fisher information. So it is the first checkpoint's
alone, the untouched model's: with T_j the tokens of answer j, capability k's loss on
own answers rises by

    A_k = mean over j of  curvature T_j <g_j0, d_0>^2 / 2

which is never negative: whatever moves the model where it would have answered counts
as forgetting, and nothing makes up for it but a pick that takes the move back. Where a
bundle has no own answers, gradients of reference answers stand in. The square holds
near the untouched model. Over several epochs the loss grows more slowly than the
square, and with the distance that the model moves as a whole, so that it rises by

    share A_k + distance |d_0|

**Domain and references.** With x_j = sum over c of slope_c <g_jc, d_c>, the mean loss
of the domain's samples, or of a capability's references, changes by

    mean over j of log(1 + p_j (e^(x_j / p_j) - 1)) + share A,    p_j = 1 - e^-l_j

l_j is the loss before. The first part has the slope x_j, and is how the loss of a token
changes whose logit moves against all others: it cannot fall below 0, while harm has no
bound. The second is what a model that has moved far from itself lacks everywhere: A is
the capability's own A_k, or for the domain the mean of all; the share is the role's.

The constants are those that best predict real fine-tuning on Medical's lists of `ogs
fidelity`; none is negative (`ogs_env.learners.fitted`).

Losses take no step in sketch space: S is only seen through its products with the
measured samples, which are sums over the picks of numbers known before, and p is a
sum over pairs of picks: see `ogs_env.learners.effects` and `tables`.
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

_TINY = 1e-12  # the p of no picks, which can be divided by
# Rounding of p is less than this share of q: gradients that cancel must not leave a
# p of 0 or less.
_ROUNDING = 1e-6


@functools.lru_cache(maxsize=4096)
def mean_square(picks: int) -> tuple[float, float]:
    """Return what q and p are multiplied by in E|G|^2, so that d = -S / sqrt(E|G|^2).

    Args:
        picks: n; less than a batch makes one short step.
    """
    whole = max(picks, BATCH)
    pairs = whole * (whole - 1)
    of_all = BATCH * (BATCH - 1) / pairs * (whole / max(picks, 1)) ** 2
    return BATCH * (whole - BATCH) / pairs + _ROUNDING * of_all, of_all


class Displacement:
    """The state of one learner, or of several of one bundle side by side.

    Numbers of a learner are the same, to the last bit, alone and among others.

    Args:
        bundle: What is learned.
        shape: (n,), or () for one.

    Attributes:
        tables: What all learners of the bundle share.
        losses: As `LearnerTables.initial`, nats per token (*shape, groups).
        lengths: What the sum of the picks' gradients is multiplied by to give d
            (*shape, checkpoints).
        distances: |d| at the first checkpoint (*shape,).
    """

    def __init__(self, bundle: Bundle, shape: tuple[int, ...] = ()) -> None:
        self.tables = tables = tables_of(bundle)
        # Of the picks: the sum of their rows, q and p.
        self._rows = np.empty((*shape, tables.seen.width), np.float32)
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
        self.losses = self.losses.copy()  # the old may be in someone's hands
        self.losses[which] = self.tables.initial
        self._rows[which] = 0
        self._squares[0][which], self._squares[1][which] = 0, _TINY
        self.distances = np.array(self.distances)
        self.distances[which] = 0

    def update(
        self, rows: Any, before: NDArray[np.int64], square: tuple[Any, Any]
    ) -> None:
        """Let samples join the selections.

        Args:
            rows: Pool rows (*shape,), -1 where a learner picks none.
            before: Pool rows picked before (picks, *shape).
            square: `mean_square` of the picks with these (*shape, 1).
        """
        self._add(self._squares, self._rows, rows, before)
        self._set(*self._measure(self._squares, self._rows, square))

    def update_many(
        self, rows: NDArray[np.int64], before: NDArray[np.int64], square: Any
    ) -> None:
        """Let samples (n,) join the selection of a single learner at once."""
        tables = self.tables
        self._rows += np.add.reduce(tables.seen.rows(rows), axis=0)
        self._squares += np.add.reduce(take(tables.squares, rows), axis=0)
        # Each of them meets the picks before, and those of the rows before it.
        place = np.arange(len(before) + len(rows))[:, None]
        earlier = place < len(before) + np.arange(len(rows))
        picked = np.append(before, rows)[:, None]
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
        """Return the losses (n, groups) that `update` with each of n rows would give.

        For a single learner.
        """
        squares = np.repeat(self._squares[:, None], len(indices), axis=1)
        total = np.repeat(self._rows[None], len(indices), axis=0)
        self._add(squares, total, indices, before[:, None])
        return self._measure(squares, total, square)[2]

    def _add(
        self, squares: Losses, total: Floats, rows: Any, before: NDArray[np.int64]
    ) -> None:
        """Add samples to selections.

        Args:
            squares: q and p of selections (2, ..., checkpoints).
            total: Sums of rows (..., width).
            rows: Pool rows (...).
            before: Pool rows picked before (picks, ...).
        """
        tables = self.tables
        total += tables.seen.rows(rows)
        squares += take(tables.squares, rows)
        pairs = np.add.reduce(tables.gram.of(rows, before), axis=0)
        squares[1] += 2 * pairs[..., : tables.checkpoints]

    def _set(self, lengths: Losses, distances: Losses, losses: Losses) -> None:
        self.lengths, self.distances, self.losses = lengths, distances, losses

    def _measure(
        self, squares: Losses, total: Floats, square: tuple[Any, Any]
    ) -> tuple[Losses, Losses, Losses]:
        """Return lengths, distances and losses of selections; see `mean_square`."""
        tables, (of_alone, of_together) = self.tables, square
        mean = of_alone * squares[0] + of_together * squares[1]
        lengths = -tables.epochs / np.sqrt(mean)
        # Without picks p is _TINY, and nothing moves.
        first = np.maximum(squares[1][..., 0] - _TINY, 0)
        distances = -lengths[..., 0] * np.sqrt(first)
        return lengths, distances, tables.losses_after(total, lengths, distances)


class SurrogateLearner:
    """A model that is fine-tuned in sketch space, sample by sample.

    What it has learned is a function of the set of its picks, whatever their order.

    Args:
        bundle: Its manifest's `learner` says which sketches are used, for how many
            epochs a selection is trained on, and how losses respond.

    Attributes:
        sketches: `"trajectory"`, or `"initial"` for a bundle without trajectory
            sketches.

    Raises:
        InputError: If the manifest's `learner` entry does not fit the bundle.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._displacement = Displacement(bundle)
        self._tables = self._displacement.tables
        self.sketches: str = self._tables.kind
        self._anchors, self._answers = self._tables.anchors, self._tables.answers
        # The picks, and room for more.
        self._picked = np.empty(2 * BATCH, np.int64)
        self.reset()

    def reset(self, rng: np.random.Generator | None = None) -> None:
        """Return to d = 0. This learner is deterministic and ignores `rng`."""
        self._displacement.reset(...)
        self._count = 0
        self._held_out: Losses | None = self._tables.initial_held_out

    def update(self, index: int) -> None:
        """Let pool sample `index` join the selection."""
        count = self._count + 1
        self._displacement.update(index, self._history(), mean_square(count))
        self._keep(index, count)

    def update_many(self, rows: Sequence[int] | NDArray[np.integer]) -> None:
        """Let pool samples (n,) join the selection at once, as `update` one by one."""
        indices = np.asarray(rows, np.int64)
        count = self._count + len(indices)
        self._displacement.update_many(indices, self._history(), mean_square(count))
        self._keep(indices, count)

    def finish(self) -> None:
        """Do nothing: every sample is learned and measured at once."""

    def domain_loss(self) -> float:
        """Return the mean loss of the dev samples, nats per token."""
        return float(self._displacement.losses[0])

    def test_loss(self) -> float:
        """Return the mean loss of the test samples, which no reward sees."""
        return float(self._unseen_losses()[0])

    def retention_loss(self) -> float:
        """Return the mean loss of the retention samples, which no reward sees."""
        return float(self._unseen_losses()[1])

    def anchor_losses(self) -> Losses:
        """Return the mean loss of each capability's anchor samples, (capabilities,)."""
        return self._displacement.losses[self._anchors]

    def answer_losses(self) -> Losses:
        """Return the mean loss of each capability's own answers, (capabilities,).

        Nats per token; empty for a bundle without own answers.
        """
        return self._displacement.losses[self._answers]

    def answers_loss(self) -> float:
        """Return the mean loss of the retention's own answers, which no reward sees.

        0 for a bundle without own answers.
        """
        return float(self._unseen_losses()[2:].sum())

    def anchor_cosine(self, index: int | NDArray[np.integer]) -> Floats:
        """Return the cosine of a pool sample, or of many (n,), with the mean anchors.

        Over all checkpoints together; positive where a step on the sample helps.

        Returns:
            float32 (capabilities,), or (n, capabilities).
        """
        return self._tables.anchor_cosines[index]

    def preview(
        self, indices: NDArray[np.integer]
    ) -> tuple[Losses, Losses, Losses, Floats]:
        """Return what `update` would lead to, for each of many pool samples.

        Args:
            indices: Pool rows (n,).

        Returns:
            The domain loss after the update (n,), the anchor losses and the losses of
            own answers after it (n, capabilities), and each sample's `anchor_cosine`
            (n, capabilities).
        """
        square = mean_square(self._count + 1)
        losses = self._displacement.preview(
            np.asarray(indices), self._history(), square
        )
        after = losses[:, 0], losses[:, self._anchors], losses[:, self._answers]
        return *after, self._tables.anchor_cosines[indices]

    def shifts(self) -> dict[str, NDArray[np.float64]]:
        """Return x_jc = <g_jc, d_c> of the measured samples (checkpoints, n) by role.

        In units of the dev samples' root mean square norm. Own answers have those of
        the untouched model, the first checkpoint, and 0 at the others.
        """
        return self._tables.shifts(self._history(), self._displacement.lengths)

    def distance(self) -> float:
        """Return |d| at the first checkpoint, how far the model moves as a whole."""
        return float(self._displacement.distances)

    def _unseen_losses(self) -> Losses:
        # Measured when asked for: an environment asks at an episode's end alone.
        if self._held_out is None:
            moved = self._displacement.lengths, self._displacement.distances
            self._held_out = self._tables.held_out_after(self._history(), *moved)
        return self._held_out

    def _history(self) -> NDArray[np.int64]:
        """Return the picks (n,)."""
        return self._picked[: self._count]

    def _keep(self, rows: int | NDArray[np.int64], count: int) -> None:
        """Remember picks, `count` with those before."""
        if count > len(self._picked):
            self._picked = np.resize(self._picked, 2 * count)
        self._picked[self._count : count] = rows
        self._count, self._held_out = count, None


class VectorSurrogateLearner:
    """Surrogate learners side by side, each with its own picks.

    Args:
        bundle: As that of `SurrogateLearner`.
        num_learners: How many.
        capacity: Most picks of each.

    Attributes:
        tables: What all learners of the bundle share.
        picked: int64 (capacity + 1, num_learners), their picks in order; -1 beyond.
        counts: int64 (num_learners,), how many these are.
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
        """Let some learners (n,) return to d = 0."""
        self._displacement.reset(which)
        self.counts[which] = 0
        self.picked[:, which] = -1

    def update(self, rows: NDArray[np.int64]) -> None:
        """Let each learner learn a pool row (num_learners,); -1 for none."""
        before = self.picked[: self.counts.max()]
        counts = self.counts + (rows >= 0)
        alone, together = self._squares.take(counts, 0).T[..., None]
        self._displacement.update(rows, before, (alone, together))
        self.picked[self.counts, self._indices] = rows
        self.counts = counts

    def held_out_losses(self, which: NDArray[np.integer]) -> Losses:
        """Return the mean losses of what no reward sees, of some learners (n,).

        Returns:
            float64 (n, 2 or 3): test, retention and, where the bundle has own answers,
            the retention's.
        """
        moved = self._displacement.lengths[which], self._displacement.distances[which]
        return self.tables.held_out_after(self.picked[:, which], *moved)
