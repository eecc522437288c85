"""`ogs speed`: what it compares, prints and writes, without the speeds."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ogs_env.bundle import load_bundle
from ogs_env.cli import main
from ogs_env.experiments.speed import command, environments, peers, selecting
from ogs_env.experiments.speed.comparison import Comparison, Cost
from ogs_env.experiments.speed.peer_packages import PEERS
from ogs_env.experiments.speed.peer_sketching import K
from ogs_env.experiments.speed.random_bundle import write_random_bundle
from ogs_env.experiments.speed.report import read_results, table
from ogs_env.experiments.speed.settings import Settings
from ogs_env.experiments.speed.work import (
    Work,
    gradients,
    gradients_on_cached_trunk,
    make_work,
    operations,
    plain,
)
from ogs_env.lm.gradients import b_gradients
from ogs_env.sketching.settings import SketchSettings

KEYS = ["part", "name", "ratio", "low", "high", "rounds"]


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_SECONDS", {"quick": 0, "full": 0})
    monkeypatch.setattr(environments, "NUM_ENVS", (1, 3))
    monkeypatch.setattr(environments, "SYNC_NUM_ENVS", (3,))
    monkeypatch.setattr(environments, "BOUND_ENVS", 3)
    monkeypatch.setattr(environments, "TRAIN_ROUNDS", 1)
    monkeypatch.setattr(selecting, "SMALL", 600)
    monkeypatch.setattr(selecting, "QUICK", 1200)


@pytest.fixture(scope="module")
def work(tiny_model_folder: Path) -> Work:
    settings = SketchSettings(proxy=str(tiny_model_folder), layers=2, max_tokens=512)
    return make_work(settings, "float32", 8)


def summary_of(file: Path, capsys: pytest.CaptureFixture[str], *parts: str) -> list:
    capsys.readouterr()
    assert main(["speed", *parts, "--summary", "--result", str(file)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_sketching_is_measured_and_summed_up(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "speed.json"
    words = ["speed", "sketching", "--quick", "--model", str(tiny_model_folder)]
    assert main([*words, "--samples", "8", "--result", str(file)]) == 0
    table = capsys.readouterr().out.splitlines()
    found = json.loads(file.read_text())["sketching"]
    assert len(table) == 1 + len(found["ratios"]) + len(found["costs"])
    for ratio in found["ratios"]:
        assert 0 < ratio["low"] <= ratio["ratio"] <= ratio["high"]
        assert ratio["rounds"] == 7
    names = " ".join(ratio["name"] for ratio in found["ratios"])
    assert "k=512 / plain pass" in names
    assert "k=8,192 / plain pass" in names
    assert "product of two matrices" in names
    sizes = [c["values"].get("bytes a sample", 0) for c in found["costs"]]
    assert 2 * 8192 < max(sizes) < 4 * 8192
    peaks = [c["values"] for c in found["costs"] if "peak, MB" in c["values"]]
    assert peaks
    assert all(values["peak, MB"] >= values["before, MB"] > 0 for values in peaks)
    # The name of a build with CUDA is not part of a package's version.
    versions = found["machine"]["torch"], torch.__version__
    assert len({version.partition("+")[0] for version in versions}) == 1
    lines = summary_of(file, capsys)
    assert [list(line) for line in lines] == [KEYS] * len(found["ratios"])
    assert lines[0]["ratio"] == found["ratios"][0]["ratio"]


def test_parts_that_are_not_measured_stay_in_the_results(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "speed.json"
    kept = {"name": "x / y", "ratio": 2.0, "low": 1.0, "high": 3.0, "rounds": 7}
    file.write_text(json.dumps({"peers": {"ratios": [kept]}}))
    monkeypatch.setattr(environments, "ids", lambda: ["OGS-Medical-v0"])
    assert main(["speed", "environments", "--result", str(file)]) == 0
    lines = summary_of(file, capsys)
    assert lines[0] == {"part": "peers", **kept}
    assert {line["part"] for line in lines[1:]} == {"environments"}
    assert summary_of(file, capsys, "peers") == lines[:1]
    names = [line["name"] for line in lines]
    for what in ("make", "reset", "step"):
        assert f"{what} OGS-Medical-v0 / CartPole-v1" in names
    for name in ("OGS-Medical-v0", "OGS-Medical-Mixture-v0"):
        assert f"native step 3 environments of {name} / CartPole-v1" in names
        assert f"native / sync step 3 environments of {name}" in names
    assert any(name.startswith("train steps of OGS-Medical-v0") for name in names)


@pytest.mark.parametrize("name", ["speed.json", "speed-h200.json"])
def test_the_page_has_the_ratios_of_the_results(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "speed.md").read_text()
    assert table(read_results(command.RESULT.with_name(name))) in page


def test_every_id_that_trains_no_language_model_is_measured() -> None:
    ids = environments.ids()
    for name in gymnasium.registry:
        if name.startswith("OGS-"):
            assert (name in ids) is ("Live" not in name)
    assert len(ids) > 3


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["pears"], "unknown part 'pears'; did you mean peers?"),
        (["--summary", "--quick"], "--summary, --quick: each excludes the other"),
        (["--threads", "0"], "--threads: is 0; expected 1 or more"),
        (["--samples", "6"], "--samples: is 6; expected a multiple of 4"),
    ],
)
def test_wrong_options_are_one_line(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["speed", *words]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(f"ogs: error: {line}")
    assert err.count("\n") == 1


def test_another_file_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.json"
    file.write_text('{"rank": 8}')
    assert main(["speed", "selecting", "--quick", "--result", str(file)]) == 2
    assert "rank has no ratios; expected a result of `ogs speed`" in (
        capsys.readouterr().err
    )
    assert file.read_text() == '{"rank": 8}'


def test_operations_are_those_of_the_matrices(work: Work) -> None:
    class OfMatrices(FlopCounterMode):
        def total(self) -> int:
            counts = self.get_flop_counts()["Global"]
            return sum(n for op, n in counts.items() if str(op) == "aten.mm")

    alone = [[row] for row in range(len(work.rows))]
    single = Work(work.proxy, work.rows, alone, work.means)
    assert single.padding == 0 < work.padding
    run = plain(single)
    with OfMatrices(display=False) as counter:
        assert run() == len(work.rows)
    assert counter.total() == operations(single)


def test_passes_need_no_more_of_the_model_than_the_adapted_layers(work: Work) -> None:
    weights = {name: p.clone() for name, p in work.proxy.model.named_parameters()}
    for make in (plain, gradients, gradients_on_cached_trunk):
        assert make(work)() == len(work.rows)
        for name, parameter in work.proxy.model.named_parameters():
            assert parameter.grad is None
            assert parameter.requires_grad == ("lora_" in name)
            assert torch.equal(parameter, weights[name])


def test_random_batches_hold_every_sample_once(work: Work) -> None:
    mixed = work.in_random_batches()
    assert mixed.batches != work.batches
    rows = sorted(row for part in mixed.batches for row in part)
    assert rows == list(range(len(work.rows)))
    assert list(map(len, mixed.batches)) == list(map(len, work.batches))


def test_packages_that_are_not_installed_are_skipped(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for peer in PEERS:
        monkeypatch.setitem(sys.modules, peer.module, None)
    assert main(["speed", "peers", "--quick"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == len(PEERS)
    assert all(line.endswith("; skipped") for line in lines)
    assert "bergson is not installed" in lines[0]


def dense(work: Work) -> torch.Tensor:
    """Return dense projections of the samples' gradients."""
    size = sum(layer.weight.numel() for layer in work.proxy.b.values())
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(size, K, generator=generator)
    sketches = torch.zeros(len(work.rows), K)
    for part, batch in zip(work.batches, work.padded(), strict=True):
        layers: dict[str, torch.Tensor] = {}
        b_gradients(work.proxy, batch, lambda name, g: layers.update({name: g}))  # noqa: B023
        whole = [layers[name].flatten(1) for name in work.proxy.b]
        sketches[part] = torch.cat(whole, 1) @ matrix
    return sketches


