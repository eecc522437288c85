import pytest
import torch

from ogs_env.bundle import load_bundle
from ogs_env.learners.fitted import (
    FITTED_SPACE,
    INITIAL_NORM,
    NORMS,
    STEPS,
    default_learner,
)
from ogs_env.sketching.manifest import _learner, _studied
from ogs_env.sketching.warmup import Checkpoint

CHECKPOINTS = [Checkpoint(step, {}, {}) for step in STEPS]


@pytest.mark.parametrize("answers", ["own", "reference"])
@pytest.mark.parametrize("factor", [1, 3])
def test_longer_dev_gradients_move_further_in_the_studied_space(factor, answers):
    shards = {"anchor_answers": []} if answers == "own" else {}
    norms = [factor * norm for norm in NORMS]
    weights = [1 / norm for norm in norms]
    found = _learner(True, CHECKPOINTS, weights, shards)
    assert found == default_learner(STEPS, norms, answers)
    assert found["sketches"] == "trajectory"
    norm = factor * INITIAL_NORM
    shards["dev"] = [{"initial": torch.full((5, 4), norm / 2)}]
    found = _learner(True, [], [], shards)
    known = default_learner([], [norm], answers)
    assert found["sketches"] == known["sketches"] == "initial"
    assert found["domain"]["slope"] == pytest.approx(known["domain"]["slope"], 1e-4)
    assert found["forgetting"] == pytest.approx(known["forgetting"], 1e-4)


def test_gradients_are_as_long_whatever_the_seed():
    proxy = load_bundle("medical").manifest["proxy"]["sha256"]
    adapter = load_bundle("medical").manifest["adapter"]
    assert _studied(proxy, adapter)
    assert _studied(proxy, adapter | {"seed": 7})
    assert not _studied(proxy, adapter | {"rank": 8})
    assert not _studied("0" * 64, adapter)


def test_of_another_proxy_the_dev_samples_norm_is_the_unit():
    found = _learner(False, CHECKPOINTS, [0.1, 2, 9], {"anchor_answers": []})
    assert found == default_learner(STEPS)


def test_the_shipped_bundles_are_of_the_studied_space():
    assert load_bundle("medical").space == FITTED_SPACE
