"""Gradient matching by orthogonal matching pursuit.

Selects a set S and weights w >= 0 that minimise

    |sum over j in S of w_j g_j - g_D|^2 + lambda |w|^2

greedily, by orthogonal matching pursuit (GRAD-MATCH: Killamsetty, Sivasubramanian,
Ramakrishnan, De, Iyer 2021, arXiv 2103.00123, algorithm 2 with the validation
gradient): g_j a sample's initial sketch, g_D the mean initial sketch of the dev
samples. lambda is the paper's 0.5, in units of the pool's mean squared gradient norm,
as sketches of another proxy have another length. The weights steer the pursuit alone; a
selection is fine-tuned on as it is.

A pursuit stops early when no sample can still get a positive weight, and here also
after as many samples as a sketch has dimensions. Then a new one starts over the
samples left, and so on: each adds a set that matches the gradient by itself. Once no
sample left agrees with g_D, those that oppose it least fill the rest. (The authors'
code fills with random samples.)

The score is the inner product with what the pursuit had not matched yet. A pick costs
one pass over the candidates.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.baselines.gradients import domain_gradient, pursue
from ogs_env.agents.selector import Order, highest, pool_rows
from ogs_env.bundle import Bundle

_LAMBDA = 0.5


class GradMatchSelector:
    """Selects what together has the domain's gradient."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return rows in the order picked, pursuit after pursuit."""
        return match(bundle, pool_rows(bundle, budget, indices), budget)


def match(bundle: Bundle, rows: NDArray[np.int64], budget: int) -> Order:
    """Return the `budget` of `rows` that pursuits pick, and their scores."""
    target, ridge = domain_gradient(bundle), _ridge(bundle)
    sketches = bundle.pool.sketches("initial", rows)
    order = np.empty(budget, np.int64)
    scores = np.empty(budget, np.float32)
    done = 0
    while done < budget:
        most = min(budget - done, bundle.k)
        places, products = pursue(sketches, target, most, ridge)
        if not places:
            agreement = np.vecdot(sketches, target)
            order[done:], scores[done:] = highest(rows, agreement, budget - done)
            break
        here = slice(done, done + len(places))
        order[here], scores[here] = rows[places], products
        done += len(places)
        rows, sketches = np.delete(rows, places), np.delete(sketches, places, axis=0)
    return order, scores


@functools.lru_cache(maxsize=8)
def _ridge(bundle: Bundle) -> float:
    return _LAMBDA * float(np.square(bundle.pool.norms).mean())
