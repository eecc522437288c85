"""Sampled tasks: new domains made from the sources of a bundle's pool.

A pool has samples of many sources, and any of them can be a domain. An agent trained
on a single domain learns which samples help that domain. An agent trained on sampled
tasks must learn which samples help the domain that it observes.
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
"""Maximum number of candidates of a sampled task."""

_DEV, _TEST = 48, 16
# Largest shares of a source's samples in dev and in test.
_DEV_SHARE, _TEST_SHARE = 1 / 3, 1 / 6
# Fewest samples of a source that can be a part of a domain.
_MIN_SAMPLES = 24
# Range of the pool's share in the domain; in the shipped pools it is one half.
_INSIDE = 0.35, 0.6


class SampledTask(Bundle):
    """A bundle with a random domain from the pool of another bundle, its origin.

    Two sources of the pool and their shares of the domain are random. Dev and test
    samples come from these sources; with probability one half only from a
    neighbourhood, the half of a source's samples whose initial sketches are nearest to
    one of them. The pool is a part of the remaining samples, about half of it from the
    domain's sources. Anchor, retention and own answers are those of the origin.

    If the origin has an off-domain trajectory, the sketches are those along it. The
    gradient of a sample depends on the warm-up's earlier samples, and a policy trained
    on a single trajectory would mistake this for a property of the sample. Own answers
    always have the sketches at the untouched model.

    Inner products with the domain's gradients, which are exact in the origin, come
    from sketches here. A step moves the domain no farther than it moves the origin's
    domain: sources with short answers, whose gradients are many times as long, would
    otherwise be learned in a few picks and unlearned by the next ones.

    Args:
        origin: A bundle with at least two sources of 24 samples or more in its pool.
        number: The task's seed.
        split: The part of the origin's pool that the samples come from.

    Raises:
        InputError: If the pool has fewer than two such sources.
    """

    def __init__(self, origin: Bundle, number: int, split: str) -> None:
        self._arguments = origin, number, split
        self.path, self.basis, self.scales = origin.path, origin.basis, origin.scales
        self.retention = origin.retention
        if origin.has_answers:
            self.anchor_answers = origin.anchor_answers
            self.retention_answers = origin.retention_answers
        rng = np.random.default_rng(number)
        dev, test, pool = _sample_rows(origin, rng, origin.split(split))
        domain_mean = origin.pool.sketches("initial", dev).mean(0)
        dots = origin.pool.sketches("initial", pool) @ domain_mean
        parts = [origin.pool.part(rows) for rows in (pool, dev, test)]
        parts.append(origin.anchor)
        if origin.has_off_domain:
            parts = [part.along_off_domain() for part in parts]
        candidates, self.dev, self.test, self.anchor = parts
        self.pool = candidates.part(
            np.arange(len(pool)), domain_dots=dots, **_products(origin, pool, parts)
        )
        roles = {"pool": len(pool), "dev": len(dev), "test": len(test)}
        self.manifest = {
            **origin.manifest,
            "name": f"{origin.name}/{number}",
            "roles": {**origin.manifest["roles"], **roles},
            "domain_norm": float(np.linalg.norm(domain_mean)),
            "learner": _learner(origin, self.dev),
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return sample_task, self._arguments


@functools.lru_cache(maxsize=8)
def sample_task(origin: Bundle, number: int, split: str) -> SampledTask:
    """Return a sampled task of a bundle, cached."""
    return SampledTask(origin, number, split)


def _sample_rows(
    origin: Bundle, rng: np.random.Generator, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Sample disjoint rows of dev, test and pool."""
    sources = origin.pool.sources[rows]
    counts = np.bincount(sources)
    eligible = np.flatnonzero(counts >= _MIN_SAMPLES)
    if len(eligible) < 2:
        raise InputError(
            f"{origin.path}: no domain can be sampled from its pool, where "
            f"{len(eligible)} sources have {_MIN_SAMPLES} samples or more; expected at "
            "least two"
        )
    chosen = rng.choice(eligible, 2, replace=False)
    share = rng.uniform(0.25, 0.75)
    shares = dict(zip(chosen.tolist(), (share, 1 - share), strict=True))
    dev, test = [], []
    for source, part in shares.items():
        of_source = rows[sources == source]
        dev_size, test_size = (
            min(max(round(part * most), 2), int(len(of_source) * limit))
            for most, limit in ((_DEV, _DEV_SHARE), (_TEST, _TEST_SHARE))
        )
        if rng.random() < 0.5:
            of_source = _neighbourhood(origin, rng, of_source)
        selected = rng.choice(of_source, dev_size + test_size, replace=False)
        dev.append(selected[:dev_size])
        test.append(selected[dev_size:])
    domain = np.concatenate(dev), np.concatenate(test)
    left = np.setdiff1d(rows, np.concatenate(domain))
    return *domain, _sample_pool(rng, left, origin.pool.sources[left], shares)


