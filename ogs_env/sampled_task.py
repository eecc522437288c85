"""Other domains in a bundle's own pool: what else a target could be asked to learn.

A pool holds samples of many sources, and any of them can be a domain. An agent that
has one domain in training learns which samples help *there*; one that has a new one
in every other episode has to learn which samples help the domain that it sees.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.errors import InputError
from ogs_env.rows import Rows

POOL = 256
"""Candidates of a sampled task, or as many as there are."""

_DEV, _TEST = 48, 16
# Of a source's samples, at most this share goes to dev and to test each.
_DEV_SHARE, _TEST_SHARE = 1 / 3, 1 / 6
# A source needs so many samples to be half of a domain.
_LEAST = 24
# The shipped pools are half in the domain; so, about, are these.
_INSIDE = 0.35, 0.6


class SampledTask(Bundle):
    """A bundle whose domain is drawn from another's pool.

    Two sources are drawn, and how much each is of the domain. From them come the dev
    and test samples, and half of the time only from a neighbourhood: the half of a
    source's samples whose initial sketches are nearest to one of them. The pool is a
    part of what is left, about half of it of the domain's sources. Anchor and
    retention, and own answers where there are some, are those of the origin.

    Where the origin has an off-domain trajectory, a second warm-up on samples from
    outside its own domain, these gradients are taken along it: what a sample teaches
    depends on what the warm-up has taught before, and a policy that has seen one alone
    takes that for a property of the samples. Those of own answers are the untouched
    model's, with an off-domain trajectory and without.

    What the origin has exactly, inner products with the domain's gradients, is here
    taken from sketches. A step moves the domain no farther than it moves the
    origin's own: sources of short answers, whose gradients are many times as long,
    would otherwise be learned in a handful of picks, and unlearned by the next.

    Args:
        origin: With a pool of at least two sources of 24 samples.
        number: Seed of what is drawn.
        split: The part of the origin's pool that all of it comes from.

    Raises:
        InputError: If the pool has no two such sources.
    """

    def __init__(self, origin: Bundle, number: int, split: str) -> None:
        self._drawn_from = origin, number, split
        self.path, self.basis, self.scales = origin.path, origin.basis, origin.scales
        self.retention = origin.retention
        if origin.has_answers:
            self.anchor_answers = origin.anchor_answers
            self.retention_answers = origin.retention_answers
        rng = np.random.default_rng(number)
        dev, test, pool = _draw(origin, rng, origin.split(split))
        start = origin.pool.sketches("initial", dev).mean(0)
        dots = origin.pool.sketches("initial", pool) @ start
        parts = [origin.pool.part(rows) for rows in (pool, dev, test)]
        parts.append(origin.anchor)
        if origin.has_off_domain:
            parts = [part.along_off_domain() for part in parts]
        drawn, self.dev, self.test, self.anchor = parts
        self.pool = drawn.part(
            np.arange(len(pool)), domain_dots=dots, **_products(origin, pool, parts)
        )
        roles = {"pool": len(pool), "dev": len(dev), "test": len(test)}
        self.manifest = {
            **origin.manifest,
            "name": f"{origin.name}/{number}",
            "roles": {**origin.manifest["roles"], **roles},
            "domain_norm": float(np.linalg.norm(start)),
            "learner": _response(origin, self.dev),
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return sample_task, self._drawn_from


@functools.lru_cache(maxsize=8)
def sample_task(origin: Bundle, number: int, split: str) -> SampledTask:
    """Return a sampled task of a bundle, drawn on the first call."""
    return SampledTask(origin, number, split)


def _draw(
    origin: Bundle, rng: np.random.Generator, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Draw the rows of dev, test and pool; none is in two of them."""
    sources = origin.pool.sources[rows]
    counts = np.bincount(sources)
    known = np.flatnonzero(counts >= _LEAST)
    if len(known) < 2:
        raise InputError(
            f"{origin.path}: no domain can be drawn from its pool, where "
            f"{len(known)} sources have {_LEAST} samples or more; expected two at least"
        )
    chosen = rng.choice(known, 2, replace=False)
    share = rng.uniform(0.25, 0.75)
    shares = dict(zip(chosen.tolist(), (share, 1 - share), strict=True))
    dev, test = [], []
    for source, part in shares.items():
        own = rows[sources == source]
        counted = [
            min(max(round(part * most), 2), int(len(own) * limit))
            for most, limit in ((_DEV, _DEV_SHARE), (_TEST, _TEST_SHARE))
        ]
        if rng.random() < 0.5:
            own = _neighbours(origin, rng, own)
        taken = rng.choice(own, sum(counted), replace=False)
        dev.append(taken[: counted[0]])
        test.append(taken[counted[0] :])
    domain = np.concatenate(dev), np.concatenate(test)
    left = np.setdiff1d(rows, np.concatenate(domain))
    return *domain, _compose(rng, left, origin.pool.sources[left], shares)


