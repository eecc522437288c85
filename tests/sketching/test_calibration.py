"""The learner's units: what they are measured on, and what is then predicted."""

import json

import numpy as np
import pytest
import torch

from ogs_env.sketching.calibration import (
    calibrated_learner,
    calibration_picks,
    checkpoint_weights,
    measured_losses,
)
from ogs_env.sketching.encoding import collate, encode
from ogs_env.sketching.losses import response_losses
from ogs_env.sketching.proxy import attach_adapter, load_model


def make_shards(path: bool, pool: int = 90) -> dict:
    rng = np.random.default_rng(4)
    shared = rng.normal(size=24)

    def shard(n: int) -> dict[str, torch.Tensor]:
        sketches = torch.from_numpy(shared + rng.normal(size=(n, 24)))
        out = {"start": sketches.half(), "losses": torch.full((n,), 2.0)}
        if path:
            out["path"] = torch.cat([sketches, 0.25 * sketches], 1).half()
        return out

    return {"pool": [shard(pool - 30), shard(30)], "dev": [shard(7), shard(5)]}


def column(shards, role, name):
    return torch.cat([s[name] for s in shards[role]]).double().numpy()


def replay(shards: dict, kind: str, picks, step: float, scale) -> float:
    """DESIGN's formulas, literally, on a displacement d."""
    pool, pool_losses = column(shards, "pool", kind) * scale, 2.0
    dev, dev_losses = column(shards, "dev", kind) * scale, 2.0
    d = np.zeros(pool.shape[1])
    for i in picks:
        factor = 1 + pool[i] @ d / (2 * pool_losses)
        d -= step * factor * pool[i] / np.linalg.norm(pool[i])
    return float((dev_losses * (1 + dev @ d / (2 * dev_losses)) ** 2).mean())


def test_weights_make_every_checkpoint_count_the_same():
    shards = make_shards(path=True)
    first, second = checkpoint_weights(shards, 2)
    assert second == pytest.approx(4 * first, 1e-3)
    dev = column(shards, "dev", "path")
    assert np.square(first * dev[:, :24]).sum(1).mean() == pytest.approx(1.0)
    assert checkpoint_weights(make_shards(path=False), 0) == []


def test_the_step_predicts_the_mean_measured_loss():
    shards = make_shards(path=True)
    picks = calibration_picks(90, 0)
    weights = checkpoint_weights(shards, 2)
    measured = [1.7, 1.8, 1.75, 1.75]
    learner = calibrated_learner(shards, picks, measured, weights)
    assert learner["reached"]
    assert learner["sketches"] == "path"
    assert learner["picks"] == 32
    assert learner["dev_loss_after"] == measured
    scale = np.repeat(weights, 24)
    after = [replay(shards, "path", run, learner["step"], scale) for run in picks]
    assert np.mean(after) == pytest.approx(1.75, 1e-4)


@pytest.mark.parametrize("pool", [90, 40])
def test_without_a_path_five_percent_are_assumed(pool):
    shards = make_shards(path=False, pool=pool)
    picks = calibration_picks(pool, 0)
    learner = calibrated_learner(shards, picks, [], [])
    assert learner["sketches"] == "start"
    assert learner["step_from"] == "assumed"
    after = [replay(shards, "start", run, learner["step"], 1.0) for run in picks]
    assert np.mean(after) == pytest.approx(1.9, 1e-4)


@pytest.mark.parametrize("after", [2.4, -1.0])
def test_a_loss_out_of_reach_is_said_so(after):
    shards = make_shards(path=True)
    picks = calibration_picks(90, 0)
    weights = checkpoint_weights(shards, 2)
    learner = calibrated_learner(shards, picks, [after] * 4, weights)
    assert not learner["reached"]
    assert 0 < learner["step"] < np.inf


def test_picks_are_drawn_without_repeats_from_the_seed():
    picks = calibration_picks(500, 3)
    assert picks.shape == (4, 32)
    assert all(len(set(run)) == 32 for run in picks.tolist())
    assert np.array_equal(picks, calibration_picks(500, 3))
    assert not np.array_equal(picks, calibration_picks(500, 4))
    assert calibration_picks(7, 0).shape == (4, 7)


def test_runs_train_for_real_and_go_on_where_they_stopped(tiny_model_folder, tmp_path):
    model, tokenizer = load_model(str(tiny_model_folder))
    proxy = attach_adapter(model, tokenizer, rank=4, alpha=8, layers=2, seed=0)
    pool = [encode(tokenizer, f"say {i}", "yes yes yes", 64) for i in range(9)]
    dev = [encode(tokenizer, "say it", "yes yes yes", 64)] * 3
    fresh = proxy.state()

    def loss() -> float:
        batch = collate(dev, tokenizer.pad_token_id)
        with torch.no_grad():
            return float(response_losses(proxy.model, batch).mean())

    before = loss()
    note = tmp_path / "runs.json"
    losses = measured_losses(proxy, pool, dev, 1e-2, 0, note)
    assert len(losses) == 4
    assert max(losses) < before - 0.1
    assert all(torch.equal(proxy.state()[name], fresh[name]) for name in fresh)
    assert loss() == pytest.approx(before)
    note.write_text(json.dumps(losses[:2]))
    assert measured_losses(proxy, pool, dev, 1e-2, 0, note) == losses
