import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from ogs_env.bundle import load_bundle
from ogs_env.bundle_files import MANIFEST, ROLES, shard_order
from ogs_env.files import read_json
from ogs_env.learners.fitted import (
    FITTED_SPACE,
    INITIAL_NORM,
    NORMS,
    STEPS,
    default_learner,
)
from ogs_env.rows import COLUMNS
from ogs_env.sketching.manifest import _is_fitted_proxy, _learner
from ogs_env.sketching.warmup import Checkpoint
from ogs_env.tensor_files import TensorFile

CHECKPOINTS = [Checkpoint(step, {}, {}) for step in STEPS]


@pytest.mark.parametrize("answers", ["own", "reference"])
@pytest.mark.parametrize("factor", [1, 3])
def test_longer_dev_gradients_move_further_in_the_fitted_space(
    factor, answers, tmp_path
):
    shards = {"anchor_answers": []} if answers == "own" else {}
    norms = [factor * norm for norm in NORMS]
    weights = [1 / norm for norm in norms]
    learner = _learner(True, CHECKPOINTS, weights, shards)
    assert learner == default_learner(STEPS, norms, answers)
    assert learner["sketches"] == "trajectory"
    norm = factor * INITIAL_NORM
    file = tmp_path / "dev-00000.safetensors"
    save_file({"initial": np.full((5, 4), norm / 2, np.float32)}, file)
    shards["dev"] = [TensorFile(file)]
    learner = _learner(True, [], [], shards)
    expected = default_learner([], [norm], answers)
    assert learner["sketches"] == expected["sketches"] == "initial"
    assert learner["domain"]["slope"] == pytest.approx(
        expected["domain"]["slope"], 1e-4
    )
    assert learner["forgetting"] == pytest.approx(expected["forgetting"], 1e-4)


def test_the_fitted_proxy_does_not_depend_on_the_seed():
    proxy = load_bundle("medical").manifest["proxy"]["sha256"]
    adapter = load_bundle("medical").manifest["adapter"]
    assert _is_fitted_proxy(proxy, adapter)
    assert _is_fitted_proxy(proxy, adapter | {"seed": 7})
    assert not _is_fitted_proxy(proxy, adapter | {"rank": 8})
    assert not _is_fitted_proxy("0" * 64, adapter)


def test_for_another_proxy_the_unit_is_the_dev_samples_norm():
    learner = _learner(False, CHECKPOINTS, [0.1, 2, 9], {"anchor_answers": []})
    assert learner == default_learner(STEPS)


def test_the_shipped_bundles_are_of_the_fitted_space():
    assert load_bundle("medical").space == FITTED_SPACE


def test_shards_are_in_the_order_of_their_numbers():
    names = [f"pool-{number:05d}.safetensors" for number in (99_999, 100_000, 7)]
    assert sorted(names, key=shard_order) == [names[2], names[0], names[1]]


MEASURE = """
import resource, sys
from pathlib import Path
from ogs_env.sketching.manifest import write_manifest
from ogs_env.sketching.settings import SketchSettings

def peak_kb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

settings = SketchSettings(anchor_answers="reference")
entries = {"proxy": {"sha256": "0"}, "sources": [], "capabilities": []}
before = peak_kb()
write_manifest(Path(sys.argv[1]), settings, [], [1.0], entries)
print(peak_kb() - before)
"""


def test_a_manifest_needs_less_memory_than_its_bundle_has_bytes(tmp_path):
    shards = 400
    for role in ROLES:
        for number in range(shards if role == "pool" else 1):
            columns = {name: np.ones(256, kind) for name, kind in COLUMNS.items()}
            columns["initial"] = np.eye(256, 512, number % 256, np.float16)
            save_file(columns, tmp_path / f"{role}-{number:05d}.safetensors")
    size_kb = sum(file.stat().st_size for file in tmp_path.iterdir()) / 1024
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    needed_kb = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert needed_kb < size_kb / 2
    manifest = read_json(tmp_path / MANIFEST, "manifest")
    assert manifest["roles"] == dict.fromkeys(ROLES, 256) | {"pool": shards * 256}
