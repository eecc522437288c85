import copy
import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers.make_bundle import make_bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from ogs_env.bundle import Bundle, load_bundle
from ogs_env.envs import clusters as module
from ogs_env.envs.clusters import Clusters, clusters, k_means, lloyd, nearest
from ogs_env.errors import InputError


def spread(points: np.ndarray, labels: np.ndarray) -> float:
    """Sum of squared distances from the own cluster's mean, by a plain loop."""
    groups = [points[labels == label] for label in np.unique(labels)]
    return sum(float(np.square(group - group.mean(0)).sum()) for group in groups)


def best_partition(points: np.ndarray, count: int) -> float:
    """The least spread over all partitions of the points."""
    partitions = itertools.product(range(count), repeat=len(points))
    return min(
        spread(points, np.array(partition))
        for partition in partitions
        if len(set(partition)) == count
    )


def units(bundle: Bundle) -> np.ndarray:
    sketches = bundle.pool.sketches("initial")
    return sketches / np.linalg.norm(sketches, axis=1, keepdims=True)


# The algorithm.


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(4, 60),
    count=st.integers(1, 4),
    k=st.integers(1, 5),
    copies=st.integers(1, 3),
)
def test_centres_are_the_means_of_their_nearest(
    seed: int, size: int, count: int, k: int, copies: int
) -> None:
    rng = np.random.default_rng(seed)
    points = np.repeat(rng.normal(size=(size, k)), copies, axis=0)
    centres = k_means(points, count, np.random.default_rng(seed))
    repeated = k_means(points, count, np.random.default_rng(seed))
    np.testing.assert_array_equal(centres, repeated)
    labels, squares = nearest(points, centres)
    assert set(labels) == set(range(count))
    means = [points[labels == label].mean(0) for label in range(count)]
    np.testing.assert_allclose(centres, means, atol=1e-12)
    distances = np.linalg.norm(points[:, None] - centres, axis=2)
    np.testing.assert_array_equal(labels, distances.argmin(axis=1))
    np.testing.assert_allclose(squares, distances.min(axis=1) ** 2, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [2, 3])
def test_the_partition_of_a_few_points_is_optimal(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(count, 2))
    points = middles[np.arange(8) % count] + 0.3 * rng.normal(size=(8, 2))
    # The best of a few starts: one alone may end in a local optimum.
    fitted_spread = min(
        spread(points, nearest(points, k_means(points, count, rng))[0])
        for _ in range(10)
    )
    assert fitted_spread == pytest.approx(best_partition(points, count))


def test_separate_groups_become_clusters() -> None:
    rng = np.random.default_rng(0)
    middles = 10 * np.eye(12)
    of = np.repeat(np.arange(12), rng.integers(1, 30, size=12))
    points = middles[of] + 0.5 * rng.normal(size=(len(of), 12))
    labels, _ = nearest(points, k_means(points, 12, rng))
    assert len(set(zip(of.tolist(), labels.tolist(), strict=True))) == 12


def test_a_centre_without_points_is_moved_to_distant_points() -> None:
    points = np.array([[0.0], [0.1], [5.0], [5.1], [9.0]])
    centres = lloyd(points, np.array([[2.5], [100.0], [-100.0]]))
    assert sorted(centres.ravel()) == pytest.approx([0.05, 5.05, 9.0])


def test_more_clusters_than_different_points() -> None:
    points = np.repeat(np.eye(3), 4, axis=0)
    rng = np.random.default_rng(0)
    assert len(np.unique(k_means(points, 3, rng), axis=0)) == 3
    with pytest.raises(InputError, match=r"4, but the pool has 3 different sketches"):
        k_means(points, 4, rng)


# The clusters of a pool.


@pytest.mark.parametrize("count", [1, 5, 16])
def test_every_sample_is_in_the_nearest_cluster(bundle: Bundle, count: int) -> None:
    clustering = clusters(bundle, count)
    assert clustering.labels.shape == (len(bundle.pool),)
    assert set(clustering.labels) == set(range(count))
    points = units(bundle).astype(np.float64)
    means = np.stack([points[clustering.labels == n].mean(0) for n in range(count)])
    distances = np.linalg.norm(points[:, None] - means, axis=2)
    np.testing.assert_array_equal(clustering.labels, distances.argmin(axis=1))


def test_cluster_0_agrees_most_with_the_domain(bundle: Bundle) -> None:
    cosines = bundle.domain_cosines(np.arange(len(bundle.pool)))
    for count in (2, 16):
        labels = clusters(bundle, count).labels
        means = [cosines[labels == n].mean() for n in range(count)]
        assert means == sorted(means, reverse=True)


def test_statistics_of_a_sample(bundle: Bundle) -> None:
    statistics = clusters(bundle, 4).statistics
    start = bundle.pool.sketches("initial")
    of = bundle.anchor.capabilities
    anchors = bundle.anchor.sketches("initial")
    domain = bundle.dev.sketches("initial").mean(0)

    def cosine(x: np.ndarray, y: np.ndarray) -> float:
        return float(x @ y) / float(np.linalg.norm(x) * np.linalg.norm(y))

    logs = np.log(np.linalg.norm(start, axis=1))
    mean, deviation = bundle.scales[:, 0]
    for row in range(0, len(start), 37):
        anchor = [cosine(start[row], anchors[of == n].mean(0)) for n in range(2)]
        expected = [
            1 - max(abs(value) for value in anchor),
            max(-value for value in anchor),
            (logs[row] - mean) / deviation,
            cosine(start[row], domain),
            *(units(bundle)[row] @ bundle.basis),
        ]
        np.testing.assert_allclose(statistics[row], expected, atol=1e-4)


def test_copies_share_the_clusters(bundle: Bundle) -> None:
    # Loaded again, because other tests may have displaced it from the cache.
    bundle = load_bundle(bundle.path)
    clustering = clusters(bundle, 6)
    assert clusters(bundle, 6) is clustering
    assert copy.deepcopy(clustering) is clustering
    assert pickle.loads(pickle.dumps(clustering)) is clustering
    refitted = Clusters(bundle, 6)
    np.testing.assert_array_equal(refitted.labels, clustering.labels)
    np.testing.assert_array_equal(refitted.statistics, clustering.statistics)
    with pytest.raises(ValueError, match="read-only"):
        clustering.labels[0] = 1


def test_a_large_pool_is_fitted_on_a_part_and_read_in_blocks(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Clusters(bundle, 8)
    monkeypatch.setattr(module, "_BLOCK_ROWS", 64)
    blocks = Clusters(bundle, 8)
    np.testing.assert_array_equal(blocks.labels, whole.labels)
    np.testing.assert_allclose(blocks.statistics, whole.statistics, atol=1e-6)
    monkeypatch.setattr(module, "_FITTED_ROWS", 160)
    part = Clusters(bundle, 8)
    assert set(part.labels) == set(range(8))
    points = units(bundle)
    assert spread(points, part.labels) < 1.1 * spread(points, whole.labels)


def test_at_most_a_cluster_for_every_sample(tmp_path: Path) -> None:
    bundle = load_bundle(make_bundle(tmp_path / "tiny", pool=6))
    assert sorted(Clusters(bundle, 6).labels) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(InputError, match="clusters: 7, but the pool has 6 different"):
        Clusters(bundle, 7)
