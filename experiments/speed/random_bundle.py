"""Measure what selecting from large bundles costs: processor time and memory.

Each bundle has random initial sketches; it is written for the measurement, shard by
shard as `ogs sketch` does, and removed afterwards. Each selector runs in a process of
its own, so that the peak of its memory is its own.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from ogs_env.bundle import load_bundle
from ogs_env.bundle_files import (
    BASIS,
    FORMAT,
    FORMAT_VERSION,
    MEASURED,
    save_manifest,
)

COUNTS = (10_000, 100_000, 1_000_000)
NAVIGATOR = "navigator"
SELECTORS = ("random", "greedy", "less", "grad-match", NAVIGATOR)
SHARE = 0.1
"""Share of the pool that is selected."""
K = 512
DIRECTIONS = 32
SPACE = "random"
_SHARD_ROWS = 256
_HELD_OUT = 64
_SOURCES = [{"name": f"source {number}"} for number in range(4)]
_CAPABILITIES = ["maths", "knowledge"]
_RESPONSE = {"slope": [0.05], "share": 0.7}
_LEARNER = {
    "sketches": "initial",
    "epochs": 1,
    "domain": _RESPONSE,
    "anchor": _RESPONSE,
    "forgetting": {"curvature": 0.0006},
}
# A slate and the context of `SelectionEnv`, and the width of `ogs train`.
_SLATE_SIZE, _NUM_SLATES, _WIDTH = 16, 16, 64


@dataclass(frozen=True)
class Cost:
    """What a selector costs, in processor seconds and memory.

    Attributes:
        selector: Name of the selector.
        rows: Samples of the pool.
        verifying: Seconds to open the bundle for the first time.
        opening: Seconds to open it again, in another process.
        selecting: Seconds to select a tenth of the pool.
        megabytes: Peak of the resident memory of opening and selecting, 10^6 bytes.
    """

    selector: str
    rows: int
    verifying: float
    opening: float
    selecting: float
    megabytes: float


def costs(
    counts: Sequence[int] = COUNTS, selectors: Sequence[str] = SELECTORS
) -> Iterator[Cost]:
    """Measure selectors on bundles of several sizes.

    Args:
        counts: Sizes of the pools; a million samples take 1.1 GB of disk meanwhile.
        selectors: Names of baselines, or `"navigator"` for an untrained one.
    """
    for rows in counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_random_bundle(folder / "bundle", rows)
            write_untrained_navigator(folder / NAVIGATOR)
            verifying = _measured(folder, "random")["opening"]
            for selector in selectors:
                measured = _measured(folder, selector)
                yield Cost(selector, rows, verifying, **measured)


def write_random_bundle(folder: Path, rows: int, k: int = K, seed: int = 0) -> None:
    """Write a bundle of random initial sketches, shard by shard.

    Args:
        folder: Folder of the bundle.
        rows: Samples of the pool.
        k: Dimensions of a sketch.
        seed: Seed of the sketches.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    held_out = {
        role: rng.standard_normal((_HELD_OUT, k), np.float32) for role in MEASURED
    }
    of = np.arange(_HELD_OUT) % len(_CAPABILITIES)
    anchors = [held_out["anchor"][of == n].mean(axis=0) for n in range(of.max() + 1)]
    means = np.stack([held_out["dev"].mean(axis=0), *anchors])
    files = {}

    def write(name: str, tensors: dict[str, NDArray[np.generic]]) -> None:
        content = save(tensors)
        (folder / name).write_bytes(content)
        files[name] = {"sha256": hashlib.sha256(content).hexdigest()}

    for role, sketches in held_out.items():
        capabilities = of if role == "anchor" else np.full(_HELD_OUT, -1)
        shard = _shard(rng, sketches, capabilities, means)
        write(f"{role}-00000.safetensors", shard)
    for number, first in enumerate(range(0, rows, _SHARD_ROWS)):
        count = min(_SHARD_ROWS, rows - first)
        sketches = rng.standard_normal((count, k), np.float32)
        shard = _shard(rng, sketches, np.full(count, -1), means)
        write(f"pool-{number:05d}.safetensors", shard)
    basis = np.linalg.qr(rng.standard_normal((k, DIRECTIONS)))[0] * np.sqrt(k)
    scales = np.array([[np.log(k) / 2, 2, 4], [0.1, 0.6, 0.6]], np.float32)
    write(BASIS, {"basis": basis.astype(np.float32), "scales": scales})
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": SPACE,
        "space": SPACE,
        "projection": {"k": k},
        "proxy": {"id": SPACE},
        "checkpoints": [],
        "sources": _SOURCES,
        "capabilities": _CAPABILITIES,
        "roles": {"pool": rows, **dict.fromkeys(MEASURED, _HELD_OUT)},
        "files": files,
        "domain_norm": float(np.linalg.norm(means[0])),
        "anchor_norms": np.linalg.norm(means[1:], axis=1).tolist(),
        "learner": _LEARNER,
    }
    save_manifest(folder, manifest)


