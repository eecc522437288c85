"""`ogs sketch --ray` gives the bytes of one machine, whatever ends in between."""

import importlib.metadata
import json
import random
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
import torch
from helpers.forked import ERRORS, start_ogs
from helpers.words import WORDS

from ogs_env.cli import main
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError
from ogs_env.lm.encoding import Encoded
from ogs_env.sketching import cluster, cluster_connection
from ogs_env.sketching.batch_sketches import Row, mean_gradients
from ogs_env.sketching.settings import SketchSettings
from ogs_env.sketching.shards import Progress, Shard
from ogs_env.sketching.sketcher import load_proxy

ray = pytest.importorskip("ray", reason="ray is not installed (extra `ray`)")

# A relative folder, because the manifest holds the command line.
OUT = ("--out", "bundle")
TRAJECTORY = ("--trajectory", "--checkpoints", "0", "2")
REFERENCE = ("--anchor-answers", "reference")


@pytest.fixture(scope="module")
def short_folder() -> Iterator[Path]:
    """A folder for sockets, whose names are limited to 107 bytes."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        (Path(folder) / "ray").mkdir()
        yield Path(folder)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, short_folder) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # No other cluster of this machine is joined.
    monkeypatch.setenv("RAY_TMPDIR", str(short_folder))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


@pytest.fixture(scope="module")
def machines(short_folder) -> Iterator["ray.cluster_utils.Cluster"]:
    """A cluster of two machines, each with room for one worker."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", str(short_folder))
        # A token would be written into the home folder.
        patch.setenv("RAY_AUTH_MODE", "disabled")
        node = {"num_cpus": 1, "object_store_memory": 10**8}
        head = {**node, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        cluster.add_node(**node)
        # Otherwise it is the running cluster that `--ray` alone joins.
        (short_folder / "ray" / "ray_current_cluster").unlink()
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, tiny_model_folder) -> list[str]:
    """The command line without --out and --ray."""
    folder = tmp_path_factory.mktemp("texts")

    def texts(name: str, count: int) -> str:
        draw = random.Random(count)
        lines = [
            {
                "prompt": f"{name} {i} {' '.join(draw.choices(WORDS, k=2))}?",
                "response": " ".join(draw.choices(WORDS, k=draw.randint(1, 4))),
                "notes": "a field that no worker needs",
            }
            for i in range(count)
        ]
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return str(path)

    return [
        *("sketch", texts("pool", 1000), "--domain", texts("domain", 16)),
        *("--anchor", texts("anchor", 12), "--proxy", str(tiny_model_folder)),
        *("--precision", "float32", "--k", "32", "--rank", "2", "--layers", "1"),
        *("--max-tokens", "64"),
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def run(words: list[str], folder: Path, patch: pytest.MonkeyPatch) -> int:
    """Run a command in this process, as if it had been typed."""
    patch.chdir(folder)
    patch.setattr(sys, "argv", ["ogs", *words])
    return main(words)


def whole(words: list[str], folder: Path) -> dict[str, bytes]:
    """Return a bundle's files, as one machine without ray makes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setitem(sys.modules, "ray", None)
        assert run([*words, *OUT], folder, patch) == 0
    return contents(folder / "bundle")


@pytest.fixture(scope="module")
def with_trajectory(arguments, tmp_path_factory) -> dict[str, bytes]:
    return whole([*arguments, *TRAJECTORY], tmp_path_factory.mktemp("trajectory"))


@pytest.fixture(scope="module")
def without_trajectory(arguments, tmp_path_factory) -> dict[str, bytes]:
    return whole([*arguments, *REFERENCE], tmp_path_factory.mktemp("plain"))


def wait_for(path: Path, process: BaseProcess) -> None:
    while not path.exists() and process.is_alive():
        time.sleep(0.02)
    assert path.exists(), (path.parent.parent / ERRORS).read_text()


def sketching_workers(machines: "ray.cluster_utils.Cluster") -> list[psutil.Process]:
    """Return the workers' processes, which have their method as title."""
    return [
        worker
        for node in machines.list_all_nodes()
        for info in node.all_processes["raylet"]
        for worker in psutil.Process(info.process.pid).children()
        if worker.cmdline()[:1] == ["ray::Worker.sketch"]
    ]


def test_a_killed_worker_is_replaced_and_the_bytes_are_the_same(
    machines, arguments, with_trajectory, tmp_path
):
    words = [*arguments, *TRAJECTORY, *OUT, "--ray", machines.address]
    process = start_ogs(words, tmp_path)
    wait_for(tmp_path / "bundle" / "pool-00000.safetensors", process)
    worker, *_ = sketching_workers(machines)
    worker.kill()
    process.join()
    errors = (tmp_path / ERRORS).read_text()
    assert process.exitcode == 0, errors
    assert "a worker ended at shard pool-0000" in errors
    assert "raylet" not in errors
    assert contents(tmp_path / "bundle") == with_trajectory


def test_a_killed_command_is_resumed_without_ray(
    machines, arguments, without_trajectory, tmp_path, monkeypatch
):
    words = [*arguments, *REFERENCE, *OUT]
    process = start_ogs([*words, "--ray", machines.address], tmp_path)
    shard = tmp_path / "bundle" / "pool-00000.safetensors"
    wait_for(shard, process)
    process.kill()
    process.join()
    present, modified = contents(tmp_path / "bundle"), shard.stat().st_mtime_ns
    assert "manifest.json" not in present
    # Every file with its final name is complete.
    for name in present.keys() & without_trajectory.keys():
        assert present[name] == without_trajectory[name]
    assert run(words, tmp_path, monkeypatch) == 0
    assert shard.stat().st_mtime_ns == modified
    assert contents(tmp_path / "bundle") == without_trajectory


def test_a_killed_command_without_ray_is_resumed_with_ray(
    machines, arguments, without_trajectory, tmp_path, monkeypatch, capsys
):
    words = [*arguments, *REFERENCE, *OUT]
    process = start_ogs(words, tmp_path)
    shard = tmp_path / "bundle" / "pool-00000.safetensors"
    wait_for(shard, process)
    process.kill()
    process.join()
    modified = shard.stat().st_mtime_ns
    assert not (tmp_path / "bundle" / "pool-00003.safetensors").exists()
    assert run([*words, f"--ray={machines.address}"], tmp_path, monkeypatch) == 0
    assert shard.stat().st_mtime_ns == modified
    assert contents(tmp_path / "bundle") == without_trajectory
    errors = capsys.readouterr().err
    assert "resuming an unfinished bundle" in errors
    assert "2 workers" in errors
    assert not ray.is_initialized()


@pytest.fixture
def refused(arguments, tmp_path, monkeypatch, capsys):
    """Run a command with bad input; return its error line."""

    def run_it(*words: str) -> str:
        assert run([*arguments, *OUT, *words], tmp_path, monkeypatch) == 2
        assert not (tmp_path / "bundle").exists()
        error = capsys.readouterr().err.splitlines()[-1]
        return error.removeprefix("ogs: error: --ray: ")

    return run_it


def test_missing_ray_is_one_line(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert refused("--ray") == (
        "the package ray is not installed; run `pip install 'ogs-env[ray]'`"
    )


def test_an_address_that_is_none_is_one_line(refused):
    expected = "expected HOST:PORT, ray://HOST:PORT or nothing"
    assert refused("--ray", "head") == f"is 'head'; {expected}"


def test_an_address_where_no_cluster_runs_is_one_line(refused, monkeypatch):
    monkeypatch.setattr(cluster_connection, "CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:  # never answers
        address = f"127.0.0.1:{server.getsockname()[1]}"
        for named in (address, f"ray://{address}"):
            assert refused("--ray", named).startswith(f"{named} cannot be reached (")
    assert "Connection refused" in refused("--ray", address)
    assert "no-such-host.invalid:6379 cannot be" in refused(
        "--ray", "no-such-host.invalid:6379"
    )


def test_another_version_on_the_workers_is_one_line(
    machines, refused, tmp_path, monkeypatch
):
    version = importlib.metadata.version("ogs-env")
    own = tmp_path / "site" / "ogs_env-99.0.dist-info"
    own.mkdir(parents=True)
    (own / "METADATA").write_text("Metadata-Version: 2.1\nName: ogs-env\nVersion: 99.0")
    monkeypatch.syspath_prepend(own.parent)
    assert refused("--ray", machines.address) == (
        f"a worker has ogs-env {version}, this machine 99.0; install the same version "
        "on all machines"
    )


def test_a_cluster_without_room_for_a_worker_is_one_line(
    machines, refused, monkeypatch
):
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert refused("--ray", machines.address).startswith(
            "a worker needs 3 CPUs (one for each of its threads), and no machine of "
        )
    finally:
        torch.set_num_threads(threads)
    with cluster.connected(machines.address) as others:
        actors = [others.start() for _ in range(2)]
        ray.get([actor.check.remote({}) for actor in actors])
        monkeypatch.setattr(cluster, "START_SECONDS", 1)
        assert "no machine of the cluster had them free" in refused("--ray")


def test_a_model_that_no_worker_can_load_is_one_line(
    machines, tiny_model_folder, tmp_path
):
    settings = SketchSettings(str(tiny_model_folder), "float32", layers=1, rank=2)
    proxy, identity = load_proxy(settings)
    elsewhere = replace(settings, proxy=str(tmp_path / "model"))
    row = Row(Sample("why?", "so"), Encoded([2, 3, 4], 1, False), 0, 0)
    means = mean_gradients(proxy, {"dev": [row], "anchor": [row]}, 1)
    with (
        cluster.connected(machines.address) as workers,
        workers.sketching(proxy, identity, elsewhere, means, []) as sketching,
        pytest.raises(
            InputError, match=r"^--ray: a worker cannot load .*: no such file"
        ),
    ):
        next(sketching([Shard("pool", 0, [row])], None, Progress({"pool": [row]})))


def test_a_cluster_that_was_started_ends_with_the_command(refused, short_folder):
    def present() -> set[object]:
        started = psutil.Process().children(recursive=True)
        return {*short_folder.iterdir(), *started}

    before = present()
    error = refused("--domain", "missing.jsonl", "--ray")
    assert error.startswith("ogs: error: missing.jsonl: no such file")
    assert present() <= before
