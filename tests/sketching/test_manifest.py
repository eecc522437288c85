import numpy as np
import pytest
import torch

from ogs_env.bundle import load_bundle
from ogs_env.learners.fitted import (
    FITTED,
    FITTED_SPACE,
    FITTED_START,
    default_learner,
)
from ogs_env.sketching.manifest import _learner
from ogs_env.sketching.warmup import Checkpoint

CHECKPOINTS = [Checkpoint(step, {}, {}) for step in FITTED]


def scaled(entry, factor):
    """The entry where dev gradients are so many times as long."""
    powers = {"slope": factor, "curvature": factor**2}
    return {
        role: {
            name: pytest.approx((powers[name] * np.array(values)).tolist(), abs=1e-5)
            for name, values in entry[role].items()
        }
        for role in ("domain", "anchor", "answers")
    }


@pytest.mark.parametrize("factor", [1, 3])
def test_longer_dev_gradients_move_further_in_the_studied_space(factor):
    weights = [1 / (factor * one["norm"]) for one in FITTED.values()]
    found = _learner(FITTED_SPACE, CHECKPOINTS, weights, {})
    known = default_learner(list(FITTED))
    assert found == {"sketches": "path", **scaled(known, factor)}
    dev = torch.full((5, 4), factor * FITTED_START["norm"] / 2)
    found = _learner(FITTED_SPACE, [], [], {"dev": [{"start": dev}]})
    assert found == {"sketches": "start", **scaled(default_learner([]), factor)}


def test_in_other_spaces_the_dev_samples_norm_is_the_unit():
    assert _learner("other", CHECKPOINTS, [0.1, 2, 9], {}) == default_learner(
        [0, 6, 24]
    )


def test_the_shipped_bundles_are_of_the_studied_space():
    assert load_bundle("medical").space == FITTED_SPACE
