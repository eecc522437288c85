"""Select by gradient similarity with the domain's subtasks (LESS).

Score of sample i: max over subtasks m of cos(g_i, g_m), g_i its gradient and g_m the
mean gradient of the dev samples of source m, both initial sketches (Xia, Malladi,
Gururangan, Arora, Chen 2024, arXiv 2402.04333, section 4.2; there the cosines at the
checkpoints of a warm-up are summed, here only the initial model's are used).
"""

import functools

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order, highest, pool_rows
from ogs_env.bundle import Bundle


class LessSelector:
    """Select the samples of highest cosine with a subtask's gradient."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return the rows of highest cosine, best first."""
        rows = pool_rows(bundle, budget, indices)
        return highest(rows, _scores(bundle)[rows], budget)


@functools.lru_cache(maxsize=8)
def _scores(bundle: Bundle) -> NDArray[np.float32]:
    """Return the scores (pool,)."""
    dev, sources = bundle.dev.sketches("initial"), bundle.dev.sources
    tasks = np.stack([dev[sources == n].mean(axis=0) for n in np.unique(sources)])
    tasks /= np.maximum(np.linalg.norm(tasks, axis=1, keepdims=True), 1e-12)
    # Shard by shard, so that a large pool is not in memory as a whole.
    cosines = [
        np.vecdot(start[:, None], tasks).max(axis=1)
        / np.maximum(np.linalg.norm(start, axis=1), 1e-12)
        for _, start in bundle.pool.blocks("initial")
    ]
    return np.concatenate(cosines)
