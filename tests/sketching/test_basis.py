"""The observation basis: directions, scales and the shipped file."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ogs_env.bundle import load_bundle, shipped_bundles
from ogs_env.bundle_files import BASIS, SHIPPED
from ogs_env.sketching import basis as module
from ogs_env.sketching.basis import DIRECTIONS, basis_for


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A temporary folder in place of the package's shipped files."""
    monkeypatch.setattr(module, "SHIPPED", tmp_path)
    return tmp_path


def shards(rows: list[int], rank: int, k: int = 80) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(rank)
    directions = rng.normal(size=(rank, k)) * np.geomspace(1, 0.1, rank)[:, None]
    return [
        {
            "initial": (rng.normal(size=(n, rank)) @ directions).astype(np.float16),
            "norms": np.exp(rng.normal(size=n)).astype(np.float32),
            "losses": rng.uniform(0, 4, size=n).astype(np.float32),
            "tokens": rng.integers(1, 99, size=n).astype(np.int32),
        }
        for n in rows
    ]


def units(pool) -> np.ndarray:
    whole = np.concatenate([shard["initial"] for shard in pool]).astype(np.float64)
    return whole / np.linalg.norm(whole, axis=1, keepdims=True)


def test_the_basis_spans_the_top_singular_vectors_of_unit_sketches():
    pool = shards([100, 64, 30], rank=60)
    tensors, origin = basis_for("new", pool)
    basis = tensors["basis"]
    assert origin == "own pool"
    assert basis.shape == (80, DIRECTIONS)
    assert basis.dtype == torch.float32
    directions = basis.double().numpy()
    directions /= np.linalg.norm(directions, axis=0)
    singular = np.linalg.svd(units(pool))[2][:DIRECTIONS]
    cosines = (singular * directions.T).sum(1)
    np.testing.assert_allclose(abs(cosines), 1, atol=1e-6)


def test_coordinates_are_of_the_order_of_one():
    pool = shards([200], rank=50)
    coordinates = units(pool) @ basis_for("new", pool)[0]["basis"].double().numpy()
    np.testing.assert_allclose(np.square(coordinates).mean(0), 1, rtol=1e-5)


def test_the_largest_entry_of_each_direction_is_positive():
    basis = basis_for("new", shards([90], rank=40))[0]["basis"].numpy()
    largest = np.abs(basis).argmax(axis=0)
    assert (basis[largest, np.arange(DIRECTIONS)] > 0).all()


@pytest.mark.parametrize(("rows", "k"), [(5, 80), (90, 16)])
def test_directions_missing_in_a_small_pool_are_zero(rows, k):
    real = min(rows, k)
    basis = basis_for("new", shards([rows], rank=60, k=k))[0]["basis"].numpy()
    assert basis.shape == (k, DIRECTIONS)
    assert np.isfinite(basis).all()
    assert (np.abs(basis[:, :real]).max(axis=0) > 0).all()
    assert not basis[:, real:].any()


def log_columns(norms, losses, tokens) -> np.ndarray:
    return np.stack([np.log(norms), losses, np.log(tokens)]).astype(np.float64)


def test_scales_are_mean_and_deviation_over_the_whole_pool():
    pool = shards([100, 30], rank=40)
    whole = [
        np.concatenate([shard[name] for shard in pool])
        for name in ("norms", "losses", "tokens")
    ]
    scales = basis_for("new", pool)[0]["scales"]
    assert (scales.shape, scales.dtype) == ((2, 3), torch.float32)
    columns = log_columns(*whole)
    expected = columns.mean(axis=1), columns.std(axis=1)
    np.testing.assert_allclose(scales, expected, rtol=1e-5)


def test_scales_of_equal_samples_are_positive():
    [shard] = shards([40], rank=30)
    shard |= {"norms": np.zeros(40, np.float32), "tokens": np.ones(40, np.int32)}
    scales = basis_for("new", [shard])[0]["scales"].numpy()
    assert np.isfinite(scales).all()
    assert (scales[1] > 0).all()


def test_a_space_with_a_shipped_basis_uses_that_file(shipped):
    tensors = {"basis": torch.rand(64, DIRECTIONS), "scales": torch.rand(2, 3)}
    save_file(tensors, shipped / "basis-known.safetensors")
    pool = shards([40], rank=30, k=64)
    loaded, origin = basis_for("known", pool)
    assert origin == "shipped"
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(loaded[name], tensor)
    assert basis_for("other", pool)[1] == "own pool"


def test_the_shipped_bundles_have_the_basis_of_their_space():
    for name in shipped_bundles():
        bundle = load_bundle(name)
        file = SHIPPED / f"basis-{bundle.space}.safetensors"
        assert file.read_bytes() == (bundle.path / BASIS).read_bytes()
