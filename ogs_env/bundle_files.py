"""The files of a bundle: their names, formats and checks.

`ogs_env.bundle` has the bundle that is read from them.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.errors import InputError
from ogs_env.files import json_text, read_versioned, sha256_of, write_text
from ogs_env.rows import COLUMNS, Rows, Shard
from ogs_env.tensor_files import TensorFile

FORMAT = "ogs-bundle"
FORMAT_VERSION = 6
MEASURED = ("dev", "test", "anchor", "retention")
"""Roles whose products with the pool are in `products`, in the order of the columns."""
ANSWERS = ("anchor_answers", "retention_answers")
"""Further roles of a bundle with the proxy's own answers, to the prompts of anchor and
retention; the columns of the pool's `answer_products` are in this order."""
ROLES = ("pool", *MEASURED)
"""Roles of every bundle."""
ANSWER_COLUMNS = ("answer_products", "answer_units")
"""Columns of the pool in separate files `answers-pool-00000.safetensors`."""
MANIFEST = "manifest.json"
MANIFEST_HASH = "manifest.sha256"
"""The manifest's sha256; bundles of before have none."""
BASIS = "basis.safetensors"
ANSWER_TOKENS = "answers.safetensors"
ANSWER_KINDS = ("own", "both")
SHIPPED = Path(__file__).parent / "bundles"

_FILE = re.compile(r"[\w-]+\.safetensors", re.ASCII)
# Keys of every manifest.
_KEYS = (
    "name",
    "space",
    "projection",
    "proxy",
    "checkpoints",
    "sources",
    "capabilities",
    "roles",
    "files",
    "domain_norm",
    "anchor_norms",
    "learner",
)


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check the manifest of a bundle's folder.

    Raises:
        InputError: If it is missing, damaged, incomplete or of another format.
    """
    file = path / MANIFEST
    remedy = "rebuild the bundle with `ogs sketch`"
    if SHIPPED in path.parents:
        remedy = "install ogs-env again"
    manifest = read_versioned(
        file, "manifest of an ogs_env bundle", FORMAT, FORMAT_VERSION, _KEYS, remedy
    )
    written = path / MANIFEST_HASH
    if written.is_file() and written.read_bytes() != f"{sha256_of(file)}\n".encode():
        raise InputError(
            f"{file}: its bytes are not those of its sha256 in {MANIFEST_HASH}; copy "
            f"both files again, or {remedy}"
        )
    if wrong := _wrong_entry(manifest):
        raise InputError(f"{file}: '{wrong}' is damaged; {remedy}")
    answers = manifest.get("answers")
    kind = answers.get("kind") if isinstance(answers, dict) else answers
    if answers is not None and kind not in ANSWER_KINDS:
        raise InputError(
            f"{file}: 'answers' are of kind {kind!r}; expected "
            f"{' or '.join(ANSWER_KINDS)}; rebuild the bundle"
        )
    steps = [entry.get("step") for entry in manifest["checkpoints"]]
    if answers is not None and steps and steps[0] != 0:
        raise InputError(
            f"{file}: has own answers, and checkpoints at {steps}; expected the first "
            "at 0, the untouched model, where own answers are sketched; rebuild the "
            "bundle"
        )
    return manifest


def file_names(path: Path) -> list[str]:
    """Return the names of a bundle's files besides the manifest and its sha256.

    Raises:
        InputError: If the manifest is damaged, or lists a file that is none of a
            bundle.
    """
    names = list(dict.fromkeys([*read_manifest(path)["files"], BASIS]))
    for name in names:
        if not _FILE.fullmatch(name):
            raise InputError(
                f"{path / MANIFEST}: lists {name!r}, which is no file of a bundle; "
                "rebuild the bundle with `ogs sketch`"
            )
    return names


def save_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of a bundle's folder, and its sha256."""
    text = json_text(manifest)
    # Last the manifest: a folder without one is no bundle.
    write_text(path / MANIFEST_HASH, f"{hashlib.sha256(text.encode()).hexdigest()}\n")
    write_text(path / MANIFEST, text)