def write_untrained_navigator(folder: Path, directions: int = DIRECTIONS) -> None:
    """Write a Navigator for bundles of `write_random_bundle`.

    Args:
        folder: Folder of the agent.
        directions: Columns of the bundles' basis.
    """
    from ogs_env.agents.navigator import Navigator, build_network

    row, context = directions + 7, 3 * directions + 8
    network = build_network(row, context, _WIDTH, skips=True)
    environment = {"slate_size": _SLATE_SIZE, "num_slates": _NUM_SLATES}
    Navigator(network, {"space": SPACE, "environment": environment}).save(folder)


def _shard(
    rng: np.random.Generator,
    sketches: NDArray[np.float32],
    capabilities: NDArray[np.integer],
    means: NDArray[np.float32],
) -> dict[str, NDArray[np.generic]]:
    """Return the columns of a shard; `means` are those of domain and capabilities."""
    count = len(sketches)
    dots = sketches @ means.T
    return {
        "ids": rng.integers(2**64, size=count, dtype=np.uint64),
        "norms": np.linalg.norm(sketches, axis=1),
        "losses": rng.gamma(4, 0.5, count).astype(np.float32),
        "tokens": rng.integers(1, 200, count, dtype=np.int32),
        "sources": rng.integers(len(_SOURCES), size=count, dtype=np.int32),
        "capabilities": capabilities.astype(np.int32),
        "domain_dots": dots[:, 0].copy(),
        "anchor_dots": dots[:, 1:].copy(),
        "initial": sketches.astype(np.float16),
    }


def _measured(folder: Path, selector: str) -> dict[str, float]:
    """Run `_measure` in a fresh process."""
    where = str(folder / NAVIGATOR) if selector == NAVIGATOR else selector
    return json.loads(
        subprocess.run(
            [sys.executable, "-m", __name__, str(folder / "bundle"), where],
            env={
                **os.environ,
                # What is remembered of the bundle is removed with it.
                "OGS_CACHE": str(folder / "cache"),
                # A thread that waits for others takes processor time, too.
                "OMP_NUM_THREADS": "1",
            },
            check=True,
            stdout=subprocess.PIPE,
        ).stdout
    )


def _measure(bundle_folder: str, name_or_folder: str) -> dict[str, float]:
    """Return the figures of `Cost` that this process measures itself."""
    from ogs_env.agents.deployment import load_selector

    selector = load_selector(name_or_folder)
    begin = time.process_time()
    bundle = load_bundle(bundle_folder)
    opened = time.process_time()
    budget = round(SHARE * len(bundle.pool))
    selector.select(bundle, budget, np.random.default_rng(0))
    selected = time.process_time()
    return {
        "opening": opened - begin,
        "selecting": selected - opened,
        "megabytes": _peak_memory() / 1e6,
    }


def _peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Unlike the system call's figure, without that of the parent process.
        line = next(line for line in status.open() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":  # in a process of `_measured`
    print(json.dumps(_measure(*sys.argv[1:])))