def test_sketches_of_the_same_gradients_have_the_same_cosines(work: Work) -> None:
    ours, theirs = peers.our_sketches(work, 8192)(), dense(work)
    same = peers.compare_cosines(ours, theirs)
    assert same["correlation"] > 0.5
    assert same["difference"] < 2 * same["expected"]
    in_another_order = peers.compare_cosines(ours, theirs.flip(0))
    assert in_another_order["difference"] > 2 * in_another_order["expected"]


def test_selecting_is_measured_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(selecting, "SELECTORS", ("greedy", "navigator"))
    found = list(selecting.findings(Settings(quick=True)))
    costs = {one.name: one.values for one in found if isinstance(one, Cost)}
    assert list(costs) == [
        *("greedy, 600 samples", "navigator, 600 samples"),
        *("greedy, 1,200 samples", "navigator, 1,200 samples"),
    ]
    assert all(values["peak, MB"] > 20 for values in costs.values())
    greedy, navigator = (
        costs[f"{name}, 1,200 samples"] for name in selecting.SELECTORS
    )
    assert 0 < greedy["select, s"] < navigator["select, s"]
    assert greedy["open first, s"] == navigator["open first, s"] > 0
    names = [one.name for one in found if isinstance(one, Comparison)]
    assert names == [f"{n}, pool of 1,200 / 600" for n in selecting.SELECTORS]
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
from ogs_env.experiments.speed.machine import peak_memory

less = make_selector("less")
before = peak_memory()
less.select(load_bundle({str(tmp_path / "b")!r}), 8000, np.random.default_rng(0))
print(peak_memory() - before)
"""
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert int(output) < 50e6