def _wrong_entry(manifest: Mapping[str, Any]) -> str:
    """Return the first entry that is of another type than it should be, or nothing."""
    proxy, projection = manifest["proxy"], manifest["projection"]
    right = {
        "name": isinstance(manifest["name"], str),
        "space": isinstance(manifest["space"], str),
        "projection": isinstance(projection, dict) and _is_count(projection.get("k")),
        "proxy": isinstance(proxy, dict),
        "checkpoints": _are_objects(
            manifest["checkpoints"], step=_is_count, weight=_is_positive
        ),
        "sources": _are_objects(manifest["sources"], name=_is_text),
        "capabilities": isinstance(manifest["capabilities"], list)
        and all(map(_is_text, manifest["capabilities"])),
        "roles": isinstance(manifest["roles"], dict)
        and all(map(_is_count, manifest["roles"].values())),
        "files": isinstance(manifest["files"], dict)
        and _are_objects([*manifest["files"].values()], sha256=_is_text),
        "domain_norm": _is_positive(manifest["domain_norm"]),
        "anchor_norms": isinstance(manifest["anchor_norms"], list)
        and all(map(_is_positive, manifest["anchor_norms"])),
        "learner": isinstance(manifest["learner"], dict),
    }
    return next((name for name, is_right in right.items() if not is_right), "")


