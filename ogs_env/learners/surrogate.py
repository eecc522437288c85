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
<t_i g_ic, g_jc> / (2 l_j) to h, so losses take no step in sketch space.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle, Rows
from ogs_env.errors import InputError

Floats = NDArray[np.float32]
Indices = NDArray[np.integer] | int

BATCH = 8
"""Picks of an optimizer step."""

# Slope and curvature of domain and anchor by warm-up step, fitted to the real runs of
# the development list (`ogs fidelity --fit`), and those where there is no path.
FITTED = {
    0: {"domain": (0.05883, 0.0), "anchor": (0.34297, 3.97704)},
    6: {"domain": (0.07561, 0.22577), "anchor": (0.04015, 0.18744)},
    24: {"domain": (0.09834, 0.0), "anchor": (0.0, 0.24426)},
}
FITTED_START = {"domain": (0.2895, 2.28811), "anchor": (0.18249, 1.07495)}

# Larger tables (256 MB) are not kept; their rows are computed when asked for.
_TABLE_FLOATS = 2**26
# A loss below this (nats) is taken as this: the model is done with the sample.
_LEAST_LOSS = 1e-4
_TINY = np.float32(1e-12)


def default_learner(steps: Sequence[int]) -> dict[str, Any]:
    """Return the manifest's `learner` entry.

    Args:
        steps: Of the checkpoints, 0 for the untouched model; none without a path. Each
            responds as the study's nearest does.
    """
    fitted, sketches = [FITTED_START], "start"
    if steps:
        nearest = [min(FITTED, key=lambda known: abs(known - step)) for step in steps]
        fitted, sketches = [FITTED[step] for step in nearest], "path"
    entry: dict[str, Any] = {"sketches": sketches}
    for role in ("domain", "anchor"):
        slopes, curvatures = zip(*[found[role] for found in fitted], strict=True)
        entry[role] = {"slope": list(slopes), "curvature": list(curvatures)}
    return entry