def _neighbourhood(
    origin: Bundle, rng: np.random.Generator, rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the half of the rows that is nearest to a random one of them."""
    sketches = origin.pool.sketches("initial", rows)
    units = sketches / np.maximum(np.linalg.norm(sketches, axis=1)[:, None], 1e-12)
    cosines = units @ units[rng.integers(len(rows))]
    return rows[np.argsort(-cosines, kind="stable")[: -(-len(rows) // 2)]]


def _sample_pool(
    rng: np.random.Generator,
    rows: NDArray[np.int64],
    sources: NDArray[np.integer],
    shares: dict[int, float],
) -> NDArray[np.int64]:
    """Sample a pool from rows (n,), a part of it from the sources in `shares`."""
    inside = np.isin(sources, list(shares))
    weights = np.array(
        [shares[s] / (sources == s).sum() for s in sources[inside].tolist()]
    )
    size = min(POOL, len(rows))
    # More of the domain's samples if there are too few others.
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
        pool: Rows of the origin's pool that are in the task's pool.
        parts: The task's pool, dev, test and anchor.
    """
    if not origin.has_trajectory:
        return {}
    checkpoints = origin.manifest["checkpoints"]
    weights = [entry["weight"] for entry in checkpoints]
    candidates, dev, test, anchor = (
        part.sketches("trajectory").reshape(len(part), len(weights), -1)
        for part in parts
    )
    with_domain = _inner(candidates, np.concatenate([dev, test]))
    others = origin.pool.products(pool)[:, :, len(origin.dev) + len(origin.test) :]
    if origin.has_off_domain:
        later = [number for number, entry in enumerate(checkpoints) if entry["step"]]
        others[:, later, : len(anchor)] = _inner(candidates, anchor)[:, later]
    # The units cancel the weights, which `Rows.products` would apply a second time.
    units = np.tile(np.array(weights, np.float32) ** -2, (len(pool), 1))
    products = np.concatenate([with_domain, others], axis=2)
    return {"products": products.reshape(len(pool), -1), "product_units": units}


def _inner(
    rows: NDArray[np.float32], others: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return inner products (n, checkpoints, m) of (n or m, checkpoints, k)."""
    return np.einsum("pck,mck->pcm", rows, others, optimize=True)


def _learner(origin: Bundle, dev: Rows) -> dict[str, Any]:
    """Return the manifest's `learner` entry, in units of the dev samples' norms."""
    learner = origin.manifest["learner"]
    count = len(learner["domain"]["slope"])
    norms = []
    for rows in (dev, origin.dev):
        blocks = rows.sketches(learner["sketches"]).reshape(len(rows), count, -1)
        norms.append(np.sqrt(np.square(blocks).sum(axis=2).mean(axis=0)))
    ratios = norms[0] / norms[1]
    scaled = {}
    for role, factors in (("domain", np.minimum(ratios, 1)), ("anchor", ratios)):
        slopes = (np.array(learner[role]["slope"]) * factors).tolist()
        scaled[role] = {**learner[role], "slope": slopes}
    # The first ratio is that of the untouched model.
    curvature = learner["forgetting"]["curvature"] * float(ratios[0]) ** 2
    forgetting = {**learner["forgetting"], "curvature": curvature}
    return {**learner, **scaled, "forgetting": forgetting}