def _are_objects(values: Any, **checks: Callable[[Any], bool]) -> bool:
    """Return whether values are a list of objects with entries that pass checks."""
    return isinstance(values, list) and all(
        isinstance(value, dict)
        and all(check(value.get(name)) for name, check in checks.items())
        for value in values
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_positive(value: Any) -> bool:
    """Return whether a value is a finite number above 0 that fits float32."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value <= float(np.finfo(np.float32).max)


def check_hashes(
    path: Path, manifest: Mapping[str, Any], verified: Collection[str]
) -> None:
    """Check that the files of a bundle are those that its manifest lists.

    Args:
        path: The bundle's folder.
        manifest: Its manifest.
        verified: Names of files that need no check.

    Raises:
        InputError: If a file is missing or its sha256 differs.
    """
    for name, entry in manifest["files"].items():
        if name in verified:
            continue
        file = path / name
        if not file.is_file():
            raise InputError(
                f"{file}: is missing from the bundle; run the same `ogs sketch` "
                "command again, or copy the whole folder"
            )
        if sha256_of(file) != entry["sha256"]:
            raise InputError(
                f"{file}: its bytes are not those the manifest lists (sha256 "
                "differs); copy the file again or rebuild the bundle"
            )


def shard_order(name: str) -> tuple[int, str]:
    """Return what shards are sorted by: numbers have five digits or more."""
    return len(name), name


def open_shards(
    path: Path, manifest: Mapping[str, Any], role: str, verified: Collection[str]
) -> list[Shard]:
    """Open the shards of a role and check their tensors.

    Args:
        path: The bundle's folder.
        manifest: Its manifest.
        role: The role.
        verified: Names of files whose values need no check.

    Raises:
        InputError: If a tensor is missing, has another shape than the manifest implies
            or holds a NaN or infinity, or the number of rows differs.
    """
    names = [name for name in manifest["files"] if name.startswith(f"{role}-")]
    files = sorted(names, key=shard_order)
    shards = [_shard(path / name) for name in files]
    if _has_answer_files(manifest, role):
        for name, shard in zip(files, shards, strict=True):
            answers = _shard(path / f"answers-{name}")
            shard.update(answers)
    for name, shard in zip(files, shards, strict=True):
        _check_shard(manifest, role, path / name, shard, verified)
    rows = sum(shard["ids"].shapes["ids"][0] for shard in shards)
    if rows == 0 or rows != manifest["roles"].get(role):
        raise InputError(
            f"{path}: role '{role}' has {rows} rows, the manifest says "
            f"{manifest['roles'].get(role)}; rebuild the bundle"
        )
    return shards


def read_basis(path: Path, k: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Read `Bundle.basis` and `Bundle.scales` of a bundle's folder.

    Raises:
        InputError: If one is missing or has another shape.
    """
    file = path / BASIS
    tensors = _tensors(file)
    basis, scales = tensors.get("basis"), tensors.get("scales")
    for name, values in tensors.items():
        if not np.isfinite(values).all():
            raise InputError(
                f"{file}: tensor '{name}' holds a NaN or infinity; build the bundle "
                "again with `ogs sketch`"
            )
    if basis is None or basis.shape[0] != k:
        raise InputError(
            f"{file}: expected a tensor 'basis' of {k} rows, as the manifest's k; "
            "build the bundle again with `ogs sketch`"
        )
    if scales is None or scales.shape != (2, 3) or not (scales[1] > 0).all():
        raise InputError(
            f"{file}: expected a tensor 'scales' of shape (2, 3), its second row above "
            "0; build the bundle again with `ogs sketch`"
        )
    return np.asarray(basis, np.float32), np.asarray(scales, np.float32)


def check_answers(path: Path, role: str, rows: Rows, prompts: Rows) -> None:
    """Check that own answers have their tokens, and prompts that are in the bundle.

    Args:
        path: The bundle's folder.
        role: `"anchor_answers"` or `"retention_answers"`.
        rows: The answers.
        prompts: The samples whose prompts they answer.

    Raises:
        InputError: If tokens or a prompt are missing.
    """
    file = path / ANSWER_TOKENS
    tokens = _tensors(file).get(role)
    counts = np.empty(0)
    if tokens is not None and tokens.dtype == np.int32 and tokens.ndim == 2:
        counts = np.sum(tokens >= 0, axis=1)
    if not np.array_equal(counts, rows.tokens):
        raise InputError(
            f"{file}: tensor '{role}' should be int32 ({len(rows)}, longest), the "
            "token ids of each answer and then -1, as many as the shards' 'tokens' "
            "say; rebuild the bundle"
        )
    unknown = rows.ids[~np.isin(rows.ids, prompts.ids)]
    prompt_role = role.removesuffix("_answers")
    if len(unknown):
        raise InputError(
            f"{path}: {role} has {len(unknown)} samples that answer none of "
            f"the {prompt_role} samples (the first is {int(unknown[0]):016x}); rebuild "
            "the bundle"
        )


def _has_answer_files(manifest: Mapping[str, Any], role: str) -> bool:
    """Whether `ANSWER_COLUMNS` are in files of their own."""
    return bool(role == "pool" and manifest["checkpoints"] and manifest.get("answers"))


def _shapes(
    manifest: Mapping[str, Any], role: str, rows: int
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a shard's tensors."""
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(COLUMNS, (rows,))
    k, checkpoints = manifest["projection"]["k"], manifest["checkpoints"]
    shapes["anchor_dots"] = (rows, len(manifest["capabilities"]))
    shapes["initial"] = (rows, k)
    if not checkpoints or role in ANSWERS:
        return shapes
    counts = manifest["roles"]
    shapes["trajectory"] = (rows, len(checkpoints) * k)
    if role == "pool":
        measured = sum(counts[name] for name in MEASURED)
        shapes["products"] = (rows, len(checkpoints) * measured)
        shapes["product_units"] = (rows, len(checkpoints))
    if _has_answer_files(manifest, role):
        answers = sum(counts[name] for name in ANSWERS)
        shapes["answer_products"] = (rows, answers)
        shapes["answer_units"] = (rows,)
    return shapes


def _check_shard(
    manifest: Mapping[str, Any],
    role: str,
    file: Path,
    shard: Shard,
    verified: Collection[str],
) -> None:
    """Check a shard's shapes and, of files that are not verified, its values."""
    found = {name: of.shapes[name] for name, of in shard.items()}
    rows = next(iter(found.get("ids", ())), 0)
    shapes = _shapes(manifest, role, rows)
    if "places" in shard:  # where repeats were dropped
        shapes["places"] = (rows,)
    for name, shape in shapes.items():
        is_beside = name in ANSWER_COLUMNS
        path = file.with_name(f"answers-{file.name}") if is_beside else file
        if found.get(name) != shape:
            raise InputError(
                f"{path}: tensor '{name}' should have shape {shape}, found "
                f"{found.get(name, 'nothing')}; the manifest's k is "
                f"{manifest['projection']['k']}; rebuild the bundle"
            )
        if path.name not in verified and shard[name].dtypes[name].kind == "f":
            finite = np.isfinite(shard[name].read(name))
            if not finite.all():
                row = int(np.argwhere(~finite)[0][0])
                raise InputError(
                    f"{path}: tensor '{name}' holds a NaN or infinity in row {row} "
                    f"(sample {int(shard['ids'].read('ids')[row]):016x}); rebuild the "
                    "bundle"
                )
    if file.name not in verified:
        _check_numbers(manifest, file, shard)


def _check_numbers(manifest: Mapping[str, Any], file: Path, shard: Shard) -> None:
    """Check the numbers of sources and capabilities."""
    for name in ("sources", "capabilities"):
        numbers, names = shard[name].read(name), manifest[name]
        if len(numbers) and numbers.max() >= len(names):
            raise InputError(
                f"{file}: tensor '{name}' names number {numbers.max()}, the "
                f"manifest lists {len(names)} {name}; rebuild the bundle"
            )


def _shard(path: Path) -> Shard:
    file = TensorFile(path)
    return dict.fromkeys(file.shapes, file)


def _tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Read all tensors of a small file."""
    file = TensorFile(path)
    return file.read_all(file.shapes)
