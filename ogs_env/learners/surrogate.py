"""The surrogate learner: fine-tuning in closed form, in sketch space.

State: a displacement d of the weights, seen through the sketch, d = 0 at reset.
With l_j and g_j the loss and the gradient sketch of sample j at d = 0,

    loss      l_j(d) = l_j (1 + <g_j, d> / (2 l_j))^2
    gradient  g_j(d) = g_j (1 + <g_j, d> / (2 l_j))
    update    d <- d - step * g_i(d) / |g_i|      for a chosen sample i

The loss is non-negative, right in value and gradient at d = 0, and flattens as a
sample is learned: its square root is linear, which is the Gauss-Newton picture of
one output per sample. The update has the length `step` while the sample is new, as
an adaptive optimizer's would, and shrinks as it is learned.

With a_j = 1 + <g_j, d> / (2 l_j) an update adds a multiple of one row of the
cross-Gram matrix <g_i, g_j> / (2 |g_i| l_j) to a, so no step has to touch sketches.
"""

import functools
import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle, Rows
from ogs_env.errors import InputError

Floats = NDArray[np.float32]
Indices = NDArray[np.integer] | int

# Larger tables (256 MB) are not kept; their rows are computed when asked for.
_TABLE_FLOATS = 2**26
# A loss below this (nats) is taken as this: the model is done with the sample.
_LEAST_LOSS = 1e-4


class CrossGram:
    """What all learners of one bundle share; read-only.

    The measured samples are those of dev, test, retention and anchor, in this
    order; they form the groups dev, test, retention and one for each capability's
    anchor samples.

    Attributes:
        pool_losses: float32 (pool,), losses at d = 0.
        pool_norms: float32 (pool,), lengths of the learner's sketches.
        weights: float32 (groups, measured), l_j / size of the group where j belongs
            to the group, else 0: a group's loss is `weights @ a**2`.
        anchors: One (slice of the measured samples, Gram matrix of their mean
            gradient's terms) for each capability.
    """

    def __init__(self, bundle: Bundle, kind: str) -> None:
        self.bundle = bundle
        self.kind = kind
        self.pool_losses = np.maximum(bundle.pool.losses, _LEAST_LOSS)
        anchor_order = np.argsort(bundle.anchor.capabilities, kind="stable")
        roles: list[tuple[Rows, Any]] = [
            (bundle.dev, None),
            (bundle.test, None),
            (bundle.retention, None),
            (bundle.anchor, anchor_order),
        ]
        self.sketches = np.concatenate([rows.sketches(kind, n) for rows, n in roles])
        losses = np.concatenate(
            [rows.losses[slice(None) if n is None else n] for rows, n in roles]
        )
        losses = np.maximum(losses, _LEAST_LOSS)
        self._scaled = self.sketches / (2 * losses[:, None])

        sorted_capabilities = bundle.anchor.capabilities[anchor_order]
        sizes = [len(bundle.dev), len(bundle.test), len(bundle.retention)]
        for number, name in enumerate(bundle.capabilities):
            sizes.append(int(np.count_nonzero(sorted_capabilities == number)))
            if sizes[-1] == 0:
                raise InputError(
                    f"{bundle.path}: capability '{name}' has no anchor samples; "
                    "rebuild the bundle"
                )
        bounds = np.cumsum([0, *sizes])
        self.groups = [slice(int(a), int(b)) for a, b in itertools.pairwise(bounds)]
        self.weights = np.zeros((len(self.groups), bounds[-1]), np.float32)
        self.anchors: list[tuple[slice, Floats]] = []
        for number, group in enumerate(self.groups):
            self.weights[number, group] = losses[group] / (group.stop - group.start)
            if number >= 3:
                count = np.float32(group.stop - group.start)
                rows = np.divide(self.sketches[group], count, dtype=np.float32)
                self.anchors.append((group, rows @ rows.T))

        pool = bundle.pool
        width = self.sketches.shape[1]
        keep = len(pool) * width <= _TABLE_FLOATS
        self._pool = pool.sketches(kind) if keep else None
        keep = len(pool) * len(losses) <= _TABLE_FLOATS
        self._table = np.empty((len(pool), len(losses)), np.float32) if keep else None
        self.pool_norms = np.empty(len(pool), np.float32)
        for start, block in pool.blocks(kind):
            norms = np.maximum(np.linalg.norm(block, axis=1), 1e-12)
            self.pool_norms[start : start + len(block)] = norms
            if self._table is not None:
                rows = (block / norms[:, None]) @ self._scaled.T
                self._table[start : start + len(block)] = rows

    # Read-only: copies share it, another process builds its own.
    def __reduce__(self) -> tuple[Any, ...]:
        return cross_gram, (self.bundle, self.kind)

    def __deepcopy__(self, memo: dict[int, Any]) -> "CrossGram":
        return self

    def pool_sketches(self, indices: Indices) -> Floats:
        """Return the pool's sketches (n, K), or (K,) for one row."""
        if self._pool is not None:
            return self._pool[indices]
        found = self.bundle.pool.sketches(self.kind, np.atleast_1d(indices))
        return found.reshape(*np.shape(indices), -1)

    def rows(self, indices: Indices) -> Floats:
        """Return <g_i, g_j> / (2 |g_i| l_j), (n, measured), or one row."""
        if self._table is not None:
            return self._table[indices]
        norms = np.asarray(self.pool_norms[indices])[..., None]
        return (self.pool_sketches(indices) / norms) @ self._scaled.T


