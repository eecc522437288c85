"""Build a bundle: sketch every sample of a domain, resumably."""

import contextlib
import dataclasses
import hashlib
import json
import math
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file

from ogs_env.bundle import Bundle, load_bundle
from ogs_env.bundle_files import ANSWER_TOKENS, ANSWERS, MANIFEST
from ogs_env.data.domains import DomainData
from ogs_env.data.samples import Sample, check_disjoint
from ogs_env.errors import InputError, unknown_name
from ogs_env.files import LOCK, exclusive, read_json, read_object, write_json
from ogs_env.lm.adapter import Proxy, attach_adapter
from ogs_env.lm.chat import TEMPLATE_DATE, reads_clock
from ogs_env.lm.encoding import encode
from ogs_env.lm.gradients import b_gradients
from ogs_env.lm.loading import check_length, content_hash, load_model
from ogs_env.lm.precision import default_precision
from ogs_env.sketching.answers import encode_answer, own_answers, padded
from ogs_env.sketching.batch_sketches import (
    MeanGradients,
    Row,
    batches,
    mean_gradients,
)
from ogs_env.sketching.manifest import write_manifest
from ogs_env.sketching.projection import CountSketch
from ogs_env.sketching.settings import ANCHOR_ANSWERS, SketchSettings
from ogs_env.sketching.shards import (
    ShardSketcher,
    Sketching,
    save_tensors,
    write_missing,
)
from ogs_env.sketching.warmup import (
    Checkpoint,
    warm_up,
    warm_up_picks,
    warm_up_steps,
)

if TYPE_CHECKING:
    from ogs_env.sketching.cluster import Cluster

_BUILD = "build"  # files that resuming an unfinished bundle needs; removed at the end
_NOTE = "request.json"
_ROLES_WITH_CAPABILITY = ("anchor", "retention")


def sketch(
    data: DomainData,
    folder: Path,
    settings: SketchSettings,
    command: str = "",
    cluster: "Cluster | None" = None,
) -> Bundle:
    """Sketch a domain's samples into a bundle.

    A run that was stopped resumes after the last complete shard when it is called
    again with the same samples and settings, and ends with the same bytes.

    Args:
        data: The samples by role.
        folder: The bundle's folder.
        settings: The settings.
        command: The command that builds this bundle, for the manifest.
        cluster: Workers that sketch the shards; without them this process does.

    Raises:
        InputError: If a role is empty, a sample is in two roles, a setting is out of
            range, or the folder holds something else, or another process writes to it.
    """
    check(data, settings)
    request = _request(data, settings)
    # Of a complete bundle nothing is written, so that its folder can be read-only.
    if (folder / MANIFEST).exists() and not (folder / _BUILD).exists():
        return _complete(folder, request)
    with exclusive(folder):
        return _sketch(data, folder, settings, command, request, cluster)


def _complete(folder: Path, request: dict[str, Any]) -> Bundle:
    """Return the bundle of a folder, or refuse one of another request."""
    if read_object(folder / MANIFEST, "bundle manifest").get("request") != request:
        raise InputError(
            f"{folder}: holds a bundle of other samples or settings; choose another "
            "--out or delete it"
        )
    print(f"{folder}: is complete already", file=sys.stderr)
    return load_bundle(folder)


def _sketch(
    data: DomainData,
    folder: Path,
    settings: SketchSettings,
    command: str,
    request: dict[str, Any],
    cluster: "Cluster | None",
) -> Bundle:
    if (folder / MANIFEST).exists():
        bundle = _complete(folder, request)
        # A run killed after its last file may leave this folder.
        shutil.rmtree(folder / _BUILD, ignore_errors=True)
        return bundle
    _check_folder(folder, request)
    proxy, identity = load_proxy(settings)
    rows = _encode(data, settings, proxy)
    _open_build(folder, request)
    build = folder / _BUILD
    if settings.anchor_answers != "reference":
        rows |= _answers(data, rows, settings, proxy, folder)
    _print_estimate(proxy, rows, settings, cluster.workers() if cluster else 1)
    means = _means(proxy, rows, len(data.capabilities), build / "means.safetensors")
    checkpoints = []
    if settings.checkpoints:
        picks = _warm_up_rows(data, settings)
        checkpoints = _checkpoints(proxy, rows, picks, settings, build)
    sketching: contextlib.AbstractContextManager[Sketching]
    if cluster is None:
        projection = CountSketch(settings.k, settings.seed)
        sketching = contextlib.nullcontext(
            ShardSketcher(proxy, means, checkpoints, projection)
        )
    else:
        sketching = cluster.sketching(proxy, identity, settings, means, checkpoints)
    with sketching as run:
        write_missing(run, rows, bool(checkpoints), folder, build)
    write_manifest(
        folder,
        settings,
        checkpoints,
        means.norms().tolist(),
        {
            "name": data.name,
            "command": command,
            "proxy": identity,
            "sources": data.sources,
            "capabilities": data.capabilities,
            "cut": {role: sum(row.encoded.cut for row in rows[role]) for role in rows},
            "request": request,
        },
    )
    shutil.rmtree(build)
    return load_bundle(folder)


