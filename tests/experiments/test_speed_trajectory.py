"""`ogs speed`: sketches along a trajectory, and those of other packages."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from ogs_env.cli import main
from ogs_env.experiments.speed import command, peers
from ogs_env.experiments.speed.comparison import Comparison, Cost, Remark, measure
from ogs_env.experiments.speed.machine import clock
from ogs_env.experiments.speed.peer_packages import PEERS, Peer
from ogs_env.experiments.speed.peer_sketching import K
from ogs_env.experiments.speed.peers import compare_cosines, trajectory_findings
from ogs_env.experiments.speed.settings import Settings
from ogs_env.experiments.speed.sketching import to_plain_passes
from ogs_env.experiments.speed.trajectory import Trajectory, loaded, make_trajectory
from ogs_env.experiments.speed.work import make_work
from ogs_env.sketching.batch_sketches import EPSILON
from ogs_env.sketching.settings import SketchSettings
from ogs_env.sketching.warmup import Checkpoint


@pytest.fixture(scope="module")
def trajectory(tiny_model_folder: Path) -> Trajectory:
    settings = SketchSettings(proxy=str(tiny_model_folder), layers=2, max_tokens=512)
    return make_trajectory(make_work(settings, "float32", 8), K)


def exact(trajectory: Trajectory, checkpoint: Checkpoint) -> torch.Tensor:
    """Return each sample's gradient at a checkpoint in its metric, by autograd."""
    proxy = trajectory.work.proxy
    layers = {**proxy.a, **proxy.b}
    scales = torch.cat([checkpoint.scales[name] for name in layers])
    rows = []
    with loaded(proxy, checkpoint):
        for row in trajectory.work.rows:
            batch = proxy.batch([row.encoded])
            loss = proxy.model(**batch, use_cache=False).loss
            weights = [layer.weight for layer in layers.values()]
            parts = torch.autograd.grad(loss, weights)
            rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows) / (scales + EPSILON).sqrt()


def is_untouched(trajectory: Trajectory) -> bool:
    proxy, first = trajectory.work.proxy, trajectory.checkpoints[0]
    return first.step == 0 and all(
        torch.equal(weight, first.state[name]) for name, weight in proxy.state().items()
    )


def test_wide_sketches_are_of_the_gradients_at_each_checkpoint(
    trajectory: Trajectory,
) -> None:
    assert is_untouched(trajectory)
    assert len(trajectory.later) == 2
    for number, checkpoint in enumerate(trajectory.checkpoints):
        wide = trajectory.wide[:, number]
        same = compare_cosines(exact(trajectory, checkpoint), wide)
        assert same["difference"] < 2 / wide.shape[1] ** 0.5


def test_a_pass_along_the_trajectory_is_compared_with_plain_passes(
    trajectory: Trajectory,
) -> None:
    comparison = to_plain_passes(trajectory, "float32", clock(1))
    assert comparison.name == "sketches with trajectory, float32 / 3 plain passes"
    found = measure(dataclasses.replace(comparison, rounds=1), 0)
    assert found.ratio > 0
    assert is_untouched(trajectory)


def test_a_package_works_once_for_each_state_of_the_adapter(
    trajectory: Trajectory,
) -> None:
    proxy = trajectory.work.proxy
    seen: list[tuple[Checkpoint | None, bool]] = []

    def sketcher(checkpoint: Checkpoint | None = None) -> torch.Tensor:
        seen.append((checkpoint, any(b.weight.any() for b in proxy.b.values())))
        return trajectory.wide[:, -1]

    cost, comparison = trajectory_findings("x", sketcher, trajectory, Settings())
    assert isinstance(cost, Cost)
    assert cost.values["difference"] == 0
    assert isinstance(comparison, Comparison)
    seen.clear()
    comparison.theirs(0)
    states = [checkpoint for checkpoint, _ in seen]
    assert states == [None, *trajectory.later]
    assert [changed for _, changed in seen] == [False, True, True]
    assert is_untouched(trajectory)


def test_other_sketches_at_the_last_checkpoint_are_not_compared(
    trajectory: Trajectory,
) -> None:
    def of_one_sample(_: Checkpoint | None = None) -> torch.Tensor:
        return trajectory.wide[:1, -1].expand(len(trajectory.wide), -1)

    def fails(_: Checkpoint | None = None) -> torch.Tensor:
        raise ValueError("no checkpoints")

    found = trajectory_findings("x", of_one_sample, trajectory, Settings())
    cost, remark = found
    assert isinstance(cost, Cost)
    assert isinstance(remark, Remark)
    assert remark.text.endswith("not compared")
    [remark] = trajectory_findings("x", fails, trajectory, Settings())
    assert remark == Remark("x: failed (ValueError: no checkpoints); skipped")
    assert is_untouched(trajectory)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_package_sketches_the_gradients_of_the_changed_adapter(
    peer: Peer, trajectory: Trajectory
) -> None:
    if reason := peer.unavailable():
        pytest.skip(reason)
    proxy, last = trajectory.work.proxy, trajectory.checkpoints[-1]
    sketcher = peer.make(trajectory.work)
    with loaded(proxy, last):
        sketches = sketcher(last)
    gradients = exact(trajectory, last)
    same = compare_cosines(gradients, sketches)
    assert same["difference"] < 2 * same["expected"]
    # Sketches are linear: what the adapter's steps change is sketched as well.
    untouched = dataclasses.replace(last, state=trajectory.checkpoints[0].state)
    changes = gradients - exact(trajectory, untouched)
    same = compare_cosines(changes, sketches - sketcher(last))
    assert same["difference"] < 2 * same["expected"]


def test_an_installed_package_is_compared_with_and_without_trajectory(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = [p for p in PEERS if not p.slow and not p.unavailable()]
    if not installed:
        pytest.skip("no package to compare with is installed")
    monkeypatch.setattr(command, "_SECONDS", {"quick": 0, "full": 0})
    monkeypatch.setattr(peers, "PEERS", installed[:1])
    file = tmp_path / "speed.json"
    words = ["speed", "peers", "--quick", "--model", str(tiny_model_folder)]
    assert main([*words, "--samples", "4", "--result", str(file)]) == 0
    found = json.loads(file.read_text())["peers"]
    names = [ratio["name"].rpartition(",")[0] for ratio in found["ratios"]]
    ours = f"ours / {installed[0].name}"
    assert names == [ours, f"{ours}, pool with trajectory"]
