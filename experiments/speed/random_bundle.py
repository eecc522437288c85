"""Bundles of random sketches, of any size, and an untrained Navigator for them."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from ogs_env.bundle_files import (
    BASIS,
    FORMAT,
    FORMAT_VERSION,
    MEASURED,
    save_manifest,
)

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
