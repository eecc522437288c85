"""CountSketch against a dense matrix of signs, and its variance formula."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ogs_env.sketching.projection import CountSketch

SIZES = {"one": 40, "two": 25, "three": 7}


def vectors(n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(n, size, generator=generator) for name, size in SIZES.items()
    }


def sketched(values: dict[str, torch.Tensor], k: int, seed: int) -> torch.Tensor:
    projection = CountSketch(k, seed)
    out = torch.zeros(k, len(next(iter(values.values()))))
    for name, part in values.items():
        projection.add(out, name, part)
    return out.T


def dense(k: int, seed: int) -> torch.Tensor:
    """The projection as a matrix: the sketches of the unit vectors."""
    size = sum(SIZES.values())
    parts = torch.eye(size).split(list(SIZES.values()), dim=1)
    return sketched(dict(zip(SIZES, parts, strict=True)), k, seed)


@given(seed=st.integers(0, 2**32), k=st.integers(1, 90))
@settings(max_examples=15, deadline=None)
def test_the_projection_is_a_matrix_of_one_sign_per_coordinate(seed, k):
    matrix = dense(k, seed)
    assert set(matrix.unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert (matrix.abs().sum(1) == 1).all()
    values = vectors(5, seed % 1000)
    expected = torch.cat(list(values.values()), 1) @ matrix
    torch.testing.assert_close(
        sketched(values, k, seed), expected, rtol=1e-5, atol=1e-5
    )


def test_signs_and_buckets_are_even():
    projection = CountSketch(16, 3)
    total = torch.zeros(16, 1)
    projection.add(total, "part", torch.ones(1, 64_000))
    # About 4,000 coordinates a bucket, whose signs sum to 0 +- 63.
    assert total.abs().max() < 5 * 63
    buckets = torch.zeros(16, 4_000)
    projection.add(buckets, "small", torch.eye(4_000))
    assert ((buckets.abs().sum(1) - 250).abs() < 5 * 16).all()


@pytest.mark.parametrize("k", [4, 64])
def test_inner_products_are_unbiased_with_the_stated_variance(k):
    values = vectors(2, seed=9)
    values = {name: part + 0.3 for name, part in values.items()}
    g, h = torch.cat(list(values.values()), 1).double()
    products = torch.stack(
        [(s := sketched(values, k, seed).double())[0] @ s[1] for seed in range(600)]
    )
    error = products.std() / len(products) ** 0.5
    assert abs(products.mean() - g @ h) < 4 * error
    bound = (g.square().sum() * h.square().sum() + (g @ h).square()) / k
    # The bound omits -2 sum g^2 h^2 / k, which is small for spread vectors.
    exact = bound - 2 * (g.square() * h.square()).sum() / k
    assert products.var() < 1.2 * bound
    assert abs(products.var() / exact - 1) < 0.2


def test_order_of_parts_and_batch_do_not_matter():
    values = vectors(6)
    whole = sketched(values, 32, 1)
    reordered = sketched(dict(reversed(values.items())), 32, 1)
    torch.testing.assert_close(reordered, whole, rtol=1e-5, atol=1e-6)
    one = sketched({name: part[3:4] for name, part in values.items()}, 32, 1)
    assert torch.equal(one[0], whole[3])


def test_another_seed_or_name_is_another_projection():
    part = torch.randn(1, 500, generator=torch.Generator().manual_seed(0))

    def one(name: str, seed: int) -> torch.Tensor:
        return sketched({name: part}, 256, seed)

    assert torch.equal(one("layer", 0), one("layer", 0))
    for other in (one("layer2", 0), one("layer", 1)):
        cosine = torch.cosine_similarity(one("layer", 0), other).item()
        assert abs(cosine) < 0.35  # unrelated directions: 0 +- 0.06


def test_the_global_generator_is_neither_read_nor_advanced():
    torch.rand(7)
    before = torch.get_rng_state()
    first = dense(8, 5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    assert torch.equal(dense(8, 5), first)