@functools.lru_cache(maxsize=8)
def cross_gram(bundle: Bundle, kind: str) -> CrossGram:
    """Return the bundle's shared tables, computed on the first call."""
    return CrossGram(bundle, kind)


class SurrogateLearner:
    """A model that is fine-tuned in sketch space, sample by sample.

    Args:
        bundle: Its manifest's `learner` says which sketches are used and the step.

    Attributes:
        sketches: `"path"`, or `"start"` for a bundle without path sketches.
        step: Length of one update, calibrated when the bundle was made.
        displacement: float32 (K,), the state d.

    Raises:
        InputError: If the manifest's `learner` entry does not fit the bundle.
    """

    def __init__(self, bundle: Bundle) -> None:
        settings = bundle.manifest["learner"]
        self.sketches: str = settings.get("sketches", "")
        self.step = float(settings.get("step", 0))
        known = ("path", "start") if bundle.has_path else ("start",)
        if self.sketches not in known or not 0 < self.step < np.inf:
            raise InputError(
                f"{bundle.path}: the manifest's learner has sketches "
                f"'{self.sketches}' and step {self.step}; expected sketches "
                f"{' or '.join(known)} and a positive step; rebuild the bundle"
            )
        self._shared = cross_gram(bundle, self.sketches)
        self.reset()

    def reset(self, rng: np.random.Generator | None = None) -> None:
        """Return to d = 0. This learner is deterministic and ignores `rng`."""
        shared = self._shared
        self.displacement = np.zeros(shared.sketches.shape[1], np.float32)
        self._factors = np.ones(shared.weights.shape[1], np.float32)
        self._losses = shared.weights @ np.square(self._factors)

    def gradients(self, indices: NDArray[np.integer]) -> Floats:
        """Return g_i(d) of pool samples, (n, K)."""
        indices = np.asarray(indices)
        sketches = self._shared.pool_sketches(indices)
        return sketches * self._pool_factors(indices, sketches)[:, None]

    def update(self, index: int) -> None:
        """Learn pool sample `index`: d <- d - step * g_i(d) / |g_i|."""
        shared = self._shared
        sketch = shared.pool_sketches(index)
        length = float(sketch @ self.displacement) / (2 * shared.pool_losses[index])
        length = self.step * (1 + length)
        self.displacement -= (length / shared.pool_norms[index]) * sketch
        self._factors -= length * shared.rows(index)
        self._losses = shared.weights @ np.square(self._factors)

    def domain_loss(self) -> float:
        """Return the mean loss of the dev samples, nats per token."""
        return float(self._losses[0])

    def test_loss(self) -> float:
        """Return the mean loss of the test samples, which no reward sees."""
        return float(self._losses[1])

    def retention_loss(self) -> float:
        """Return the mean loss of the retention samples, which no reward sees."""
        return float(self._losses[2])

    def anchor_losses(self) -> Floats:
        """Return the mean loss of each capability's anchor samples, (capabilities,)."""
        return self._losses[3:]

    def domain_gradient(self) -> Floats:
        """Return the gradient of the domain loss at d, (K,)."""
        return self._group_gradient(self._shared.groups[0])

    def anchor_gradients(self) -> Floats:
        """Return the gradient of each anchor loss at d, (capabilities, K)."""
        return np.stack([self._group_gradient(g) for g in self._shared.groups[3:]])

    def anchor_cosines(self, indices: NDArray[np.integer]) -> Floats:
        """Return cosines of pool samples' gradients with each anchor gradient at d.

        Args:
            indices: Pool rows (n,).

        Returns:
            float32 (n, capabilities); positive where a step on the sample helps.
        """
        return self._cosines(self._slopes(self._shared.rows(indices)))

    def anchor_cosine(self, index: int) -> Floats:
        """Return `anchor_cosines` of one pool sample, (capabilities,)."""
        return self._cosines(self._slopes(self._shared.rows(index)))

    def preview(
        self, indices: NDArray[np.integer]
    ) -> tuple[NDArray[np.float32], Floats, Floats]:
        """Return what `update` would lead to, for each of many pool samples.

        Args:
            indices: Pool rows (n,).

        Returns:
            The domain loss after the update (n,), the anchor losses after it
            (n, capabilities), and `anchor_cosines` before it (n, capabilities).
        """
        shared = self._shared
        indices = np.asarray(indices)
        rows = shared.rows(indices)
        slopes = self._slopes(rows)
        factors = self._pool_factors(indices, shared.pool_sketches(indices))
        lengths = self.step * factors[:, None]
        # A group's loss is quadratic along a step: value, slope and curvature tell all.
        curvatures = np.square(rows) @ shared.weights.T
        losses = self._losses - lengths * slopes + np.square(lengths) * curvatures
        return losses[:, 0], losses[:, 3:], self._cosines(slopes)

    def _pool_factors(self, indices: NDArray[np.integer], sketches: Floats) -> Floats:
        return 1 + sketches @ self.displacement / (
            2 * self._shared.pool_losses[indices]
        )

    def _slopes(self, rows: Floats) -> Floats:
        """Inner products of unit gradients with each group's gradient."""
        return 2 * ((rows * self._factors) @ self._shared.weights.T)

    def _cosines(self, slopes: Floats) -> Floats:
        squares = [
            self._factors[group] @ gram @ self._factors[group]
            for group, gram in self._shared.anchors
        ]
        norms = np.sqrt(np.maximum(np.array(squares, np.float32), 1e-24))
        return np.divide(slopes[..., 3:], norms, dtype=np.float32)

    def _group_gradient(self, group: slice) -> Floats:
        factors = self._factors[group] / (group.stop - group.start)
        return factors @ self._shared.sketches[group]