def check(data: DomainData, settings: SketchSettings) -> None:
    """Check samples and settings, as `sketch` does before it loads a model.

    Raises:
        InputError: As for `sketch`, except that the folder is not checked.
    """
    by_role = _samples_by_role(data)
    for role, samples in by_role.items():
        if not samples:
            raise InputError(f"{role}: is empty; expected at least one sample")
    check_disjoint(by_role)
    for name in ("k", "layers", "rank", "epochs", "learning_rate"):
        if not 0 < getattr(settings, name) < math.inf:
            raise InputError(
                f"{name}: is {getattr(settings, name)}; expected a number above 0"
            )
    if settings.max_tokens < 16:
        raise InputError(f"max-tokens: is {settings.max_tokens}; expected 16 or more")
    if settings.anchor_answers not in ANCHOR_ANSWERS:
        raise unknown_name("anchor answers", settings.anchor_answers, ANCHOR_ANSWERS)
    steps = settings.checkpoints
    if list(steps) != sorted(set(steps)) or min(steps, default=0) < 0:
        raise InputError(
            f"checkpoints: are {list(steps)}; expected ascending steps from 0 on"
        )
    if steps:
        _warm_up_rows(data, settings)
        if steps[0] and settings.anchor_answers != "reference":
            raise InputError(
                f"checkpoints: are {list(steps)}; own answers need the untouched model "
                "among them; include 0 in --checkpoints or use --anchor-answers "
                "reference"
            )


def _warm_up_rows(data: DomainData, settings: SketchSettings) -> np.ndarray:
    """Return the pool rows that the warm-up trains on."""
    steps = warm_up_steps(settings.checkpoints)
    return warm_up_picks(len(data.pool), steps, settings.seed)


def _samples_by_role(data: DomainData) -> dict[str, list[Sample]]:
    groups: dict[str, list[Sample]] = {
        "pool": data.pool,
        "dev": data.dev,
        "test": data.test,
    }
    for role in _ROLES_WITH_CAPABILITY:
        parts = getattr(data, role)
        groups[role] = [s for name in data.capabilities for s in parts[name]]
    return groups


def _request(data: DomainData, settings: SketchSettings) -> dict[str, Any]:
    """Return samples and settings as JSON; equal requests give equal bundles."""
    ids = {
        role: hashlib.sha256("".join(s.id for s in samples).encode()).hexdigest()
        for role, samples in _samples_by_role(data).items()
    }
    request = {"name": data.name, **dataclasses.asdict(settings), "ids": ids}
    if data.places:
        places = ",".join(map(str, data.places))
        request["places"] = hashlib.sha256(places.encode()).hexdigest()
    if settings.precision == "auto":
        request["precision"] = default_precision()
    return json.loads(json.dumps(request))


def _check_folder(folder: Path, request: dict[str, Any]) -> None:
    """Check that a folder is empty or holds this bundle, unfinished."""
    note = folder / _BUILD / _NOTE
    if note.exists():
        if read_json(note, "note of an unfinished bundle") != request:
            raise InputError(
                f"{folder}: holds an unfinished bundle of other samples or settings; "
                "choose another --out or delete it"
            )
    # A run killed before it writes its note leaves an empty build folder.
    elif any(path.name not in (_BUILD, LOCK) for path in folder.iterdir()):
        raise InputError(
            f"{folder}: holds files that are no bundle; choose another --out"
        )


def _open_build(folder: Path, request: dict[str, Any]) -> None:
    """Write the note of an unfinished bundle, or resume one."""
    note = folder / _BUILD / _NOTE
    if not note.exists():
        write_json(note, request)
        return
    print(f"{folder}: resuming an unfinished bundle", file=sys.stderr)


def load_proxy(settings: SketchSettings) -> tuple[Proxy, dict[str, Any]]:
    """Load the proxy with a fresh adapter; also return the manifest's entry of it."""
    precision = settings.precision
    if precision == "auto":
        precision = default_precision()
    model, tokenizer = load_model(settings.proxy, getattr(torch, precision))
    check_length(model, settings.max_tokens)
    identity = {
        "id": settings.proxy,
        "sha256": content_hash(settings.proxy, model),
        "precision": precision,
    }
    if reads_clock(tokenizer):
        identity["template_date"] = f"{TEMPLATE_DATE:%Y-%m-%d}"
    proxy = attach_adapter(
        model,
        tokenizer,
        rank=settings.rank,
        alpha=2 * settings.rank,
        layers=settings.layers,
        seed=settings.seed,
    )
    return proxy, identity


