"""A small bundle with structure, drawn from explicit randomness.

Every sample is a mixture of a few hidden abilities plus noise; a source, the domain
and each capability have their own mean mixture. Gradients of an ability point in one
direction at the start and in others at each checkpoint, where the shared "format"
ability has been learned: initial gradients predict later ones, but not by cosines.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ogs_env.bundle_files import (
    ANSWER_COLUMNS,
    ANSWERS,
    FORMAT_VERSION,
    MEASURED,
    ROLES,
    save_manifest,
)
from ogs_env.files import sha256_of

ABILITIES = 10
SOURCES = ("alpha", "beta", "gamma", "delta", "epsilon")
CAPABILITIES = ("maths", "knowledge")


def make_bundle(
    folder: Path,
    *,
    pool: int = 480,
    k: int = 64,
    d: int = 8,
    checkpoints: int = 2,
    held_out: int = 40,
    shards: int = 1,
    seed: int = 0,
    answers: bool = True,
) -> Path:
    """Write a valid bundle; each role but the pool has `held_out` samples.

    With `answers`, two of three anchor and retention samples have an answer of the
    proxy's own, sketched at the start alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    maps = _gradient_maps(rng, k, checkpoints)
    means = {name: _mixture(rng) for name in (*SOURCES, "domain", *CAPABILITIES)}
    # Two sources teach the domain, one harms the first capability later on.
    means["alpha"] += 1.5 * means["domain"]
    means["beta"] += means["domain"]
    means["gamma"] -= means["maths"]

    roles = {role: _role(rng, role, pool, held_out, means, maps) for role in ROLES}
    if answers:
        # A separate generator: all else is the same without answers.
        own = np.random.default_rng([seed, 2])
        for role in ANSWERS:
            roles[role] = _answers(own, role, roles, means, maps)
    domain = roles["dev"]["initial"].astype(np.float32).mean(0)
    of = roles["anchor"]["capabilities"]
    anchors = np.stack(
        [
            roles["anchor"]["initial"][of == n].astype(np.float32).mean(0)
            for n in range(len(CAPABILITIES))
        ]
    )
    further: dict[str, np.ndarray] = {}
    if checkpoints:
        products = _products(roles, MEASURED, checkpoints)
        roles["pool"]["products"] = products.reshape(pool, -1)
        units = np.full((pool, checkpoints), 1, np.float32)
        roles["pool"]["product_units"] = units
    if checkpoints and answers:
        products = _products(roles, ANSWERS, checkpoints)
        columns = np.ascontiguousarray(products[:, 0]), units[:, 0].copy()
        further = dict(zip(ANSWER_COLUMNS, columns, strict=True))
        for role in ANSWERS:
            del roles[role]["trajectory"]
    files = {}
    for role, columns in roles.items():
        start = columns["initial"].astype(np.float32)
        columns["domain_dots"] = start @ domain
        columns["anchor_dots"] = np.ascontiguousarray(start @ anchors.T)
        parts = np.array_split(np.arange(len(start)), shards if role == "pool" else 1)
        for number, part in enumerate(parts):
            name = f"{role}-{number:05d}.safetensors"
            save_file({n: c[part] for n, c in columns.items()}, folder / name)
            files[name] = {"sha256": sha256_of(folder / name), "rows": len(part)}
            if further and role == "pool":
                cut = {key: values[part] for key, values in further.items()}
                save_file(cut, folder / f"answers-{name}")
                files[f"answers-{name}"] = {
                    "sha256": sha256_of(folder / f"answers-{name}")
                }
    if answers:
        name = "answers.safetensors"
        save_file(
            {role: _tokens(roles[role]["tokens"]) for role in ANSWERS}, folder / name
        )
        files[name] = {"sha256": sha256_of(folder / name)}
    basis = _basis(roles["pool"]["initial"].astype(np.float32), d)
    scales = np.float32([[3.0, 2.0, 4.0], [0.5, 0.7, 0.9]])
    save_file({"basis": basis, "scales": scales}, folder / "basis.safetensors")
    files["basis.safetensors"] = {
        "sha256": sha256_of(folder / "basis.safetensors"),
        "rows": k,
    }
    response = {"slope": [0.05] * max(1, checkpoints), "share": 0.7}
    steps = [6 * number for number in range(checkpoints)]
    manifest = {
        "format": "ogs-bundle",
        "format_version": FORMAT_VERSION,
        "name": "made",
        "space": f"made-{k}",
        "projection": {"k": k},
        "proxy": {"id": "made"},
        "checkpoints": [{"step": step, "weight": 1.0} for step in steps],
        "answers": {"kind": "own", "max_tokens": 120} if answers else None,
        "sources": [{"name": name} for name in SOURCES],
        "capabilities": list(CAPABILITIES),
        "roles": {role: len(columns["ids"]) for role, columns in roles.items()},
        "files": files,
        "domain_norm": float(np.linalg.norm(domain)),
        "anchor_norms": np.linalg.norm(anchors, axis=1).tolist(),
        "learner": {
            "sketches": "trajectory" if steps else "initial",
            # Milder than the real ones: these gradients agree far more.
            "epochs": 1,
            **dict.fromkeys(("domain", "anchor"), response),
            "forgetting": {"curvature": 0.0006},
        },
    }
    save_manifest(folder, manifest)
    return folder


