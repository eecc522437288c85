"""Observation columns of candidates that do not depend on earlier picks."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle, scalars
from ogs_env.errors import InputError, unknown_name
from ogs_env.gram import Floats, Gram, Indices, take

if TYPE_CHECKING:
    from ogs_env.learners.live import LiveLearner

# Observations are clipped to [-BOUND, BOUND].
BOUND = 10.0
# Initial value of a running maximum of cosines.
BELOW_ANY_COSINE = -2.0
# Columns of pools up to this size are computed once, of larger pools when needed.
_PREPARED_ROWS = 65_536
# Rows that are computed together: few, so that they stay in the processor's cache.
_CHUNK = 1024


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(norms, 1e-12)


class Candidates:
    """The fixed part of the observation of each pool sample; read-only.

    Args:
        bundle: Bundle of the samples.
        observe: `"initial"` for the initial sketches, which every pool has, or
            `"trajectory"` for the trajectory sketches, which the learner uses.

    Attributes:
        directions: float32 (2 d,), the domain's and the anchor's direction in Q.
        domain: float32 (3,), mean log norm, loss and log tokens of the dev samples,
            standardised by the scales of the candidates.
        width: Length of a full sketch.
        version: Version of the columns; constant here.

    Raises:
        InputError: For an unknown `observe`, or `"trajectory"` without trajectory
        sketches.
    """

    version = 0

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
            columns, _ = self._prepared = self._compute(np.arange(pool))
            every = np.append(np.arange(pool), -1)  # the last row serves index -1
            self._places = self._columns.places(every, lambda rows: columns[rows])

    # Copies share the object; another process builds its own.
    def __reduce__(self) -> tuple[Any, ...]:
        return candidates, (self.bundle, self.observe)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Candidates":
        return self

    def rows(self, indices: NDArray[np.integer]) -> tuple[Floats, Floats]:
        """Return the columns and the full unit sketches of pool rows (n,).

        Returns:
            float32 (n, d + 5): the unit sketch in Q, cosine with the domain, worst
            cosine over the anchor's capabilities, and log norm, loss and log tokens,
            standardised by the bundle's scales; and float32 (n, width).
        """
        if self._prepared is not None:
            columns, units = self._prepared
            return columns[indices], units[indices]
        return self._compute(indices)

    def parts(
        self, parts: Sequence[NDArray[np.integer]]
    ) -> Iterator[tuple[Floats, Floats]]:
        """Yield `rows` of one part of the pool after the other.

        Of a large pool this reads each file a few times only.
        """
        if self._prepared is not None:
            yield from map(self.rows, parts)
            return
        read = self.bundle.pool.sketches_of_parts(self.observe, parts)
        for part, sketches in zip(parts, read, strict=True):
            yield self._of_sketches(part, sketches)

    def places(self, rows: Indices) -> Floats:
        """Return observation rows (..., d + 7) of pool rows (...), -1 for none.

        Column d + 5, the largest cosine with a picked sample, is 0.
        """
        if self._places is not None:
            return take(self._places, rows)
        return self._columns.places(rows, lambda samples: self.rows(samples)[0])

    def context(
        self, picked: Floats, *, budget_left: float, slates_left: float, share: float
    ) -> Floats:
        """Return the observation's context (3 d + 8,); see `SelectionEnv`.

        Args:
            picked: Columns of the picked samples (n, d + 5), from `rows`.
            budget_left: Share of the budget that is left.
            slates_left: Share of the slates that follow.
            share: Picks left over candidates left.
        """
        d = len(self.directions) // 2
        mean = picked.mean(axis=0) if len(picked) else np.zeros(d + 2)
        numbers = [budget_left, slates_left, *mean[d : d + 2], share, *self.domain]
        return np.concatenate([self.directions, mean[:d], numbers], dtype=np.float32)

    def cosines(self, rows: Indices, others: Indices) -> Floats:
        """Return cosines (...) between pool rows of shapes that broadcast to (...).

        The cosine with row -1 is 0.
        """
        return self._gram.of(rows, others)[..., 0]

    def _compute(self, indices: NDArray[np.integer]) -> tuple[Floats, Floats]:
        return self._of_sketches(
            indices, self.bundle.pool.sketches(self.observe, indices)
        )

    def _of_sketches(
        self, indices: NDArray[np.integer], sketches: Floats
    ) -> tuple[Floats, Floats]:
        """Return what `rows` returns; the sketches become the unit sketches."""
        width = self.bundle.basis.shape[1] + 5
        columns = np.empty((len(indices), width), np.float32)
        for first in range(0, len(indices), _CHUNK):
            here = slice(first, first + _CHUNK)
            sketches[here] = _unit(sketches[here])
            columns[here] = self._columns_of(indices[here], sketches[here])
        return columns, sketches

    def _columns_of(self, indices: NDArray[np.integer], units: Floats) -> Floats:
        """Return the columns (n, d + 5) of pool rows with these unit sketches."""
        if self.observe == "initial":
            domain = self.bundle.domain_cosines(indices)
            anchors = self.bundle.anchor_cosines(indices)
        else:
            domain = np.vecdot(units, self._domain)
            anchors = np.vecdot(units[:, None], self._anchors)
        pool = self.bundle.pool
        scalars = pool.norms[indices], pool.losses[indices], pool.tokens[indices]
        return self._columns.of(units, domain, anchors, *scalars)


class LiveCandidates:
    """Observations of pool samples at the current weights of a live learner.

    It has the attributes `directions`, `domain` and `version`, and the methods `places`
    and `cosines`, of `Candidates`.

    Args:
        bundle: Bundle of the samples.
        learner: Learner that computes the samples' gradients.
    """

    def __init__(self, bundle: Bundle, learner: "LiveLearner") -> None:
        self.learner = learner
        self.domain = dev_scalars(bundle)
        self._tokens = bundle.pool.tokens
        self._columns = _Columns(bundle)
        # From the last observation; final once a sample is picked.
        self._units = np.zeros((len(bundle.pool) + 1, bundle.k), np.float32)

    @property
    def version(self) -> int:
        """Version of the columns; changes when their values may have changed."""
        return self.learner.version

    @property
    def directions(self) -> Floats:
        """The directions of `Candidates`, at the learner's last measurement."""
        domain = _unit(self.learner.domain_gradient())
        anchors = _unit(self.learner.anchor_gradients())
        return self._columns.directions(domain, anchors)

    def places(self, rows: NDArray[np.integer]) -> Floats:
        """Return the observation rows of `Candidates`, at the current weights."""
        return self._columns.places(rows, self._compute)

    def cosines(self, rows: Indices, others: Indices) -> Floats:
        """Return cosines (...) between pool rows (...), as last observed."""
        return (self._units[rows] * self._units[others]).sum(axis=-1)

    def _compute(self, rows: NDArray[np.integer]) -> Floats:
        gradients = self.learner.pool_gradients(rows)
        units = self._units[rows] = _unit(gradients.sketches)
        return self._columns.of(
            units,
            gradients.domain_cosines,
            gradients.anchor_cosines,
            gradients.norms,
            gradients.losses,
            self._tokens[rows],
        )