class CrossGram:
    """What all learners of one bundle share; read-only.

    The measured samples are those of dev, test, anchor and retention, in this order;
    they form the groups dev, test, retention and one for each capability's anchor
    samples. Sketches are cut in checkpoints (one, where there is no path), and each is
    scaled so that the dev samples' have a root mean square norm of 1.

    Attributes:
        weights: float32 (groups, measured), l_j / size of the group where j belongs
            to the group, else 0.
        anchor_cosines: float32 (pool, capabilities), cosines of pool samples with the
            mean anchor gradients over all checkpoints together.
    """

    def __init__(self, bundle: Bundle, kind: str) -> None:
        self.bundle = bundle
        self.kind = kind
        self._count = len(bundle.manifest["checkpoints"]) if kind == "path" else 1
        dev = bundle.dev.sketches(kind).reshape(len(bundle.dev), self._count, -1)
        squares = np.square(dev).sum(axis=2).mean(axis=0)
        self._scale = (1 / np.sqrt(np.maximum(squares, 1e-24)))[:, None]

        roles = [bundle.dev, bundle.test, bundle.anchor, bundle.retention]
        losses = np.concatenate([rows.losses for rows in roles])
        self._losses = np.maximum(losses, _LEAST_LOSS)
        # Where there is a path, products from wider sketches are at hand.
        self._measured = None
        if kind == "start":
            start = [self._cut(rows.sketches(kind)) for rows in roles]
            self._measured = np.concatenate(start).transpose(1, 2, 0)
        self.weights, units = self._groups(roles)

        pool = bundle.pool
        keep = len(pool) * self._count * bundle.k <= _TABLE_FLOATS
        self._pool = self._weigh(np.arange(len(pool))) if keep else None
        shape = (len(pool), self._count, len(losses))
        self._table: Floats | None = None
        if math.prod(shape) <= _TABLE_FLOATS:
            self._table = np.empty(shape, np.float32)
        self.anchor_cosines = np.empty((len(pool), len(units)), np.float32)
        for begin, block in pool.blocks(kind):
            rows = np.arange(begin, begin + len(block))
            flat = self._cut(block).reshape(len(block), -1)
            self.anchor_cosines[rows] = _unit(flat) @ units.T
            if self._table is not None:
                self._table[rows] = self._times_measured(rows)

    # Read-only: copies share it, another process builds its own.
    def __reduce__(self) -> tuple[Any, ...]:
        return cross_gram, (self.bundle, self.kind)

    def __deepcopy__(self, memo: dict[int, Any]) -> "CrossGram":
        return self

    def pool_sketches(self, indices: Indices) -> Floats:
        """Return t_i g_i (n, checkpoints, k), or (checkpoints, k) for one row."""
        if self._pool is not None:
            return self._pool[indices]
        found = self._weigh(np.atleast_1d(indices))
        return found.reshape(*np.shape(indices), *found.shape[1:])

    def rows(self, indices: Indices) -> Floats:
        """Return <t_i g_i, g_j> / (2 l_j), (n, checkpoints, measured), or one row."""
        if self._table is not None:
            return self._table[indices]
        found = self._times_measured(np.atleast_1d(indices))
        return found.reshape(*np.shape(indices), *found.shape[1:])

    def _groups(self, roles: Sequence[Rows]) -> tuple[Floats, Floats]:
        """Return the groups' weights, and each capability's unit anchor gradient."""
        dev, test, anchor, retention = np.split(
            np.arange(len(self._losses)), np.cumsum([len(rows) for rows in roles])[:-1]
        )
        members, units = [dev, test, retention], []
        for number, name in enumerate(self.bundle.capabilities):
            own = np.flatnonzero(self.bundle.anchor.capabilities == number)
            if len(own) == 0:
                raise InputError(
                    f"{self.bundle.path}: capability '{name}' has no anchor samples; "
                    "rebuild the bundle"
                )
            members.append(anchor[own])
            sketches = self.bundle.anchor.sketches(self.kind, own)
            units.append(self._cut(sketches).mean(axis=0).ravel())
        weights = np.zeros((len(members), len(self._losses)), np.float32)
        for group, places in enumerate(members):
            weights[group, places] = self._losses[places] / len(places)
        return weights, _unit(np.stack(units))

    def _cut(self, sketches: Floats) -> Floats:
        """Cut sketches (n, K) in scaled checkpoints (n, checkpoints, k)."""
        cut = sketches.reshape(len(sketches), self._count, -1)
        return np.multiply(cut, self._scale, dtype=np.float32)

    def _weigh(self, indices: NDArray[np.integer]) -> Floats:
        sketches = self._cut(self.bundle.pool.sketches(self.kind, indices))
        return sketches * self._tokens(indices)

    def _tokens(self, indices: NDArray[np.integer]) -> Floats:
        return self.bundle.pool.tokens[indices, None, None].astype(np.float32)

    def _times_measured(self, indices: NDArray[np.integer]) -> Floats:
        if self._measured is None:
            products = self.bundle.pool.products(indices) * np.square(self._scale)
        else:
            sketches = self._cut(self.bundle.pool.sketches(self.kind, indices))
            product = np.matmul(sketches.transpose(1, 0, 2), self._measured)
            products = product.transpose(1, 0, 2)
        found = products * self._tokens(indices) / (2 * self._losses)
        return found.astype(np.float32)


