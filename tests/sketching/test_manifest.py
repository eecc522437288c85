import pytest
import torch

from ogs_env.bundle import load_bundle
from ogs_env.bundle_files import shard_order
from ogs_env.learners.fitted import (
    FITTED_SPACE,
    INITIAL_NORM,
    NORMS,
    STEPS,
    default_learner,
)
from ogs_env.sketching.manifest import _is_fitted_proxy, _learner
from ogs_env.sketching.warmup import Checkpoint

CHECKPOINTS = [Checkpoint(step, {}, {}) for step in STEPS]


@pytest.mark.parametrize("answers", ["own", "reference"])
@pytest.mark.parametrize("factor", [1, 3])
def test_longer_dev_gradients_move_further_in_the_fitted_space(factor, answers):
    shards = {"anchor_answers": []} if answers == "own" else {}
    norms = [factor * norm for norm in NORMS]
    weights = [1 / norm for norm in norms]
    learner = _learner(True, CHECKPOINTS, weights, shards)
    assert learner == default_learner(STEPS, norms, answers)
    assert learner["sketches"] == "trajectory"
    norm = factor * INITIAL_NORM
    shards["dev"] = [{"initial": torch.full((5, 4), norm / 2)}]
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
