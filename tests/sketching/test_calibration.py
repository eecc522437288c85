"""The learner's step: what it is measured on, and what it then predicts."""

import numpy as np
import pytest
import torch

from ogs_env.sketching.calibration import calibrated_learner

NO_PICKS = np.empty(0, np.int64)


def make_shards(after: float | None, pool: int = 90) -> dict:
    """Shards whose dev loss is 2 before a warm-up and `after` behind it."""
    rng = np.random.default_rng(4)
    shared = rng.normal(size=24)

    def shard(n: int) -> dict[str, torch.Tensor]:
        sketches = torch.from_numpy(shared + rng.normal(size=(n, 24)))
        out = {"start": sketches.half(), "losses": torch.full((n,), 2.0)}
        if after is not None:
            out["path"] = torch.cat([sketches, 0.5 * sketches], 1).half()
            out["path_losses"] = torch.tensor([[1.9, after]]).repeat(n, 1)
        return out

    return {"pool": [shard(pool - 30), shard(30)], "dev": [shard(7), shard(5)]}


def replay(shards: dict, kind: str, picks: np.ndarray, step: float) -> float:
    """DESIGN's formulas, literally, on a displacement d."""

    def column(role, name):
        return torch.cat([s[name] for s in shards[role]]).double().numpy()

    pool, pool_losses = column("pool", kind), column("pool", "losses")
    dev, dev_losses = column("dev", kind), column("dev", "losses")
    d = np.zeros(pool.shape[1])
    for i in picks:
        factor = 1 + pool[i] @ d / (2 * pool_losses[i])
        d -= step * factor * pool[i] / np.linalg.norm(pool[i])
    return float((dev_losses * (1 + dev @ d / (2 * dev_losses)) ** 2).mean())


def test_the_warm_ups_picks_end_at_the_measured_loss():
    shards = make_shards(1.7)
    picks = np.random.default_rng(0).permutation(90)[:24]
    learner = calibrated_learner(shards, picks)
    assert learner["reached"]
    assert learner["sketches"] == "path"
    assert learner["step_from"] == "warm-up"
    assert learner["picks"] == 24
    assert learner["dev_loss_before"] == 2.0
    assert learner["dev_loss_after"] == pytest.approx(1.7)
    assert replay(shards, "path", picks, learner["step"]) == pytest.approx(1.7, 1e-4)


@pytest.mark.parametrize("pool", [90, 40])
def test_without_a_path_five_percent_are_assumed_of_64_samples(pool):
    shards = make_shards(None, pool)
    learner = calibrated_learner(shards, NO_PICKS)
    assert learner["sketches"] == "start"
    assert learner["step_from"] == "assumed"
    assert learner["picks"] == min(64, pool)
    first = np.arange(min(64, pool))
    assert replay(shards, "start", first, learner["step"]) == pytest.approx(1.9, 1e-4)


@pytest.mark.parametrize("after", [2.4, -1.0])
def test_a_loss_out_of_reach_is_said_so(after):
    learner = calibrated_learner(make_shards(after), np.arange(16))
    assert not learner["reached"]
    assert 0 < learner["step"] < np.inf
