"""What is seen of a candidate before anything is picked."""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle, Rows
from ogs_env.errors import InputError, unknown_name

Floats = NDArray[np.float32]

# What is seen is clipped to [-BOUND, BOUND].
BOUND = 10.0
# Pools up to this size are prepared once; of larger ones, rows are read as dealt.
_PREPARED_ROWS = 65_536


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(norms, 1e-12)


class Candidates:
    """The fixed part of the observation of each pool sample; read-only.

    Args:
        bundle: Where the samples come from.
        observe: `"start"` (what a new pool has) or `"path"` (what the learner knows).

    Attributes:
        directions: float32 (2 d,), the domain's and the anchor's direction in Q.
        width: Length of a full sketch.

    Raises:
        InputError: For an unknown `observe`, or `"path"` without path sketches.
    """

    def __init__(self, bundle: Bundle, observe: str) -> None:
        if observe not in ("start", "path"):
            raise unknown_name("observe", observe, ("start", "path"))
        if observe == "path" and not bundle.has_path:
            raise InputError(
                f"{bundle.path}: has no path sketches, so observe='path' cannot be; "
                "use observe='start' or sketch with a warm-up"
            )
        self.bundle = bundle
        self.observe = observe
        self._domain = _unit(bundle.dev.sketches(observe).mean(0))
        self._anchors = np.stack(
            [
                _unit(_of_capability(bundle.anchor, number, observe).mean(0))
                for number in range(len(bundle.capabilities))
            ]
        )
        anchor = self._anchors.mean(0)
        both = np.stack([self._domain, anchor])
        self.directions = np.clip(self._in_basis(both).ravel(), -BOUND, BOUND)
        self.width = len(anchor)
        self._norms = _Standardised(np.log(np.maximum(bundle.pool.norms, 1e-12)))
        self._losses = _Standardised(bundle.pool.losses)
        self._prepared: tuple[Floats, Floats] | None = None
        if len(bundle.pool) <= _PREPARED_ROWS:
            self._prepared = self._compute(np.arange(len(bundle.pool)))

    # Read-only: copies share it, another process builds its own.
    def __reduce__(self) -> tuple[Any, ...]:
        return candidates, (self.bundle, self.observe)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Candidates":
        return self

    def rows(self, indices: NDArray[np.integer]) -> tuple[Floats, Floats]:
        """Return what is seen of pool rows (n,), and their full unit sketches.

        Returns:
            float32 (n, d + 4): the unit sketch in Q, cosine with the domain, worst
            cosine over the anchor's capabilities, log norm and loss (standardised
            over the pool); and float32 (n, width).
        """
        if self._prepared is not None:
            seen, units = self._prepared
            return seen[indices], units[indices]
        return self._compute(indices)

    def _compute(self, indices: NDArray[np.integer]) -> tuple[Floats, Floats]:
        units = _unit(self.bundle.pool.sketches(self.observe, indices))
        if self.observe == "start":
            domain = self.bundle.domain_cosines(indices)
            anchors = self.bundle.anchor_cosines(indices)
        else:
            domain, anchors = units @ self._domain, units @ self._anchors.T
        scalars = [
            domain,
            anchors.min(axis=1),
            self._norms.of(indices),
            self._losses.of(indices),
        ]
        seen = np.column_stack([self._in_basis(units), *scalars])
        return np.clip(seen, -BOUND, BOUND, dtype=np.float32), units

    def _in_basis(self, sketches: Floats) -> Floats:
        """Unit coordinates (n, d) in Q; of several checkpoints, those of the mean."""
        blocks = sketches.reshape(len(sketches), -1, self.bundle.k)
        return _unit(blocks.mean(axis=1)) @ self.bundle.basis


class _Standardised:
    def __init__(self, values: Floats) -> None:
        self._values = (values - values.mean()) / max(float(values.std()), 1e-6)

    def of(self, indices: NDArray[np.integer]) -> Floats:
        return self._values[indices]


def _of_capability(rows: Rows, number: int, kind: str) -> Floats:
    indices = np.flatnonzero(rows.capabilities == number)
    if len(indices) == 0:
        raise InputError(f"capability number {number} has no anchor samples")
    return rows.sketches(kind, indices)


@functools.lru_cache(maxsize=8)
def candidates(bundle: Bundle, observe: str) -> Candidates:
    """Return the bundle's candidates, prepared on the first call."""
    return Candidates(bundle, observe)