def calibrate_step(
    picked: Floats,
    picked_losses: Floats,
    dev: Floats,
    dev_losses: Floats,
    measured_domain_loss: float,
) -> tuple[float, bool]:
    """Find the step with which the surrogate predicts measured training runs.

    Args:
        picked: Sketches (runs, m, K) of the samples trained on, in order.
        picked_losses: Their losses (runs, m) before the training.
        dev: Sketches (n, K) of the dev samples.
        dev_losses: Their losses (n,) before the training.
        measured_domain_loss: Their mean loss after it, on the mean of the runs.

    Returns:
        The smallest positive step that predicts `measured_domain_loss`, and True;
        or, if none does (the model's least loss lies above it, or the training made
        the loss no better), the step of the least predicted loss, and False.
    """
    chosen, domain = picked.astype(np.float64), dev.astype(np.float64)
    losses = np.maximum(picked_losses.astype(np.float64), _LEAST_LOSS)
    start = np.maximum(dev_losses.astype(np.float64), _LEAST_LOSS)
    norms = np.maximum(np.linalg.norm(chosen, axis=2), 1e-12)
    grams = chosen @ chosen.swapaxes(1, 2) / (2 * losses[:, :, None] * norms[:, None])
    crosses = chosen @ domain.T / (norms[:, :, None] * 2 * start)

    def predicted(steps: NDArray[np.float64]) -> NDArray[np.float64]:
        results = []
        with np.errstate(over="ignore", invalid="ignore"):
            for gram, cross in zip(grams, crosses, strict=True):
                lengths = np.zeros((len(steps), len(gram)))
                for i in range(len(gram)):
                    factors = 1 - lengths[:, :i] @ gram[i, :i]
                    lengths[:, i] = steps * factors
                results.append(np.square(1 - lengths @ cross) @ start / len(start))
            result = np.mean(results, axis=0)
        return np.where(np.isfinite(result), result, np.inf)

    # One step of this length takes as much as first order allows off the loss.
    scale = start.mean() / max(float(np.linalg.norm(domain.mean(0))), 1e-12)
    steps = scale * np.geomspace(1e-6, 10, 641)
    losses_after = predicted(steps)
    reached = np.flatnonzero(losses_after <= measured_domain_loss)
    if measured_domain_loss >= start.mean() or len(reached) == 0:
        return float(steps[np.argmin(losses_after)]), False
    high = steps[reached[0]]
    low = steps[reached[0] - 1] if reached[0] else 0.0
    for _ in range(60):
        middle = (low + high) / 2
        if predicted(np.array([middle]))[0] <= measured_domain_loss:
            high = middle
        else:
            low = middle
    return float(high), True
