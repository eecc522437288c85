"""What selecting from large bundles costs, measured on small ones."""

import subprocess
import sys
import tempfile
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from ogs_env.bundle import load_bundle
from ogs_env.experiments.selecting_speed import costs, write_random_bundle


def test_costs_are_measured_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    measured = list(costs(counts=(600,), selectors=("greedy", "navigator")))
    assert [(cost.selector, cost.rows) for cost in measured] == [
        *(("greedy", 600), ("navigator", 600))
    ]
    greedy, navigator = measured
    assert 0 < greedy.selecting < navigator.selecting
    assert greedy.verifying == navigator.verifying > 0
    assert min(greedy.megabytes, navigator.megabytes) > 20
    assert not list(tmp_path.iterdir())


def test_a_random_bundle_is_whole(tmp_path: Path) -> None:
    write_random_bundle(tmp_path / "b", 600, k=64)
    bundle = load_bundle(tmp_path / "b")
    env = gymnasium.make("OGS-Medical-v0", bundle=str(tmp_path / "b"))
    assert env.reset(seed=0)[0]["candidates"].any()
    sketches = bundle.pool.sketches("initial")
    assert sketches.shape == (600, 64)
    np.testing.assert_allclose(
        bundle.pool.norms, np.linalg.norm(sketches, axis=1), rtol=1e-3
    )
    domain = bundle.dev.sketches("initial").mean(axis=0)
    units = sketches / np.linalg.norm(sketches, axis=1, keepdims=True)
    np.testing.assert_allclose(
        bundle.domain_cosines(np.arange(600)),
        units @ domain / np.linalg.norm(domain),
        atol=1e-3,
    )


def test_a_selection_takes_little_more_memory_than_its_columns(tmp_path: Path) -> None:
    write_random_bundle(tmp_path / "b", 80_000)  # 82 MB of sketches
    code = f"""
import numpy as np
from ogs_env.agents.selector import make_selector
from ogs_env.bundle import load_bundle
from ogs_env.experiments.selecting_speed import _peak_memory

less = make_selector("less")
before = _peak_memory()
less.select(load_bundle({str(tmp_path / "b")!r}), 8000, np.random.default_rng(0))
print(_peak_memory() - before)
"""
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert int(output) < 50e6