@functools.lru_cache(maxsize=8)
def cross_gram(bundle: Bundle, kind: str) -> CrossGram:
    """Return the bundle's shared tables, computed on the first call."""
    return CrossGram(bundle, kind)


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
        settings = bundle.manifest["learner"]
        self.sketches: str = settings.get("sketches", "")
        known = ("path", "start") if bundle.has_path else ("start",)
        if self.sketches not in known:
            raise InputError(
                f"{bundle.path}: the manifest's learner has sketches "
                f"'{self.sketches}'; expected {' or '.join(known)}; rebuild the bundle"
            )
        checkpoints = 1
        if self.sketches == "path":
            checkpoints = len(bundle.manifest["checkpoints"])
        domain, anchor = (
            _response(bundle, role, checkpoints) for role in ("domain", "anchor")
        )
        self._shared = cross_gram(bundle, self.sketches)
        # By group: dev and test follow the domain's, the others the anchor's.
        others = len(self._shared.weights) - 2
        self._response = np.stack([domain, domain, *[anchor] * others])
        self._start_losses = self._shared.weights.sum(axis=1)
        self.reset()

    def reset(self, rng: np.random.Generator | None = None) -> None:
        """Return to d = 0. This learner is deterministic and ignores `rng`."""
        shape = self._shared.rows(0).shape
        self._shifts = np.zeros(shape, np.float32)  # h of the full batches
        self._empty_batch()
        self._measure(self._shifts)

    def update(self, index: int) -> None:
        """Let pool sample `index` join the batch, and the batch make its step."""
        self._picks += 1
        self._gradient += self._shared.pool_sketches(index)
        self._rows += self._shared.rows(index)
        norms = np.linalg.norm(self._gradient, axis=1)
        step = self._step(self._rows, norms, self._picks)
        self._measure(self._shifts + step)
        if self._picks == BATCH:
            self._shifts += step
            self._empty_batch()

    def finish(self) -> None:
        """Do nothing: every sample is learned and measured at once."""

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

    def anchor_cosine(self, index: int) -> Floats:
        """Return a pool sample's cosine with each mean anchor gradient.

        Over all checkpoints together; positive where a step on the sample helps.

        Returns:
            float32 (capabilities,).
        """
        return self._shared.anchor_cosines[index]

    def preview(
        self, indices: NDArray[np.integer]
    ) -> tuple[NDArray[np.float32], Floats, Floats]:
        """Return what `update` would lead to, for each of many pool samples.

        Args:
            indices: Pool rows (n,).

        Returns:
            The domain loss after the update (n,), the anchor losses after it
            (n, capabilities), and each sample's `anchor_cosine` (n, capabilities).
        """
        shared = self._shared
        sketches = shared.pool_sketches(np.asarray(indices))
        # |G + v|^2 without making G + v: the pool's rows may be many.
        squares = np.einsum("nck,nck->nc", sketches, sketches)
        squares += 2 * np.einsum("nck,ck->nc", sketches, self._gradient)
        squares += np.square(self._gradient).sum(axis=1)
        norms = np.sqrt(np.maximum(squares, 0))
        rows = shared.rows(np.asarray(indices)) + self._rows
        losses = self._losses_at(
            self._shifts + self._step(rows, norms, self._picks + 1)
        )
        return losses[:, 0], losses[:, 3:], shared.anchor_cosines[indices]

    def terms(self) -> Floats:
        """Return what the slopes and curvatures are multiplied by at d.

        Returns:
            float32 (groups, 2, checkpoints): mean x and mean x^2 / (4 l) of dev, test,
            retention and each capability's anchor samples, in nats.
        """
        return self._terms_at(self._now[None])[0]

    def _measure(self, shifts: Floats) -> None:
        self._now = shifts
        self._losses = self._losses_at(shifts[None])[0]

    def _empty_batch(self) -> None:
        self._picks = 0
        self._rows = np.zeros_like(self._shifts)
        self._gradient = np.zeros_like(self._shared.pool_sketches(0))

    def _step(self, rows: Floats, norms: Floats, picks: int) -> Floats:
        """What a batch of so many picks does to h."""
        lengths = np.float32(-picks / BATCH) / np.maximum(norms, _TINY)
        return np.multiply(rows, lengths[..., None], dtype=np.float32)

    def _losses_at(self, shifts: Floats) -> Floats:
        """Return the groups' losses (n, groups) at h (n, checkpoints, measured)."""
        effects = np.einsum("ngtc,gtc->ng", self._terms_at(shifts), self._response)
        return self._start_losses + effects

    def _terms_at(self, shifts: Floats) -> Floats:
        """Return mean x and mean x^2 / (4 l), (n, groups, 2, checkpoints)."""
        weights = self._shared.weights.T
        firsts, squares = 2 * (shifts @ weights), np.square(shifts) @ weights
        return np.stack([firsts, squares], axis=1).transpose(0, 3, 1, 2)


def _response(bundle: Bundle, role: str, checkpoints: int) -> Floats:
    """Return slopes and curvatures (2, checkpoints) of the manifest."""
    found = bundle.manifest["learner"].get(role, {})
    lists = [found.get("slope"), found.get("curvature")]
    for values in lists:
        if (
            not isinstance(values, list)
            or len(values) != checkpoints
            or not all(isinstance(v, int | float) and 0 <= v < np.inf for v in values)
        ):
            raise InputError(
                f"{bundle.path}: the manifest's learner has {found} for the {role}; "
                f"expected a slope and a curvature of at least 0 for each of "
                f"{checkpoints} checkpoints; rebuild the bundle"
            )
    return np.array(lists, np.float32)


def _unit(vectors: Floats) -> Floats:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _TINY)