class _Columns:
    """Observation columns from cosines, norms, losses, tokens and unit sketches."""

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
        """Return the columns that do not depend on the picks, (n, d + 5)."""
        scalars = _standardised(self._bundle, norms, losses, tokens)
        cosines = domain, anchors.min(axis=1)
        columns = np.column_stack([self._in_basis(units), *cosines, scalars])
        return np.clip(columns, -BOUND, BOUND, dtype=np.float32)

    def places(
        self,
        rows: Indices,
        compute: Callable[[NDArray[np.integer]], Floats],
    ) -> Floats:
        """Return observation rows (..., d + 7) of pool rows (...), zeros for -1.

        Args:
            rows: Pool rows.
            compute: Function from pool rows (n,), none -1, to columns 0 to d + 4.
        """
        flat = np.ravel(rows)
        occupied = flat >= 0
        table = np.zeros((len(flat), self._bundle.basis.shape[1] + 7), np.float32)
        if occupied.any():
            table[occupied, :-2] = compute(flat[occupied])
        table[occupied, -1] = 1
        return table.reshape(*np.shape(rows), table.shape[1])

    def directions(self, domain: Floats, anchors: Floats) -> Floats:
        """Return the domain's and the anchor's direction in Q, (2 d,)."""
        both = np.stack([domain, anchors.mean(0)])
        return np.clip(self._in_basis(both).ravel(), -BOUND, BOUND)

    def _in_basis(self, sketches: Floats) -> Floats:
        """Return unit coordinates (n, d) in Q of the mean over checkpoints."""
        k = self._bundle.k
        blocks = sketches.reshape(len(sketches), sketches.shape[1] // k, k)
        units = _unit(blocks.mean(axis=1))
        # One product for each sample: its result does not depend on the batch.
        return np.matmul(units[:, None], self._bundle.basis)[:, 0]


def dev_scalars(bundle: Bundle) -> Floats:
    """Return the dev samples' mean log norm, loss and log tokens, standardised (3,)."""
    dev = bundle.dev
    scalars = _standardised(bundle, dev.norms, dev.losses, dev.tokens)
    return np.clip(scalars.mean(axis=0), -BOUND, BOUND)


def _standardised(
    bundle: Bundle, norms: Floats, losses: Floats, tokens: NDArray[np.integer]
) -> Floats:
    """Return log norms, losses and log tokens (n, 3) by the scales of the proxy."""
    mean, deviation = bundle.scales
    values = scalars(norms, losses, tokens)
    return ((values - mean) / deviation).astype(np.float32)


@functools.lru_cache(maxsize=8)
def sample_names(bundle: Bundle) -> list[str]:
    """Return the ids of the pool's samples, cached."""
    return bundle.pool.hex_ids()


@functools.lru_cache(maxsize=8)
def candidates(bundle: Bundle, observe: str) -> Candidates:
    """Return the `Candidates` of a bundle, cached."""
    return Candidates(bundle, observe)
