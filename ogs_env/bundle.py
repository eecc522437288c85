"""Bundles: the gradient sketches of a pool, its domain set and its anchor set.

A bundle is a folder with `manifest.json`, `basis.safetensors` and, for each role,
shards `ROLE-00000.safetensors`. It may also have own answers, which the untouched proxy
gives to the prompts of anchor and retention: two further roles, sketched only at the
untouched model, with their tokens in `answers.safetensors`. In a bundle with a
trajectory, the pool's products with them are in `answers-pool-00000.safetensors`.
Environments need a bundle only, not the texts that it was sketched from.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle_files import (
    ANSWER_TOKENS,
    ANSWERS,
    MANIFEST,
    MEASURED,
    SHIPPED,
    check_answers,
    check_hashes,
    open_shards,
    read_basis,
    read_manifest,
)
from ogs_env.errors import InputError, unknown_name
from ogs_env.files import sha256_of
from ogs_env.rows import Rows
from ogs_env.tensor_files import TensorFile
from ogs_env.verified import Verified

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

    def __init__(self, path: Path, verify: bool = True) -> None:
        self.path = path
        self.manifest = manifest = read_manifest(path)
        self._verify = verify
        remembered = Verified(path, sha256_of(path / MANIFEST), manifest["files"])
        verified = remembered.unchanged if verify else manifest["files"]
        check_hashes(path, manifest, verified)
        weights = [entry["weight"] for entry in manifest["checkpoints"]]
        # The pool comes last, because its products need the sizes of the other roles.
        for role in (*self.measured, "pool"):
            shards = open_shards(path, manifest, role, verified)
            setattr(self, role, Rows(shards, np.array(weights, np.float32)))
        for role in ANSWERS if self.has_answers else ():
            prompts = getattr(self, role.removesuffix("_answers"))
            check_answers(path, role, getattr(self, role), prompts)
        self.basis, self.scales = read_basis(path, self.k)
        if verify:
            remembered.remember()

    # A bundle is read-only and may map large files, so copies are the same object and
    # another process loads it from its folder.
    def __reduce__(self) -> tuple[Any, ...]:
        epochs = self.manifest["learner"]["epochs"]
        return _loaded, (str(self.path), epochs, self._verify)

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

    def with_epochs(self, epochs: float) -> "Bundle":
        """Return the bundle with another number of epochs for its learner."""
        if epochs == self.manifest["learner"]["epochs"]:
            return self
        return _with_epochs(self, epochs)

    @property
    def has_trajectory(self) -> bool:
        """Whether it has sketches at the checkpoints of a warm-up."""
        return bool(self.manifest["checkpoints"])

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
        padded = TensorFile(self.path / ANSWER_TOKENS).read(role)
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


def shipped_bundles() -> list[str]:
    """Return the names of the bundles in the package."""
    return sorted(file.parent.name for file in SHIPPED.glob(f"*/{MANIFEST}"))


@functools.lru_cache(maxsize=8)
def _load(path: Path, modified: int, verify: bool) -> Bundle:
    return Bundle(path, verify)


def load_bundle(name_or_path: str | Path, verify: bool = True) -> Bundle:
    """Load a bundle and verify it: shapes, finite values and hashes.

    The last bundles loaded are cached until their manifests change. Sketches stay on
    the disk until they are needed.

    Args:
        name_or_path: The name of a shipped bundle, such as `"medical"`, or a folder.
        verify: Whether to read all files for their hashes and finite values. Of a
            bundle of 64 MB or more, files that were verified before are read again
            only if their size, times of change or inode are others, or the manifest
            is; this is remembered in the cache folder (`OGS_CACHE`, or the user's
            cache). Without it, a damaged bundle can give wrong numbers; it is for
            large bundles where the cache folder does not last.

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
    return _load(path, modified, verify)


def scalars(
    norms: NDArray[Any], losses: NDArray[Any], tokens: NDArray[Any]
) -> NDArray[Any]:
    """Return the columns (n, 3) that `Bundle.scales` standardises.

    They are log norms, losses and log tokens.
    """
    logs = np.log(np.maximum(norms, 1e-12)), np.log(np.maximum(tokens, 1))
    return np.column_stack([logs[0], losses, logs[1]])


def _loaded(path: str, epochs: float, verify: bool) -> Bundle:
    return load_bundle(path, verify).with_epochs(epochs)


@functools.lru_cache(maxsize=8)
def _with_epochs(bundle: Bundle, epochs: float) -> Bundle:
    """Return a variant; cached, because learners cache their tables by bundle."""
    variant = object.__new__(type(bundle))
    variant.__dict__.update(bundle.__dict__)
    learner = {**bundle.manifest["learner"], "epochs": epochs}
    variant.manifest = {**bundle.manifest, "learner": learner}
    return variant
