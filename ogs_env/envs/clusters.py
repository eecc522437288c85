"""Clusters of a pool: samples whose gradients have similar directions."""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.envs.observations import candidates
from ogs_env.errors import InputError

Doubles = NDArray[np.float64]
Labels = NDArray[np.int64]

# Centres of larger pools are fitted to a random sample of this many rows.
_FITTED_ROWS = 16_384
# Rows that are assigned to clusters at a time.
_BLOCK_ROWS = 4_096
# Limit of Lloyd's algorithm, which converges on 1,280 gradients in about 20 rounds.
_ROUNDS = 300
# Points drawn for each new centre; with many, results depend little on the seed.
_DRAWN = 16
# Points with a smaller squared distance count as equal, to allow for rounding.
_SAME = 1e-12


def k_means(points: Doubles, count: int, rng: np.random.Generator) -> Doubles:
    """Return centres (count, k) of points (n, k), each the mean of its nearest points.

    Lloyd's algorithm, initialised by greedy k-means++ (Arthur, Vassilvitskii 2007):
    points are drawn in proportion to their squared distance from the nearest centre,
    and the one that reduces the sum of these distances most is the next centre.

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
    """Run Lloyd's algorithm: return the means of the nearest points of each centre.

    A centre without points moves to the point that is farthest from its centre.

    Args:
        points: Points (n, k).
        centres: Initial centres (count, k).

    Returns:
        Centres (count, k) after convergence.
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
    """Return each point's nearest centre (n,) and its squared distance from it (n,).

    A tie goes to the centre with the lowest number.
    """
    squares = _squares(points, centres)
    return squares.argmin(axis=1), squares.min(axis=1)


def _squares(points: Doubles, centres: Doubles) -> Doubles:
    """Return squared distances (n, count), without an array of (n, count, k)."""
    sums = np.square(points).sum(axis=1)[:, None] + np.square(centres).sum(axis=1)
    return np.maximum(sums - 2 * (points @ centres.T), 0)


def sums_of_clusters(statistics: NDArray[np.float32], sizes: Labels) -> Doubles:
    """Return the sum of each cluster's statistics (count, m).

    Args:
        statistics: Statistics (n, m) of samples sorted by cluster.
        sizes: Number of samples in each cluster (count,).
    """
    # `reduceat` does not return zeros for an empty range.
    full, sums = np.flatnonzero(sizes), np.zeros((len(sizes), statistics.shape[1]))
    starts = (np.cumsum(sizes) - sizes)[full]
    sums[full] = np.add.reduceat(statistics, starts, axis=0)
    return sums


class Clusters:
    """Clusters of a pool and statistics of its samples; read-only.

    K-means on the unit initial sketches of the whole pool, in double precision and
    with a fixed seed: the clusters of a bundle are the same on every machine and for
    every split. They are numbered by the mean domain cosine of their samples, the
    largest first.

    Args:
        bundle: Bundle of the pool.
        count: Number of clusters.

    Attributes:
        labels: int64 (pool,), each sample's cluster; no cluster is empty.
        statistics: float32 (pool, 4 + d), a sample's Orth, Conf, log gradient norm
            (standardised by the bundle's scales), domain cosine, and its unit sketch
            in Q.

    Raises:
        InputError: If fewer than `count` of the pool's sketches differ.
    """

    def __init__(self, bundle: Bundle, count: int) -> None:
        self.bundle = bundle
        self.count = count
        samples, size = candidates(bundle, "initial"), len(bundle.pool)
        d = bundle.basis.shape[1]
        rng = np.random.default_rng(0)
        fitted = np.arange(size)
        if size > _FITTED_ROWS:
            fitted = np.sort(rng.choice(size, _FITTED_ROWS, replace=False))
        centres = k_means(samples.rows(fitted)[1].astype(np.float64), count, rng)

        labels = np.empty(size, np.int64)
        self.statistics = np.empty((size, 4 + d), np.float32)
        for start in range(0, size, _BLOCK_ROWS):
            rows = np.arange(start, min(start + _BLOCK_ROWS, size))
            columns, units = samples.rows(rows)
            labels[rows] = nearest(units.astype(np.float64), centres)[0]
            aligned = np.abs(bundle.anchor_cosines(rows)).max(axis=1)
            # Conf, the largest -cos, is minus the least cosine of column d + 1.
            conf, norms, domain = -columns[:, d + 1], columns[:, d + 2], columns[:, d]
            self.statistics[rows] = np.column_stack(
                [1 - aligned, conf, norms, domain, columns[:, :d]]
            )
        sums = np.bincount(labels, self.statistics[:, 3], minlength=count)
        means = sums / np.bincount(labels, minlength=count)
        number = np.argsort(np.argsort(-means, kind="stable"))
        self.labels = number[labels]
        # Short integers are sorted faster.
        self._short_labels = self.labels.astype(np.min_scalar_type(count))
        for array in (self.labels, self.statistics):
            array.flags.writeable = False

    def sort(self, rows: Labels) -> Labels:
        """Return pool rows (n,) by cluster, those of a cluster in the given order."""
        return rows[np.argsort(self._short_labels[rows], kind="stable")]

    def sizes(self, rows: Labels) -> Labels:
        """Return how many of the pool rows (n,) are in each cluster (count,)."""
        return np.bincount(self.labels[rows], minlength=self.count)

    # Copies share the object; another process builds its own.
    def __reduce__(self) -> tuple[Any, ...]:
        return clusters, (self.bundle, self.count)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Clusters":
        return self


@functools.lru_cache(maxsize=8)
def clusters(bundle: Bundle, count: int) -> Clusters:
    """Return the `Clusters` of a bundle, cached."""
    return Clusters(bundle, count)
