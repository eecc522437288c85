"""Select by the paper's Orth score, without learning.

Orth_i = 1 - |cos(g_i, g_ref)|, g_ref the mean initial gradients of all anchor samples
(Zhang, Tian, Wang, Song 2026, arXiv 2602.06359). The highest are selected: samples
whose update does not change general abilities, to first order.
"""

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order, highest, pool_rows
from ogs_env.bundle import Bundle


class OrthSelector:
    """Select the samples most orthogonal to the general gradient."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return the rows of highest Orth, best first."""
        rows = pool_rows(bundle, budget, indices)
        return highest(rows, 1 - np.abs(general_cosines(bundle, rows)), budget)


def general_cosines(bundle: Bundle, rows: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return cosines (n,) of pool samples with the mean gradient of all anchors.

    The inner products are exact; the norm of the mean gradient, a common factor of all
    samples, is that of its sketch.
    """
    anchor = bundle.anchor
    counts = np.bincount(anchor.capabilities, minlength=len(bundle.capabilities))
    dots = bundle.pool.anchor_dots[rows] @ (counts / len(anchor))
    length = np.linalg.norm(anchor.sketches("initial").mean(axis=0))
    scale = np.maximum(bundle.pool.norms[rows] * length, 1e-12)
    return np.clip(dots / scale, -1, 1).astype(np.float32)