def _encode(
    data: DomainData, settings: SketchSettings, proxy: Proxy
) -> dict[str, list[Row]]:
    sources = {source["name"]: number for number, source in enumerate(data.sources)}
    rows: dict[str, list[Row]] = {}
    for role, samples in _samples_by_role(data).items():
        capabilities = [-1] * len(samples)
        if role in _ROLES_WITH_CAPABILITY:
            parts = getattr(data, role)
            counts = [len(parts[name]) for name in data.capabilities]
            capabilities = np.repeat(np.arange(len(counts)), counts).tolist()
        places: list[int | None] = [*data.places] if role == "pool" else []
        rows[role] = [
            Row(
                sample,
                encode(
                    proxy.tokenizer, sample.turns, sample.response, settings.max_tokens
                ),
                sources[sample.source],
                capability,
                place,
            )
            for sample, capability, place in zip(
                samples, capabilities, places or [None] * len(samples), strict=True
            )
        ]
    return rows


def _answers(
    data: DomainData,
    rows: dict[str, list[Row]],
    settings: SketchSettings,
    proxy: Proxy,
    folder: Path,
) -> dict[str, list[Row]]:
    """Sample the proxy's own answers, save their tokens and return them as rows."""
    answer_rows: dict[str, list[Row]] = {}
    tokens: dict[str, torch.Tensor] = {}
    for role in _ROLES_WITH_CAPABILITY:
        samples = _samples_by_role(data)[role]
        answers = own_answers(
            proxy.model.get_base_model(),
            proxy.tokenizer,
            samples,
            folder / _BUILD,
            role,
            seed=settings.seed,
            max_tokens=settings.max_tokens,
        )
        answer_rows[f"{role}_answers"] = [
            dataclasses.replace(
                row,
                encoded=encode_answer(
                    proxy.tokenizer, sample.turns, answer, settings.max_tokens
                ),
            )
            for row, sample, answer in zip(rows[role], samples, answers, strict=True)
        ]
        tokens[f"{role}_answers"] = padded(answers)
    save_tensors(folder / ANSWER_TOKENS, tokens)
    return answer_rows


def _print_estimate(
    proxy: Proxy, rows: dict[str, list[Row]], settings: SketchSettings, workers: int
) -> None:
    """Print the expected duration, measured on one batch of medium length.

    Args:
        proxy: The proxy with a fresh adapter.
        rows: Samples by role.
        settings: The settings.
        workers: How many processes, as fast as this one, share the work.
    """
    every = [row for of_role in rows.values() for row in of_role]
    parts = batches(every)
    # The first pass of a process is slow.
    for part in parts[0][:1], parts[len(parts) // 2]:
        batch = proxy.batch([every[row].encoded for row in part])
        begin = time.perf_counter()
        b_gradients(proxy, batch, lambda name, values: None)
    rate = batch["input_ids"].numel() / (time.perf_counter() - begin)
    tokens = {
        role: sum(len(row.encoded.tokens) for row in of_role)
        for role, of_role in rows.items()
    }
    # Passes at later checkpoints skip the trunk, but compute A's gradients as well.
    later = sum(step > 0 for step in settings.checkpoints)
    passes = 1 + later
    work = sum(n * (1 if r in ANSWERS else passes) for r, n in tokens.items())
    work += tokens["dev"] + tokens["anchor"]
    minutes = work / rate / 60 / workers
    by = f" with {workers} workers as fast as this machine" if workers > 1 else ""
    print(
        f"{len(every):,} samples, {sum(tokens.values()):,} tokens, {passes} pass"
        f"{'es' if passes > 1 else ''}: about {minutes:.1f} min{by} "
        f"({rate:,.0f} tokens/s on one batch)",
        file=sys.stderr,
    )


def _means(
    proxy: Proxy, rows: dict[str, list[Row]], capabilities: int, file: Path
) -> MeanGradients:
    """Compute the mean gradients and save them to `file`, or read that if it exists."""
    if file.exists():
        return MeanGradients(load_file(file, device=str(proxy.device)))
    means = mean_gradients(proxy, rows, capabilities)
    save_tensors(file, means.stacked)
    return means


def _checkpoints(
    proxy: Proxy,
    rows: dict[str, list[Row]],
    picks: np.ndarray,
    settings: SketchSettings,
    build: Path,
) -> list[Checkpoint]:
    """Train the warm-up on pool rows, or read the checkpoints if they are saved."""
    file = build / "warm-up.safetensors"
    if not file.exists():
        samples = [rows["pool"][row].encoded for row in picks]
        checkpoints = warm_up(
            proxy, samples, settings.checkpoints, settings.learning_rate
        )
        tensors = {
            # Early checkpoints share their scales, which safetensors does not allow.
            f"{checkpoint.step}/{kind}/{name}": tensor.clone()
            for checkpoint in checkpoints
            for kind in ("state", "scales")
            for name, tensor in getattr(checkpoint, kind).items()
        }
        save_tensors(file, tensors)
    saved: dict[tuple[int, str], dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(file, device=str(proxy.device)).items():
        step, kind, name = key.split("/")
        saved.setdefault((int(step), kind), {})[name] = tensor
    return [
        Checkpoint(step, saved[step, "state"], saved[step, "scales"])
        for step in settings.checkpoints
    ]
