"""Bundles: the gradient sketches of a pool, its domain set and its anchor set.

A bundle is a folder with `manifest.json`, `basis.safetensors` and, for each role,
shards `ROLE-00000.safetensors`; with an off-domain trajectory also
`off_domain-ROLE-00000.safetensors`. It may also have own answers, which the untouched
proxy gives to the prompts of anchor and retention: two further roles, sketched only at
the untouched model, with their tokens in `answers.safetensors`. In a bundle with a
trajectory, the pool's products with them are in `answers-pool-00000.safetensors`.
Environments need a bundle only, not the texts that it was sketched from.
"""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.errors import InputError, unknown_name
from ogs_env.files import read_json, sha256_of
from ogs_env.rows import COLUMNS, Rows

FORMAT = "ogs-bundle"
FORMAT_VERSION = 6
MEASURED = ("dev", "test", "anchor", "retention")
"""Roles whose products with the pool are in `products`, in the order of the columns."""
ANSWERS = ("anchor_answers", "retention_answers")
"""Further roles of a bundle with the proxy's own answers, to the prompts of anchor and
retention; the columns of the pool's `answer_products` are in this order."""
ROLES = ("pool", *MEASURED)
"""Roles of every bundle."""
OFF_DOMAIN = ("anchor", "pool")
"""Roles that have sketches along the off-domain trajectory, if there is one."""
EXTRA_FILES = {
    "off_domain": ("off_domain",),
    "answers": ("answer_products", "answer_units"),
}
"""Columns in separate files `PREFIX-ROLE-00000.safetensors`, by prefix."""
MANIFEST = "manifest.json"
BASIS = "basis.safetensors"
ANSWER_TOKENS = "answers.safetensors"
ANSWER_KINDS = ("own", "both")
SHIPPED = Path(__file__).parent / "bundles"

_DTYPES: dict[str, Any] = {
    "F16": np.float16,
    "F32": np.float32,
    "I32": np.int32,
    "U64": np.uint64,
}
# One of four ids is in the test split, so that policies are tested on unseen samples.
_TEST_DIVISOR = 4


