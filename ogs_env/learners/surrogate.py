"""The surrogate learner: fine-tuning in closed form, in sketch space.

A real run makes an optimizer step on every batch of 8 picks. AdamW gives all steps
the same length, whatever the gradient's, and the loss is a mean over response tokens.
So, for each checkpoint c of the path, with g_i the sketch (in Adam's metric) and t_i
the response tokens of sample i,

    G      = sum over the batch of t_i g_i
    update   d_c <- d_c - G / |G|         (a batch with m of 8 picks counts m / 8)

and with x_jc = <g_jc, d_c>, a loss changes by

    mean over j, sum over c of  slope_c x_jc + curvature_c x_jc^2 / (4 l_j)

j runs over the domain's or a capability's samples, l_j is the loss before. Every
sample adds a curvature of its own: moving inside the span of the anchor's gradients
costs, though their mean be orthogonal (orthogonality to a subspace, as in OGD,
Farajtabar et al. 2020), and updates that cancel there cost nothing.

The form, and the slopes and curvatures, are those that best predict real
fine-tuning on the development list of `ogs fidelity`; none is negative.

With h_jc = x_jc / (2 l_j) a batch adds a multiple of the sum of its rows
<t_i g_ic, g_jc> / (2 l_j) to h, so losses take no step in sketch space, and |G|^2
is a sum over pairs of its samples: see `ogs_env.learners.effects` and `tables`.
"""

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

# Slope and curvature of domain and anchor by warm-up step, fitted to the real runs of
# the development list (`ogs fidelity --fit`), and those where there is no path. Their
# unit is the root mean square norm of the studied bundle's dev samples' sketches.
FITTED: dict[int, dict[str, Any]] = {
    0: {"norm": 46.2661, "domain": (0.05883, 0.0), "anchor": (0.34297, 3.97704)},
    6: {"norm": 58.7243, "domain": (0.07561, 0.22577), "anchor": (0.04015, 0.18744)},
    24: {"norm": 60.5156, "domain": (0.09834, 0.0), "anchor": (0.0, 0.24426)},
}
FITTED_START: dict[str, Any] = {
    "norm": 0.7799,
    "domain": (0.2895, 2.28811),
    "anchor": (0.18249, 1.07495),
}
FITTED_SPACE = "2bf3851c0d43ecc8"
"""The sketch space (proxy, adapter, projection) of the studied bundle."""

# From picks in a batch to the length of its step, times sqrt(2).
_FRACTIONS = -np.arange(BATCH + 1) / BATCH / np.sqrt(2)


def default_learner(
    steps: Sequence[int], norms: Sequence[float] | None = None
) -> dict[str, Any]:
    """Return the manifest's `learner` entry.

    A step has one length in the metric of Adam, whatever is learned: where gradients
    are as in the study, a dev set of one-word answers, whose gradients are five times
    as long, moves five times as far.

    Args:
        steps: Of the checkpoints, 0 for the untouched model; none without a path. Each
            responds as the study's nearest does.
        norms: Root mean square norms of the dev samples' sketches, one a step, or the
            one at the start; taken to be the study's when omitted, as they must be for
            another proxy.
    """
    fitted, sketches = [FITTED_START], "start"
    if steps:
        nearest = [min(FITTED, key=lambda known: abs(known - step)) for step in steps]
        fitted, sketches = [FITTED[step] for step in nearest], "path"
    units = [one["norm"] for one in fitted]
    pairs = zip(units if norms is None else norms, units, strict=True)
    ratios = [norm / unit for norm, unit in pairs]
    entry: dict[str, Any] = {"sketches": sketches}
    for role in ("domain", "anchor"):
        slopes, curvatures = zip(*[one[role] for one in fitted], strict=True)
        entry[role] = {
            "slope": _in_units(slopes, ratios, 1),
            "curvature": _in_units(curvatures, ratios, 2),
        }
    return entry


def _in_units(
    values: Sequence[float], ratios: Sequence[float], power: int
) -> list[float]:
    return [round(v * r**power, 5) for v, r in zip(values, ratios, strict=True)]


