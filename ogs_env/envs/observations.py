"""What is seen of a candidate, whatever was picked before it."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle, scalars
from ogs_env.errors import InputError, unknown_name
from ogs_env.gram import Floats, Gram, Indices, take

if TYPE_CHECKING:
    from ogs_env.learners.live import LiveLearner

# What is seen is clipped to [-BOUND, BOUND].
BOUND = 10.0
# Where the largest cosine with a picked sample begins.
BELOW_ANY_COSINE = -2.0
# Pools up to this size are prepared once; of larger ones, rows are read as dealt.
_PREPARED_ROWS = 65_536


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(norms, 1e-12)


class Candidates:
    """The fixed part of the observation of each pool sample; read-only.

    Args:
        bundle: Where the samples come from.
        observe: `"initial"` (what a new pool has) or `"trajectory"` (what the learner
            knows).

    Attributes:
        directions: float32 (2 d,), the domain's and the anchor's direction in Q.
        domain: float32 (3,), mean log norm, loss and log tokens of the dev samples,
            standardised as the candidates' are.
        width: Length of a full sketch.
        state: Changes when what is seen of a row may have changed: never, here.

    Raises:
        InputError: For an unknown `observe`, or `"trajectory"` without trajectory
        sketches.
    """

    state = 0

    def __init__(self, bundle: Bundle, observe: str) -> None:
        if observe not in ("initial", "trajectory"):
            raise unknown_name("observe", observe, ("initial", "trajectory"))
        if observe == "trajectory" and not bundle.has_trajectory:
            raise InputError(
                f"{bundle.path}: has no trajectory sketches for observe='trajectory'; "
                "use observe='initial' or sketch with a warm-up"
            )
        self.bundle = bundle
        self.observe = observe
        self._domain = _unit(bundle.dev.sketches(observe).mean(0))
        self._anchors = np.stack(
            [
                _unit(
                    bundle.anchor.sketches(observe, bundle.anchor_rows(number)).mean(0)
                )
                for number in range(len(bundle.capabilities))
            ]
        )
        self._columns = _Columns(bundle)
        self.directions = self._columns.directions(self._domain, self._anchors)
        self.domain = dev_scalars(bundle)
        self.width = len(self._domain)
        pool = len(bundle.pool)
        self._gram = Gram(lambda rows: self.rows(rows)[1][:, None], pool, width=1)
        self._prepared: tuple[Floats, Floats] | None = None
        self._places: Floats | None = None
        if pool <= _PREPARED_ROWS:
            self._prepared = self._compute(np.arange(pool))
            every = np.append(np.arange(pool), -1)  # found by -1 too
            self._places = self._columns.places(every, lambda rows: self.rows(rows)[0])

    # Read-only: copies share it, another process builds its own.
    def __reduce__(self) -> tuple[Any, ...]:
        return candidates, (self.bundle, self.observe)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Candidates":
        return self

    def rows(self, indices: NDArray[np.integer]) -> tuple[Floats, Floats]:
        """Return what is seen of pool rows (n,), and their full unit sketches.

        Returns:
            float32 (n, d + 5): the unit sketch in Q, cosine with the domain, worst
            cosine over the anchor's capabilities, and log norm, loss and log tokens,
            standardised by the bundle's scales; and float32 (n, width).
        """
        if self._prepared is not None:
            seen, units = self._prepared
            return seen[indices], units[indices]
        return self._compute(indices)

    def places(self, rows: Indices) -> Floats:
        """Return observation rows (..., d + 7) of pool rows (...), -1 for none.

        Column d + 5, the largest cosine with a picked sample, is 0.
        """
        if self._places is not None:
            return take(self._places, rows)
        return self._columns.places(rows, lambda known: self.rows(known)[0])

    def context(
        self, picked: Floats, *, budget_left: float, slates_left: float, share: float
    ) -> Floats:
        """Return the observation's context (3 d + 8,); see `SelectionEnv`.

        Args:
            picked: What `rows` returns of the picks (n, d + 5).
            budget_left: Share of the budget that is left.
            slates_left: Share of the slates that are still to come.
            share: Picks left for each candidate left.
        """
        d = len(self.directions) // 2
        mean = picked.mean(axis=0) if len(picked) else np.zeros(d + 2)
        numbers = [budget_left, slates_left, *mean[d : d + 2], share, *self.domain]
        return np.concatenate([self.directions, mean[:d], numbers], dtype=np.float32)

    def cosines(self, rows: Indices, others: Indices) -> Floats:
        """Return cosines (...) between pool rows that broadcast together (...).

        0 where one is -1, for none.
        """
        return self._gram.of(rows, others)[..., 0]

    def _compute(self, indices: NDArray[np.integer]) -> tuple[Floats, Floats]:
        units = _unit(self.bundle.pool.sketches(self.observe, indices))
        if self.observe == "initial":
            domain = self.bundle.domain_cosines(indices)
            anchors = self.bundle.anchor_cosines(indices)
        else:
            domain = np.vecdot(units, self._domain)
            anchors = np.vecdot(units[:, None], self._anchors)
        pool = self.bundle.pool
        scalars = pool.norms[indices], pool.losses[indices], pool.tokens[indices]
        return self._columns.of(units, domain, anchors, *scalars), units


class LiveCandidates:
    """The same at the weights that a live learner has at the moment.

    Args:
        bundle: Where the samples come from.
        learner: Takes their gradients.
    """

    def __init__(self, bundle: Bundle, learner: "LiveLearner") -> None:
        self.learner = learner
        self.domain = dev_scalars(bundle)
        self._tokens = bundle.pool.tokens
        self._columns = _Columns(bundle)
        # As they looked last, so for good once they are picked.
        self._units = np.zeros((len(bundle.pool) + 1, bundle.k), np.float32)

    @property
    def state(self) -> int:
        """Changes when what is seen of a row may have changed."""
        return self.learner.state

    @property
    def directions(self) -> Floats:
        """As those of `Candidates`, when the learner last measured them."""
        domain = _unit(self.learner.domain_gradient())
        anchors = _unit(self.learner.anchor_gradients())
        return self._columns.directions(domain, anchors)

    def places(self, rows: NDArray[np.integer]) -> Floats:
        """Return observation rows as those of `Candidates`, at the current weights."""
        return self._columns.places(rows, self._look)

    def cosines(self, rows: Indices, others: Indices) -> Floats:
        """Return cosines (...) between pool rows (...), each as it looked last."""
        return (self._units[rows] * self._units[others]).sum(axis=-1)

    def _look(self, rows: NDArray[np.integer]) -> Floats:
        found = self.learner.look(rows)
        units = self._units[rows] = _unit(found.sketches)
        cosines = found.domain_cosines, found.anchor_cosines
        tokens = self._tokens[rows]
        return self._columns.of(units, *cosines, found.norms, found.losses, tokens)


class _Columns:
    """What is seen, of exact and sketched gradients alike."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def of(
        self,
        units: Floats,
        domain: Floats,
        anchors: Floats,
        norms: Floats,
        losses: Floats,
        tokens: NDArray[np.integer],
    ) -> Floats:
        """Return the columns that do not depend on what was picked, (n, d + 5)."""
        scalars = _standardised(self._bundle, norms, losses, tokens)
        cosines = domain, anchors.min(axis=1)
        seen = np.column_stack([self._in_basis(units), *cosines, scalars])
        return np.clip(seen, -BOUND, BOUND, dtype=np.float32)

    def places(
        self,
        rows: Indices,
        seen: Callable[[NDArray[np.integer]], Floats],
    ) -> Floats:
        """Return observation rows (..., d + 7) of pool rows (...), zeros for -1.

        Args:
            rows: Pool rows.
            seen: From known rows (n,) to columns 0 to d + 4.
        """
        flat = np.ravel(rows)
        known = flat >= 0
        found = np.zeros((len(flat), self._bundle.basis.shape[1] + 7), np.float32)
        if known.any():
            found[known, :-2] = seen(flat[known])
        found[known, -1] = 1
        return found.reshape(*np.shape(rows), found.shape[1])

    def directions(self, domain: Floats, anchors: Floats) -> Floats:
        """Return the domain's and the anchor's direction in Q, (2 d,)."""
        both = np.stack([domain, anchors.mean(0)])
        return np.clip(self._in_basis(both).ravel(), -BOUND, BOUND)

    def _in_basis(self, sketches: Floats) -> Floats:
        """Unit coordinates (n, d) in Q; of several checkpoints, those of the mean."""
        k = self._bundle.k
        blocks = sketches.reshape(len(sketches), sketches.shape[1] // k, k)
        units = _unit(blocks.mean(axis=1))
        # Sample by sample, whose numbers then are the same in any company.
        return np.matmul(units[:, None], self._bundle.basis)[:, 0]


def dev_scalars(bundle: Bundle) -> Floats:
    """Return what the dev samples are like: mean log norm, loss, log tokens (3,)."""
    dev = bundle.dev
    scalars = _standardised(bundle, dev.norms, dev.losses, dev.tokens)
    return np.clip(scalars.mean(axis=0), -BOUND, BOUND)


def _standardised(
    bundle: Bundle, norms: Floats, losses: Floats, tokens: NDArray[np.integer]
) -> Floats:
    """Return log norms, losses and log tokens (n, 3) by the scales of the proxy."""
    mean, deviation = bundle.scales
    found = scalars(norms, losses, tokens)
    return ((found - mean) / deviation).astype(np.float32)


@functools.lru_cache(maxsize=8)
def sample_names(bundle: Bundle) -> list[str]:
    """Return the ids of the pool's samples, and "" last: the name of row -1."""
    return [*bundle.pool.hex_ids(), ""]


@functools.lru_cache(maxsize=8)
def candidates(bundle: Bundle, observe: str) -> Candidates:
    """Return the bundle's candidates, prepared on the first call."""
    return Candidates(bundle, observe)