def edit_manifest(folder: Path, **changes: Any) -> None:
    """Change entries of a bundle's manifest; None takes an entry away."""
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text()) | changes
    save_manifest(folder, {n: v for n, v in manifest.items() if v is not None})


def _mixture(rng: np.random.Generator) -> np.ndarray:
    mean = rng.normal(size=ABILITIES)
    mean[0] = 0
    return mean / np.linalg.norm(mean)


def _gradient_maps(
    rng: np.random.Generator, k: int, checkpoints: int
) -> list[np.ndarray]:
    start = rng.normal(size=(ABILITIES, k)) / np.sqrt(k)
    maps = [start]
    for _ in range(checkpoints):
        strength = rng.uniform(0.3, 1.5, size=(ABILITIES, 1))
        strength[0] = 0.1
        maps.append(strength * rng.normal(size=(ABILITIES, k)) / np.sqrt(k))
    return maps


def _role(
    rng: np.random.Generator,
    role: str,
    pool: int,
    held_out: int,
    means: dict[str, np.ndarray],
    maps: list[np.ndarray],
) -> dict[str, np.ndarray]:
    n = pool if role == "pool" else held_out
    sources = np.sort(rng.integers(len(SOURCES), size=n)).astype(np.int32)
    capabilities = np.full(n, -1, np.int32)
    if role == "pool":
        mixtures = np.stack([means[SOURCES[s]] for s in sources])
    elif role in ("dev", "test"):
        mixtures = np.tile(means["domain"], (n, 1))
    else:
        capabilities = (np.arange(n) % len(CAPABILITIES)).astype(np.int32)
        mixtures = np.stack([means[CAPABILITIES[c]] for c in capabilities])
    mixtures = mixtures + 0.4 * rng.normal(size=mixtures.shape)
    mixtures[:, 0] = 2.0  # the format, which all samples teach at the start
    k = maps[0].shape[1]
    size = np.exp(rng.normal(2.5 + 0.3 * sources, 0.3))[:, None]
    sketches = []
    for ability_map in maps:
        noise = 0.3 * rng.normal(size=(n, k)) / np.sqrt(k)
        sketches.append((size * (mixtures @ ability_map + noise)).astype(np.float16))
    columns = {
        "ids": rng.integers(2**64, size=n, dtype=np.uint64),
        "norms": np.linalg.norm(sketches[0].astype(np.float32), axis=1),
        "losses": rng.uniform(1.0, 3.5, size=n).astype(np.float32),
        "tokens": rng.integers(1, 120, size=n).astype(np.int32),
        "sources": sources,
        "capabilities": capabilities,
        "initial": sketches[0],
    }
    if len(sketches) > 1:
        columns["trajectory"] = np.concatenate(sketches[1:], axis=1)
    return columns


def _answers(
    rng: np.random.Generator,
    role: str,
    roles: dict[str, Any],
    means: dict[str, np.ndarray],
    maps: list[np.ndarray],
) -> dict[str, np.ndarray]:
    """Own answers to the prompts of two of three anchor or retention samples."""
    reference = roles[role.removesuffix("_answers")]
    n = len(reference["ids"])
    columns = _role(rng, role, 0, n, means, maps)
    columns |= {name: reference[name] for name in ("ids", "sources", "capabilities")}
    return {name: column[np.arange(n) % 3 > 0] for name, column in columns.items()}


def _tokens(counts: np.ndarray) -> np.ndarray:
    """Token ids of answers of these lengths, then -1."""
    places = np.arange(counts.max())
    return np.where(places < counts[:, None], places % 50, -1).astype(np.int32)


def _products(
    roles: dict[str, Any], names: Sequence[str], checkpoints: int
) -> np.ndarray:
    """Products of the pool's trajectory sketches with roles' (n, checkpoints, m)."""

    def cut(role: str) -> np.ndarray:
        trajectory = roles[role]["trajectory"].astype(np.float32)
        return trajectory.reshape(len(trajectory), checkpoints, -1)

    measured = np.concatenate([cut(role) for role in names])
    products = np.einsum("ick,mck->icm", cut("pool"), measured)
    return products.astype(np.float16)


def _basis(start: np.ndarray, d: int) -> np.ndarray:
    units = start / np.linalg.norm(start, axis=1, keepdims=True)
    basis = np.linalg.svd(units, full_matrices=False)[2][:d].T
    scale = np.sqrt(np.square(units @ basis).mean(axis=0))
    return np.ascontiguousarray(basis / scale, np.float32)