class Bundle:
    """A verified bundle; it is immutable, and copies are the same object.

    Attributes:
        path: The folder.
        manifest: The parsed manifest.
        pool, dev, test, anchor, retention: `Rows` of each role.
        anchor_answers, retention_answers: `Rows` of the untouched proxy's own answers;
            an answer has the id of the sample whose prompt it answers. Only if
            `has_answers`.
        basis: float32 (k, d), the observation basis Q of the sketch space.
        scales: float32 (2, 3), mean and deviation by which observations standardise
            the log of the gradient norm, the loss and the log of the tokens; like the
            basis, the same in all bundles of a shipped sketch space.
    """

    pool: Rows
    dev: Rows
    test: Rows
    anchor: Rows
    retention: Rows
    anchor_answers: Rows
    retention_answers: Rows

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = _read_manifest(path)
        self._check_files()
        # The pool comes last, because its products need the sizes of the other roles.
        for role in (*self.measured, "pool"):
            setattr(self, role, self._read_role(role))
        if self.has_answers:
            for role in ANSWERS:
                self._check_answers(role)
        tensors = _map_safetensors(path / BASIS)
        basis, scales = tensors.get("basis"), tensors.get("scales")
        if basis is None or basis.shape[0] != self.k:
            raise InputError(
                f"{path / BASIS}: expected a tensor 'basis' of {self.k} rows, as the "
                "manifest's k; build the bundle again with `ogs sketch`"
            )
        if scales is None or scales.shape != (2, 3) or not (scales[1] > 0).all():
            raise InputError(
                f"{path / BASIS}: expected a tensor 'scales' of shape (2, 3), its "
                "second row above 0; build the bundle again with `ogs sketch`"
            )
        self.basis = np.asarray(basis, np.float32)
        self.scales = np.asarray(scales, np.float32)

    # A bundle is read-only and may map large files, so copies are the same object and
    # another process loads it from its folder.
    def __reduce__(self) -> tuple[Any, ...]:
        return load_bundle, (str(self.path),)

    def __copy__(self) -> "Bundle":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Bundle":
        return self

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.manifest["name"]

    @property
    def k(self) -> int:
        """Dimensions of one sketch."""
        return self.manifest["projection"]["k"]

    @property
    def space(self) -> str:
        """Identity of the sketch space: proxy, adapter and projection together."""
        return self.manifest["space"]

    @property
    def sources(self) -> list[str]:
        """Names of the collections that the samples come from."""
        return [source["name"] for source in self.manifest["sources"]]

    @property
    def capabilities(self) -> list[str]:
        """Names of the anchor's capabilities."""
        return list(self.manifest["capabilities"])

    @property
    def has_trajectory(self) -> bool:
        """Whether it has sketches at the checkpoints of a warm-up."""
        return bool(self.manifest["checkpoints"])

    @property
    def has_off_domain(self) -> bool:
        """Whether anchor and pool also have sketches along an off-domain trajectory."""
        return bool(self.manifest.get("off_domain"))

    @property
    def has_answers(self) -> bool:
        """Whether it has the untouched proxy's own answers."""
        return bool(self.manifest.get("answers"))

    @property
    def measured(self) -> tuple[str, ...]:
        """Roles whose losses are measured: all but the pool."""
        return (*MEASURED, *ANSWERS) if self.has_answers else MEASURED

    def domain_cosines(self, indices: NDArray[np.integer]) -> NDArray[np.float32]:
        """Exact cosines (n,) of pool samples with the mean domain gradient."""
        rows = self.pool
        scale = rows.norms[indices] * self.manifest["domain_norm"]
        return rows.domain_dots[indices] / np.maximum(scale, 1e-12, dtype=np.float32)

    def anchor_cosines(self, indices: NDArray[np.integer]) -> NDArray[np.float32]:
        """Exact cosines (n, capabilities) with each mean anchor gradient."""
        rows = self.pool
        norms = np.asarray(self.manifest["anchor_norms"], np.float32)
        scale = rows.norms[indices, None] * norms
        return rows.anchor_dots[indices] / np.maximum(scale, 1e-12, dtype=np.float32)

    def anchor_rows(self, capability: int) -> NDArray[np.int64]:
        """Return the rows (n,) of the anchor samples of a capability number."""
        return self._rows_of(capability, "anchor", "anchor samples")

    def answer_rows(self, capability: int) -> NDArray[np.int64]:
        """Return the rows (n,) of `anchor_answers` of a capability number."""
        return self._rows_of(capability, "anchor_answers", "own answers")

    def answer_tokens(self, role: str) -> list[list[int]]:
        """Return the token ids of the proxy's own answers, in the order of the rows.

        Args:
            role: `"anchor_answers"` or `"retention_answers"`.
        """
        padded = _map_safetensors(self.path / ANSWER_TOKENS)[role]
        return [row[row >= 0].tolist() for row in padded]

    def _rows_of(self, capability: int, role: str, what: str) -> NDArray[np.int64]:
        rows = np.flatnonzero(getattr(self, role).capabilities == capability)
        if len(rows) == 0:
            raise InputError(
                f"{self.path}: capability '{self.capabilities[capability]}' has no "
                f"{what}; rebuild the bundle"
            )
        return rows

    def split(self, name: str) -> NDArray[np.int64]:
        """Return the row numbers of a part of the pool.

        Args:
            name: `"train"` (three quarters), `"test"` (one quarter, chosen by the
                samples' ids, so that no sample is ever in both) or `"all"`.
        """
        is_test = self.pool.ids % np.uint64(_TEST_DIVISOR) == _TEST_DIVISOR - 1
        parts = {"train": ~is_test, "test": is_test, "all": np.ones_like(is_test)}
        if name not in parts:
            raise unknown_name("split", name, parts)
        return np.flatnonzero(parts[name])

    def _check_files(self) -> None:
        for name, entry in self.manifest["files"].items():
            file = self.path / name
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

    def _read_role(self, role: str) -> Rows:
        files = sorted(n for n in self.manifest["files"] if n.startswith(f"{role}-"))
        shards = [_map_safetensors(self.path / name) for name in files]
        for prefix in self._extra_files(role):
            for name, shard in zip(files, shards, strict=True):
                shard.update(_map_safetensors(self.path / f"{prefix}-{name}"))
        for name, shard in zip(files, shards, strict=True):
            self._check_shard(role, self.path / name, shard)
        rows = sum(len(shard["ids"]) for shard in shards)
        if rows == 0 or rows != self.manifest["roles"].get(role):
            raise InputError(
                f"{self.path}: role '{role}' has {rows} rows, the manifest says "
                f"{self.manifest['roles'].get(role)}; rebuild the bundle"
            )
        weights = [entry["weight"] for entry in self.manifest["checkpoints"]]
        return Rows(shards, np.array(weights, np.float32))

    def _extra_files(self, role: str) -> list[str]:
        """Return the prefixes of a role's extra files, of `EXTRA_FILES`."""
        has_off_domain = self.has_off_domain and role in OFF_DOMAIN
        has_answers = self.has_trajectory and self.has_answers and role == "pool"
        return ["off_domain"] * has_off_domain + ["answers"] * has_answers

    def _shapes(self, role: str, rows: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of a shard's tensors."""
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(COLUMNS, (rows,))
        shapes["anchor_dots"] = (rows, len(self.capabilities))
        shapes["initial"] = (rows, self.k)
        if not self.has_trajectory or role in ANSWERS:
            return shapes
        checkpoints, counts = self.manifest["checkpoints"], self.manifest["roles"]
        shapes["trajectory"] = (rows, len(checkpoints) * self.k)
        if role == "pool":
            measured = sum(counts[name] for name in MEASURED)
            shapes["products"] = (rows, len(checkpoints) * measured)
            shapes["product_units"] = (rows, len(checkpoints))
        if "answers" in self._extra_files(role):
            answers = sum(counts[name] for name in ANSWERS)
            shapes["answer_products"] = (rows, answers)
            shapes["answer_units"] = (rows,)
        if "off_domain" in self._extra_files(role):
            later = sum(entry["step"] > 0 for entry in checkpoints)
            shapes["off_domain"] = (rows, later * self.k)
        return shapes

    def _check_shard(
        self, role: str, file: Path, shard: dict[str, NDArray[Any]]
    ) -> None:
        rows = len(shard["ids"]) if "ids" in shard else 0
        for name, shape in self._shapes(role, rows).items():
            prefix = [key for key, names in EXTRA_FILES.items() if name in names]
            path = file.with_name("-".join([*prefix, file.name]))
            if name not in shard or shard[name].shape != shape:
                actual = shard[name].shape if name in shard else "nothing"
                raise InputError(
                    f"{path}: tensor '{name}' should have shape {shape}, found "
                    f"{actual}; the manifest's k is {self.k}; rebuild the bundle"
                )
            if shard[name].dtype.kind == "f" and not np.isfinite(shard[name]).all():
                row = int(np.argwhere(~np.isfinite(shard[name]))[0][0])
                raise InputError(
                    f"{path}: tensor '{name}' holds a NaN or infinity in row {row} "
                    f"(sample {int(shard['ids'][row]):016x}); rebuild the bundle"
                )
        for name, names in (
            ("sources", self.sources),
            ("capabilities", self.capabilities),
        ):
            if rows and shard[name].max() >= len(names):
                raise InputError(
                    f"{file}: tensor '{name}' names number {shard[name].max()}, the "
                    f"manifest lists {len(names)} {name}; rebuild the bundle"
                )

    def _check_answers(self, role: str) -> None:
        """Check that answers have their tokens, and prompts that are in the bundle."""
        file, rows = self.path / ANSWER_TOKENS, getattr(self, role)
        tokens = _map_safetensors(file).get(role)
        counts = np.empty(0)
        if tokens is not None and tokens.dtype == np.int32 and tokens.ndim == 2:
            counts = np.sum(tokens >= 0, axis=1)
        if not np.array_equal(counts, rows.tokens):
            raise InputError(
                f"{file}: tensor '{role}' should be int32 ({len(rows)}, longest), the "
                "token ids of each answer and then -1, as many as the shards' 'tokens' "
                "say; rebuild the bundle"
            )
        prompts = role.removesuffix("_answers")
        unknown = rows.ids[~np.isin(rows.ids, getattr(self, prompts).ids)]
        if len(unknown):
            raise InputError(
                f"{self.path}: {role} has {len(unknown)} samples that answer none of "
                f"the {prompts} samples (the first is {int(unknown[0]):016x}); rebuild "
                "the bundle"
            )


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    manifest = read_json(file, "bundle manifest")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{file}: is no manifest of an ogs_env bundle")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{file}: format version {manifest.get('format_version')}, this ogs_env "
            f"reads version {FORMAT_VERSION}; rebuild the bundle with `ogs sketch`"
        )
    expected = [
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
    ]
    missing = [key for key in expected if key not in manifest]
    if not missing and any("weight" not in c for c in manifest["checkpoints"]):
        missing = ["weight of a checkpoint"]
    if missing:
        raise InputError(f"{file}: lacks '{missing[0]}'; rebuild the bundle")
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


