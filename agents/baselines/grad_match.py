"""Select by gradient matching with orthogonal matching pursuit (GRAD-MATCH).

A set S and weights w >= 0 minimise

    |sum over j in S of w_j g_j - g_D|^2 + lambda |w|^2

greedily, by orthogonal matching pursuit (Killamsetty, Sivasubramanian, Ramakrishnan,
De, Iyer 2021, arXiv 2103.00123, algorithm 2 with the validation gradient): g_j a
sample's initial sketch, g_D the mean initial sketch of the dev samples. lambda is the
paper's 0.5, in units of the pool's mean squared gradient norm, since the scale of
sketches depends on the proxy. The weights are used in the pursuit only; fine-tuning
weighs all selected samples equally.

A pursuit stops when no further sample can get a positive weight, and here also after as
many samples as a sketch has dimensions. Then a new pursuit starts on the remaining
samples, and so on: each adds a set that matches the gradient by itself. When no
remaining sample has a positive inner product with g_D, those of highest inner product
fill the rest. (The authors' code fills with random samples.)

More than 16,384 candidates are split into parts of about 1,024, see
`gradients.in_parts`, since a pick costs one pass over its part.

The score is the inner product with the residual of the pursuit.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.baselines.gradients import (
    Choose,
    Places,
    Scores,
    domain_gradient,
    in_parts,
    pursue,
)
from ogs_env.agents.selector import Order, highest, pool_rows
from ogs_env.bundle import Bundle

_LAMBDA = 0.5
# Candidates from which pursuits pick at once, and those of a part of more.
_WHOLE = 16_384
_PART = 1024


class GradMatchSelector:
    """Select samples whose weighted sum matches the domain's gradient."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return rows in the order picked, pursuit after pursuit."""
        rows = pool_rows(bundle, budget, indices)
        parts = 1 if len(rows) <= _WHOLE else min(-(-len(rows) // _PART), budget)
        return in_parts(bundle, rows, budget, parts, matching(bundle))


def matching(bundle: Bundle) -> Choose:
    """Return the function that picks by pursuits, for `in_parts`."""
    target, ridge = domain_gradient(bundle), _ridge(bundle)

    def match(sketches: NDArray[np.float32], budget: int) -> tuple[Places, Scores]:
        left = np.arange(len(sketches))
        order, scores = np.empty(budget, np.int64), np.empty(budget, np.float32)
        count = 0
        while count < budget:
            most = min(budget - count, bundle.k)
            places, products = pursue(sketches, target, most, ridge)
            if not places:
                agreement = np.vecdot(sketches, target)
                rest = highest(left, agreement, budget - count)
                order[count:], scores[count:] = rest
                break
            here = slice(count, count + len(places))
            order[here], scores[here] = left[places], products
            count += len(places)
            left = np.delete(left, places)
            sketches = np.delete(sketches, places, axis=0)
        return order, scores

    return match


@functools.lru_cache(maxsize=8)
def _ridge(bundle: Bundle) -> float:
    return _LAMBDA * float(np.square(bundle.pool.norms).mean())