class Descent:
    """The state of one learner, or of several of one bundle side by side.

    Numbers of a copy are the same, to the last bit, alone and among others.

    Args:
        bundle: What is learned.
        copies: (n,), or () for one.

    Attributes:
        tables: What all learners of the bundle share.
        losses: Of the dev samples and of each capability's anchor samples, nats per
            token (*copies, 1 + capabilities).
        lengths: Factor of each pick of the current batch (*copies, checkpoints).
    """

    def __init__(self, bundle: Bundle, copies: tuple[int, ...] = ()) -> None:
        self.tables = tables = tables_of(bundle)
        self._columns = tuple(np.arange(n) for n in copies)
        # Of the full batches: scaled rows times lengths, and losses. Of the current
        # one: scaled rows, the numbers of `BatchSums`, and the samples.
        self._shifts = np.empty((*copies, *tables.seen.rows(-1).shape), np.float32)
        self._before = np.empty((*copies, len(tables.seen.start)))
        self._rows = np.empty_like(self._shifts)
        self._sums = np.empty((*copies, tables.sums.own.shape[1]))
        self._batch = np.empty((BATCH, *copies), np.int64)
        self.losses = np.empty_like(self._before)
        self.lengths = np.zeros((*copies, tables.checkpoints))
        self.reset(...)

    def reset(self, which: Any) -> None:
        """Return to d = 0.

        Args:
            which: Indices of copies; `...` for all of them, or for the only one.
        """
        self._shifts[which] = 0
        self.losses = self.losses.copy()  # the old may be in someone's hands
        self.losses[which] = self.tables.seen.start
        self._empty_batch(which)

    def update(self, rows: Any, before: Any) -> Any:
        """Let samples join the batches, and the batches make their steps.

        Args:
            rows: Pool rows (*copies,), -1 where a copy picks none.
            before: Picks in the batch so far, less than 8 (*copies,).

        Returns:
            Picks in the batch now (*copies,).
        """
        picks = before + (rows >= 0)
        found = self.tables.seen.rows(rows)
        self._add(self._sums, rows, found, self._batch)
        self._rows += found
        self._batch[(before, *self._columns)] = rows
        self.lengths, self.losses = self._measure(self._sums, picks)
        return picks

    def end_batch(self, which: Any) -> None:
        """Begin a new batch; `which` as in `reset`."""
        lengths = self.lengths[which].take(self.tables.seen.checkpoints, -1)
        self._shifts[which] += self._rows[which] * lengths[..., None].astype(np.float32)
        self._empty_batch(which)

    def preview(self, indices: NDArray[np.integer], before: int) -> Losses:
        """Return the losses (n, groups) that `update` with each of n rows would give.

        For a single copy.
        """
        sums = np.repeat(self._sums[None], len(indices), axis=0)
        self._add(sums, indices, self.tables.seen.rows(indices), self._batch[:, None])
        return self._measure(sums, before + 1)[1]

    def _add(
        self, sums: Losses, rows: Any, found: Floats, batch: NDArray[np.int64]
    ) -> None:
        """Add samples to the sums of batches.

        Args:
            sums: Numbers of batches (..., numbers).
            rows: Pool rows (...).
            found: Their scaled rows (..., segments, width).
            batch: Pool rows in the batches (8, ...).
        """
        tables, of = self.tables, self.tables.sums
        sums += take(of.own, rows)
        pairs = np.add.reduce(tables.gram.of(rows, batch), 0).astype(float)
        # Names, as `sums[...] += ` would write what it has added once more.
        halves, a, b = sums[..., of.halves], sums[..., of.dots_a], sums[..., of.dots_b]
        halves += pairs[..., : tables.checkpoints]
        a += np.vecdot(self._shifts, found).astype(float)
        b += np.vecdot(self._rows, found).astype(float)

    def _measure(self, sums: Losses, picks: Any) -> tuple[Losses, Losses]:
        """Return the lengths and the losses that batches make."""
        of = self.tables.sums
        lengths = (_FRACTIONS[picks] / np.sqrt(sums[..., of.halves]).T).T
        spread = lengths.take(of.checkpoints, -1)
        parts = spread * (sums[..., of.a] + spread * sums[..., of.b])
        changes = np.add.reduceat(parts, of.first, -1)
        groups = self._before.shape[-1]
        losses = self._before + changes[..., :groups] + changes[..., groups:]
        return lengths, losses

    def _empty_batch(self, which: Any) -> None:
        self._before[which] = self.losses[which]
        self._rows[which] = 0
        self._sums[which] = self.tables.sums.empty
        self._batch[:, which] = -1