def _map_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Memory-map a safetensors file: 8 bytes of header length, JSON, raw arrays."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        return {
            name: np.memmap(
                path,
                _DTYPES[entry["dtype"]],
                "r",
                8 + length + entry["data_offsets"][0],
                tuple(entry["shape"]),
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, MemoryError, OverflowError) as error:
        raise InputError(f"{path}: is no safetensors file ({error})") from None


def shipped_bundles() -> list[str]:
    """Return the names of the bundles in the package."""
    return sorted(file.parent.name for file in SHIPPED.glob(f"*/{MANIFEST}"))


@functools.lru_cache(maxsize=8)
def _load(path: Path, modified: int) -> Bundle:
    return Bundle(path)


def load_bundle(name_or_path: str | Path) -> Bundle:
    """Load a bundle and verify it: shapes, finite values and hashes.

    The last bundles loaded are cached until their manifests change.

    Args:
        name_or_path: The name of a shipped bundle, such as `"medical"`, or a folder.

    Raises:
        InputError: If it is unknown, damaged, incomplete or of another format.
    """
    path = Path(name_or_path)
    if not path.is_dir():
        shipped = SHIPPED / str(name_or_path)
        if str(name_or_path) not in shipped_bundles():
            if path.is_absolute() or len(path.parts) > 1:
                raise InputError(
                    f"{path}: no such folder; expected a bundle made by `ogs sketch`"
                )
            raise unknown_name("bundle", str(name_or_path), shipped_bundles())
        path = shipped
    path = path.resolve()
    manifest = path / MANIFEST
    modified = manifest.stat().st_mtime_ns if manifest.is_file() else 0
    return _load(path, modified)


def scalars(
    norms: NDArray[Any], losses: NDArray[Any], tokens: NDArray[Any]
) -> NDArray[Any]:
    """Return the columns (n, 3) that `Bundle.scales` standardises.

    They are log norms, losses and log tokens.
    """
    logs = np.log(np.maximum(norms, 1e-12)), np.log(np.maximum(tokens, 1))
    return np.column_stack([logs[0], losses, logs[1]])
