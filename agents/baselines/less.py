"""Select by gradient similarity with the domain's subtasks (LESS).

Score of sample i: max over subtasks m of sum_t cos(g_ti, g_tm), g_ti its gradient at
checkpoint t of a warm-up and g_tm the mean gradient of the dev samples of source m
(Xia, Malladi, Gururangan, Arora, Chen 2024, arXiv 2402.04333, section 4.2). With
initial sketches the only checkpoint is the untouched model. With trajectory sketches,
which are in the metric of Adam, cosines are in that metric, with equal weights as the
learning rate is constant after its rise.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order, highest, pool_rows
from ogs_env.bundle import Bundle
from ogs_env.errors import InputError, unknown_name


class LessSelector:
    """Select the samples of highest cosine with a subtask's gradient.

    Args:
        sketches: `"initial"`, or `"trajectory"` for a bundle with a trajectory.

    Raises:
        InputError: For another name.
    """

    def __init__(self, sketches: str = "initial") -> None:
        if sketches not in ("initial", "trajectory"):
            raise unknown_name("sketches", sketches, ["initial", "trajectory"])
        self._sketches = sketches

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return the rows of highest cosine, best first.

        Raises:
            InputError: If the bundle lacks the sketches.
        """
        if self._sketches == "trajectory" and not bundle.has_trajectory:
            raise InputError(
                f"{bundle.path}: has no trajectory; sketch it with --trajectory"
            )
        rows = pool_rows(bundle, budget, indices)
        return highest(rows, _scores(bundle, self._sketches)[rows], budget)


@functools.lru_cache(maxsize=8)
def _scores(bundle: Bundle, kind: str) -> NDArray[np.float32]:
    """Return the scores (pool,)."""
    sources = bundle.dev.sources
    dev = _by_checkpoint(bundle.dev.sketches(kind), bundle.k)
    tasks = np.stack([dev[sources == n].mean(axis=0) for n in np.unique(sources)])
    tasks /= np.maximum(np.linalg.norm(tasks, axis=-1, keepdims=True), 1e-12)
    scores = []
    # Shard by shard, so that a large pool is not in memory as a whole.
    for _, block in bundle.pool.blocks(kind):
        sketches = _by_checkpoint(block, bundle.k)
        norms = np.maximum(np.linalg.norm(sketches, axis=-1), 1e-12)
        cosines = np.vecdot(sketches[:, None], tasks) / norms[:, None]
        scores.append(cosines.sum(axis=-1).max(axis=1))
    return np.concatenate(scores)


def _by_checkpoint(sketches: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Return sketches (n, checkpoints, k)."""
    return sketches.reshape(len(sketches), -1, k)
