"""Clusters of a pool: samples whose gradients point the same way."""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.envs.observations import candidates
from ogs_env.errors import InputError

Doubles = NDArray[np.float64]
Labels = NDArray[np.int64]

# Of larger pools, so many rows drawn at random find the centres.
_FITTED_ROWS = 16_384
_BLOCK_ROWS = 4_096
# Lloyd's algorithm ends by itself, of 1,280 gradients after about 20 rounds.
_ROUNDS = 300
# Of so many points drawn, the best is the next centre: two seeds then differ little.
_DRAWN = 16
# Points with a smaller squared distance are the same: double precision's rounding.
_SAME = 1e-12


def k_means(points: Doubles, count: int, rng: np.random.Generator) -> Doubles:
    """Return centres (count, k) of points (n, k), each the mean of its nearest points.

    Lloyd's algorithm from the starting centres of greedy k-means++ (Arthur,
    Vassilvitskii 2007): points are drawn by their squared distance from the nearest
    centre so far, and the one that brings all points nearest is the next.

    Raises:
        InputError: If fewer than `count` of the points differ.
    """
    centres = points[[rng.integers(len(points))]]
    squares = nearest(points, centres)[1]
    while len(centres) < count:
        squares[squares < _SAME] = 0
        if not squares.any():
            raise InputError(
                f"clusters: {count}, but the pool has {len(centres)} different "
                f"sketches; expected at most {len(centres)}"
            )
        drawn = rng.choice(len(points), _DRAWN, p=squares / squares.sum())
        after = np.minimum(_squares(points, points[drawn]), squares[:, None])
        best = after.sum(axis=0).argmin()
        centres = np.concatenate([centres, points[drawn[[best]]]])
        squares = after[:, best]
    return lloyd(points, centres)


def lloyd(points: Doubles, centres: Doubles) -> Doubles:
    """Move centres (count, k) to the means of their nearest points until none moves.

    A centre without points goes to the point farthest from its own centre.
    """
    before = None
    for _ in range(_ROUNDS):
        labels, squares = nearest(points, centres)
        if before is not None and np.array_equal(labels, before):
            break
        before = labels
        members = labels == np.arange(len(centres))[:, None]
        sizes = members.sum(axis=1)
        centres = members @ points / np.maximum(sizes, 1)[:, None]
        empty = np.flatnonzero(sizes == 0)
        centres[empty] = points[np.argsort(-squares, kind="stable")[: len(empty)]]
    return centres


def nearest(points: Doubles, centres: Doubles) -> tuple[Labels, Doubles]:
    """Return each point's nearest centre (n,), and its squared distance from it (n,).

    Of centres equally near it is the first.
    """
    squares = _squares(points, centres)
    return squares.argmin(axis=1), squares.min(axis=1)


def _squares(points: Doubles, centres: Doubles) -> Doubles:
    """Squared distances (n, count), without a difference for every pair."""
    sums = np.square(points).sum(axis=1)[:, None] + np.square(centres).sum(axis=1)
    return np.maximum(sums - 2 * (points @ centres.T), 0)


class Clusters:
    """A pool in clusters, and what is seen of each sample; read-only.

    K-means on the unit initial sketches of the whole pool, whatever the split, in
    double precision and from a fixed seed, so the same bundle has the same clusters
    everywhere. They are numbered by their samples' mean cosine with the domain:
    cluster 0 agrees most with it.

    Args:
        bundle: Where the samples come from.
        count: How many clusters.

    Attributes:
        labels: int64 (pool,), each sample's cluster; every one has a sample.
        seen: float32 (pool, 4 + d), a sample's Orth, Conf, log gradient norm
            (standardised by the bundle's scales), domain cosine, and its unit sketch
            in Q.

    Raises:
        InputError: If fewer than `count` of the pool's sketches differ.
    """

    def __init__(self, bundle: Bundle, count: int) -> None:
        self.bundle = bundle
        self.count = count
        look, size = candidates(bundle, "initial"), len(bundle.pool)
        d = bundle.basis.shape[1]
        rng = np.random.default_rng(0)
        fitted = np.arange(size)
        if size > _FITTED_ROWS:
            fitted = np.sort(rng.choice(size, _FITTED_ROWS, replace=False))
        centres = k_means(look.rows(fitted)[1].astype(np.float64), count, rng)

        labels = np.empty(size, np.int64)
        self.seen = np.empty((size, 4 + d), np.float32)
        for start in range(0, size, _BLOCK_ROWS):
            rows = np.arange(start, min(start + _BLOCK_ROWS, size))
            seen, units = look.rows(rows)
            labels[rows] = nearest(units.astype(np.float64), centres)[0]
            aligned = np.abs(bundle.anchor_cosines(rows)).max(axis=1)
            # Conf is the largest of the -cos, so minus the least of the cosines.
            stats = [1 - aligned, -seen[:, d + 1], seen[:, d + 2], seen[:, d]]
            self.seen[rows] = np.column_stack([*stats, seen[:, :d]])
        sums = np.bincount(labels, self.seen[:, 3], minlength=count)
        means = sums / np.bincount(labels, minlength=count)
        number = np.argsort(np.argsort(-means, kind="stable"))
        self.labels = number[labels]
        for array in (self.labels, self.seen):
            array.flags.writeable = False

    # Read-only: copies share it, another process builds its own.
    def __reduce__(self) -> tuple[Any, ...]:
        return clusters, (self.bundle, self.count)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Clusters":
        return self


@functools.lru_cache(maxsize=8)
def clusters(bundle: Bundle, count: int) -> Clusters:
    """Return the bundle's clusters, found on the first call."""
    return Clusters(bundle, count)
