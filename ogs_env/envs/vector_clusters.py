"""Draws and observations of the sub-environments of a vector environment."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.envs.base import Observation
from ogs_env.envs.clusters import Clusters, sums_of_clusters
from ogs_env.envs.observations import Candidates
from ogs_env.envs.vector_base import EnvIndices


class VectorClusters:
    """Streams, samples left and observations of all sub-environments.

    The values of a sub-environment are equal to those of a `MixtureEnv`, which
    describes the observation.

    Args:
        clusters: The clusters of the pool.
        candidates: Observations of the pool's samples.
        num_envs: Number of sub-environments.
        batch: Samples of a full batch.
        steps: Batches of a full episode.

    Attributes:
        streams: Pool rows of each episode, by cluster.
        left: int64 (num_envs, clusters), samples left.
        batches: int64 (num_envs,), batches drawn.
        mask: int8 (num_envs, clusters), 1 = valid action.
    """

    def __init__(
        self,
        clusters: Clusters,
        candidates: Candidates,
        num_envs: int,
        batch: int,
        steps: int,
    ) -> None:
        self._clusters, self._batch, self._steps = clusters, batch, steps
        d = self._d = len(candidates.directions) // 2
        shape = num_envs, clusters.count
        # Row -1, no sample, refers to the zeros at the end.
        self._statistics = np.pad(clusters.statistics, ((0, 1), (0, 0)))
        self.streams = [np.empty(0, np.int64)] * num_envs
        self._sizes = np.zeros(num_envs, np.int64)
        self._ends = np.zeros(shape, np.int64)
        self.left = np.zeros(shape, np.int64)
        self._picked_from = np.zeros(shape, np.int64)
        self._picked = np.zeros(num_envs, np.int64)
        self._picked_sum = np.zeros((num_envs, 4 + d))
        self.batches = np.zeros(num_envs, np.int64)
        self.mask = np.ones(shape, np.int8)
        self._rows = np.zeros((*shape, 6 + d), np.float32)
        self._context = np.zeros((num_envs, 3 * d + 3), np.float32)
        self._context[:, : 2 * d] = candidates.directions

    @property
    def exhausted(self) -> NDArray[np.bool_]:
        """Which sub-environments have no samples left (num_envs,)."""
        return self._picked == self._sizes

    def start(self, index: int, stream: NDArray[np.int64]) -> None:
        """Set a new stream of a sub-environment, sorted by cluster."""
        self.streams[index], self._sizes[index] = stream, len(stream)
        left = self.left[index] = self._clusters.sizes(stream)
        self._ends[index] = np.cumsum(left)

    def deal(self, which: EnvIndices) -> None:
        """Observe the new streams of sub-environments (n,)."""
        self._picked_from[which] = 0
        self._picked[which] = 0
        self._picked_sum[which] = 0
        self.batches[which] = 0
        self.mask[which] = self.left[which] > 0
        self._context[which, 2 * self._d :] = 0
        self._context[which, 3 * self._d] = 1
        self._rows[which, :, 5] = 0
        left = self.left[which]
        sums = np.empty((*left.shape, 4 + self._d))
        for number, index in enumerate(which.tolist()):
            statistics = self._statistics.take(self.streams[index], axis=0)
            sums[number] = sums_of_clusters(statistics, left[number])
        self._write((which,), left, self._sizes[which, None], sums)

    def draw(self, which: EnvIndices, clusters: NDArray[np.int64]) -> NDArray[np.int64]:
        """Draw the next batches of clusters that are not empty.

        Args:
            which: Sub-environments (n,).
            clusters: A cluster of each of them (n,).

        Returns:
            int64 (num_envs, batch), the pool rows drawn, then -1.
        """
        ends, d = self._ends[which, clusters], self._d
        starts = ends - self.left[which, clusters]
        stops = np.minimum(starts + self._batch, ends)
        picks = np.full((len(self.streams), self._batch), -1)
        sums = np.empty((len(which), 4 + d), np.float32)
        places = np.stack([which, starts, stops, ends], axis=1).tolist()
        for number, (index, start, stop, end) in enumerate(places):
            stream = self.streams[index]
            picks[index, : stop - start] = stream[start:stop]
            rest = self._statistics.take(stream[stop:end], axis=0)
            np.add.reduce(rest, axis=0, out=sums[number])
        left = self.left[which, clusters] = ends - stops
        self._picked_from[which, clusters] += stops - starts
        self._picked[which] += stops - starts
        self.batches[which] += 1
        self.mask[which, clusters] = left > 0
        self.mask[self.exhausted] = 1

        self._write((which, clusters), left, self._sizes[which], sums)
        picked = self._picked[which, None]
        self._rows[which, :, 5] = self._picked_from[which] / picked
        drawn = self._statistics.take(picks[which], axis=0)
        self._picked_sum[which] += np.add.reduce(drawn, axis=1)
        mean = self._picked_sum[which] / picked
        self._context[which, 2 * d : 3 * d] = mean[:, 4:]
        self._context[which, 3 * d] = 1 - self.batches[which] / self._steps
        self._context[which, 3 * d + 1] = mean[:, 3]
        self._context[which, 3 * d + 2] = -mean[:, 1]
        return picks

    def observation(self, which: Any = ...) -> Observation:
        """Return a copy of the observation of all or some sub-environments.

        Args:
            which: Index of sub-environments; all by default.
        """
        return {
            "clusters": self._rows[which].copy(),
            "context": self._context[which].copy(),
        }

    def _write(
        self,
        which: tuple[Any, ...],
        left: NDArray[np.int64],
        sizes: NDArray[np.int64],
        sums: NDArray[np.floating],
    ) -> None:
        """Update rows (...) of the observation after a change of the samples left.

        Args:
            which: Index of the rows.
            left: Samples left (...).
            sizes: Candidates of their episodes (...).
            sums: Sums (..., 4 + d) of the statistics of the samples left.
        """
        means = sums / np.maximum(left, 1)[..., None]
        self._rows[*which, ..., 0] = left / sizes
        self._rows[*which, ..., 1:5] = means[..., :4]
        self._rows[*which, ..., 6:] = means[..., 4:]