class SurrogateLearner:
    """A model that is fine-tuned in sketch space, sample by sample.

    Args:
        bundle: Its manifest's `learner` says which sketches are used, and for the
            domain and the anchor the slope and curvature of each checkpoint.

    Attributes:
        sketches: `"path"`, or `"start"` for a bundle without path sketches.

    Raises:
        InputError: If the manifest's `learner` entry does not fit the bundle.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._descent = Descent(bundle)
        self._tables = self._descent.tables
        self.sketches: str = self._tables.kind
        self.reset()

    def reset(self, rng: np.random.Generator | None = None) -> None:
        """Return to d = 0. This learner is deterministic and ignores `rng`."""
        self._descent.reset(...)
        self._picked: list[int] = []
        self._picks = 0
        self._lengths: list[Losses] = []
        self._held_out: Losses | None = self._tables.held_out.start

    def update(self, index: int) -> None:
        """Let pool sample `index` join the batch, and the batch make its step."""
        self._picks = self._descent.update(index, self._picks)
        self._picked.append(index)
        self._held_out = None
        if self._picks == BATCH:
            self._lengths.append(self._descent.lengths)
            self._descent.end_batch(...)
            self._picks = 0

    def finish(self) -> None:
        """Do nothing: every sample is learned and measured at once."""

    def domain_loss(self) -> float:
        """Return the mean loss of the dev samples, nats per token."""
        return float(self._descent.losses[0])

    def test_loss(self) -> float:
        """Return the mean loss of the test samples, which no reward sees."""
        return float(self._unseen_losses()[0])

    def retention_loss(self) -> float:
        """Return the mean loss of the retention samples, which no reward sees."""
        return float(self._unseen_losses()[1])

    def anchor_losses(self) -> Losses:
        """Return the mean loss of each capability's anchor samples, (capabilities,)."""
        return self._descent.losses[1:]

    def anchor_cosine(self, index: int) -> Floats:
        """Return a pool sample's cosine with each mean anchor gradient.

        Over all checkpoints together; positive where a step on the sample helps.

        Returns:
            float32 (capabilities,).
        """
        return self._tables.anchor_cosines[index]

    def preview(self, indices: NDArray[np.integer]) -> tuple[Losses, Losses, Floats]:
        """Return what `update` would lead to, for each of many pool samples.

        Args:
            indices: Pool rows (n,).

        Returns:
            The domain loss after the update (n,), the anchor losses after it
            (n, capabilities), and each sample's `anchor_cosine` (n, capabilities).
        """
        losses = self._descent.preview(np.asarray(indices), self._picks)
        return losses[:, 0], losses[:, 1:], self._tables.anchor_cosines[indices]

    def terms(self) -> Floats:
        """Return what the slopes and curvatures are multiplied by at d.

        Returns:
            float32 (groups, 2, checkpoints): mean x and mean x^2 / (4 l) of dev, test,
            retention and each capability's anchor samples, in nats.
        """
        return self._tables.terms(*self._history())

    def _unseen_losses(self) -> Losses:
        # Measured when asked for: an environment asks at an episode's end alone.
        if self._held_out is None:
            self._held_out = self._tables.held_out.losses(*self._history())
        return self._held_out

    def _history(self) -> tuple[NDArray[np.int64], Losses]:
        """Return the picks (n,) and their lengths (n, checkpoints)."""
        batches = np.array([*self._lengths, self._descent.lengths])
        counts = [BATCH] * len(self._lengths) + [self._picks]
        return np.array(self._picked, np.int64), batches.repeat(counts, axis=0)


class SurrogateLearners:
    """Surrogate learners side by side, each with its own picks.

    Args:
        bundle: As that of `SurrogateLearner`.
        copies: Learners.
        capacity: Most picks of each.

    Attributes:
        tables: What all learners of the bundle share.
        picked: int64 (capacity + 1, copies), their picks in order; -1 beyond.
        counts: int64 (copies,), how many these are.
    """

    def __init__(self, bundle: Bundle, copies: int, capacity: int) -> None:
        self._descent = Descent(bundle, (copies,))
        self.tables = self._descent.tables
        self._copies = np.arange(copies)
        self._picks = np.zeros(copies, np.int64)
        self.counts = np.zeros(copies, np.int64)
        self.picked = np.full((capacity + 1, copies), -1)
        checkpoints = self.tables.checkpoints
        self._lengths = np.zeros((capacity // BATCH + 1, copies, checkpoints))

    @property
    def losses(self) -> Losses:
        """Mean losses of dev and of each capability (copies, 1 + capabilities)."""
        return self._descent.losses

    def reset(self, which: NDArray[np.integer]) -> None:
        """Let some copies (n,) return to d = 0."""
        self._descent.reset(which)
        self._picks[which] = self.counts[which] = 0
        self.picked[:, which] = -1

    def update(self, rows: NDArray[np.int64]) -> None:
        """Let each copy learn a pool row (copies,); -1 for none."""
        self._picks = self._descent.update(rows, self._picks)
        self.picked[self.counts, self._copies] = rows
        self.counts += rows >= 0
        full = np.flatnonzero(self._picks == BATCH)
        if len(full):
            self._keep_lengths(self.counts[full] // BATCH - 1, full)
            self._descent.end_batch(full)
            self._picks[full] = 0

    def held_out_losses(self, which: NDArray[np.integer]) -> Losses:
        """Return the mean test and retention losses (n, 2) of some copies (n,)."""
        self._keep_lengths(self.counts[which] // BATCH, which)
        lengths = self._lengths[:, which].repeat(BATCH, axis=0)
        picked = self.picked[:, which]
        return self.tables.held_out.losses(picked, lengths[: len(picked)])

    def _keep_lengths(
        self, batches: NDArray[np.integer], which: NDArray[np.integer]
    ) -> None:
        self._lengths[batches, which] = self._descent.lengths[which]