def _neighbours(
    origin: Bundle, rng: np.random.Generator, rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the half of rows that is nearest to one of them, drawn at random."""
    sketches = origin.pool.sketches("initial", rows)
    units = sketches / np.maximum(np.linalg.norm(sketches, axis=1)[:, None], 1e-12)
    cosines = units @ units[rng.integers(len(rows))]
    return rows[np.argsort(-cosines, kind="stable")[: -(-len(rows) // 2)]]


def _compose(
    rng: np.random.Generator,
    rows: NDArray[np.int64],
    sources: NDArray[np.integer],
    shares: dict[int, float],
) -> NDArray[np.int64]:
    """Draw a pool from rows (n,), part of it of the sources that have shares."""
    inside = np.isin(sources, list(shares))
    weights = np.array(
        [shares[s] / (sources == s).sum() for s in sources[inside].tolist()]
    )
    size = min(POOL, len(rows))
    # More of the domain's where there are too few others.
    count = max(int(rng.uniform(*_INSIDE) * size), size - int((~inside).sum()))
    count = min(count, int(inside.sum()))
    of_domain = rng.choice(
        rows[inside], count, replace=False, p=weights / weights.sum()
    )
    others = rng.choice(rows[~inside], size - count, replace=False)
    return np.sort(np.concatenate([of_domain, others]))


def _products(
    origin: Bundle, pool: NDArray[np.int64], parts: Sequence[Rows]
) -> dict[str, NDArray[np.float32]]:
    """Return the columns with inner products of the pool's trajectory sketches.

    Args:
        origin: As for `SampledTask`.
        pool: Rows of the origin's pool that are in the drawn one.
        parts: Drawn pool, dev, test and anchor.
    """
    if not origin.has_trajectory:
        return {}
    checkpoints = origin.manifest["checkpoints"]
    weights = [entry["weight"] for entry in checkpoints]
    own, dev, test, anchor = (
        part.sketches("trajectory").reshape(len(part), len(weights), -1)
        for part in parts
    )
    drawn = _inner(own, np.concatenate([dev, test]))
    kept = origin.pool.products(pool)[:, :, len(origin.dev) + len(origin.test) :]
    if origin.has_off_domain:
        later = [number for number, entry in enumerate(checkpoints) if entry["step"]]
        kept[:, later, : len(anchor)] = _inner(own, anchor)[:, later]
    # `Rows.products` multiplies by the weights, which both parts hold already.
    units = np.tile(np.array(weights, np.float32) ** -2, (len(pool), 1))
    products = np.concatenate([drawn, kept], axis=2)
    return {"products": products.reshape(len(pool), -1), "product_units": units}


def _inner(
    rows: NDArray[np.float32], others: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return inner products (n, checkpoints, m) of (n or m, checkpoints, k)."""
    return np.einsum("pck,mck->pcm", rows, others, optimize=True)


def _response(origin: Bundle, dev: Rows) -> dict[str, Any]:
    """Return the manifest's `learner`, whose unit is the norm of the dev samples."""
    learner = origin.manifest["learner"]
    count = len(learner["domain"]["slope"])
    norms = []
    for rows in (dev, origin.dev):
        cut = rows.sketches(learner["sketches"]).reshape(len(rows), count, -1)
        norms.append(np.sqrt(np.square(cut).sum(axis=2).mean(axis=0)))
    ratios = norms[0] / norms[1]
    scaled = {}
    for role, by in (("domain", np.minimum(ratios, 1)), ("anchor", ratios)):
        slopes = (np.array(learner[role]["slope"]) * by).tolist()
        scaled[role] = {**learner[role], "slope": slopes}
    # The first norm is the untouched model's.
    curvature = learner["forgetting"]["curvature"] * float(ratios[0]) ** 2
    forgetting = {**learner["forgetting"], "curvature": curvature}
    return {**learner, **scaled, "forgetting": forgetting}
