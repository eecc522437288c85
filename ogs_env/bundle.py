"""Bundles: the gradient sketches of a pool, its domain set and its anchor set.

A bundle is a folder with `manifest.json`, `basis.safetensors` and, for each role,
shards `ROLE-00000.safetensors`. It may also have own answers, which the untouched proxy
gives to the prompts of anchor and retention: two further roles, sketched only at the
untouched model, with their tokens in `answers.safetensors`. In a bundle with a
trajectory, the pool's products with them are in `answers-pool-00000.safetensors`.
Environments need a bundle only, not the texts that it was sketched from.
"""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle_files import (
    ANSWER_TOKENS,
    ANSWERS,
    MANIFEST,
    MANIFEST_HASH,
    MEASURED,
    SHIPPED,
    check_answers,
    check_hashes,
    file_names,
    open_shards,
    read_basis,
    read_manifest,
)
from ogs_env.errors import InputError, unknown_name
from ogs_env.files import sha256_of
from ogs_env.hub import (
    Kind,
    Repository,
    cached_folder,
    download,
    downloaded,
    hub_copy,
    hub_repository,
    upload,
)
from ogs_env.rows import Rows
from ogs_env.tensor_files import TensorFile
from ogs_env.verified import Verified

HUB_KIND = Kind(
    what="bundle",
    repo_type="dataset",
    marker=MANIFEST,
    files=file_names,
    beside=(MANIFEST_HASH,),
    maker="`ogs sketch`",
)
"""Bundles on the Hugging Face hub are dataset repositories."""
OWNER = "ogs-env"
"""Owner of the shipped bundles' repositories."""
# One of four ids is in the test split, so that policies are tested on unseen samples.
_TEST_DIVISOR = 4


class Bundle:
    """A verified bundle; it is immutable, and copies are the same object.

    Attributes:
        path: The folder.
        manifest: The parsed manifest.
        pool: `Rows` of the candidates.
        dev: `Rows` of the domain's samples that rewards depend on.
        test: `Rows` of the domain's samples that no reward depends on.
        anchor: `Rows` of the samples to be retained that rewards depend on.
        retention: `Rows` of the samples to be retained that no reward depends on.
        anchor_answers: `Rows` of the untouched proxy's own answers to the anchor's
            prompts; an answer has the id of the sample whose prompt it answers. Only if
            `has_answers`.
        retention_answers: The same for the retention's prompts.
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
    basis: NDArray[np.float32]
    scales: NDArray[np.float32]

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

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> "Bundle":
        """Load a bundle from the Hugging Face hub, or from a folder.

        The hub is asked for its newest version; `load_bundle`, which takes the same
        names, asks once in a process.

        Args:
            name_or_folder: `OWNER/NAME` or `OWNER/NAME@REVISION` of a dataset
                repository, a folder, or the name of a shipped bundle.
            revision: Branch, tag or commit of the repository.
            token: Token of the hub; by default that of `hf auth login` or `HF_TOKEN`.

        Raises:
            InputError: If it cannot be downloaded, or is no bundle.
        """
        repository = hub_repository(name_or_folder, HUB_KIND, revision)
        if repository is None or Path(name_or_folder).is_dir():
            return load_bundle(name_or_folder)
        folder = download(repository, token=token)
        with hub_copy(repository, folder):
            return load_bundle(folder)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        licence: str | None = None,
    ) -> str:
        """Push the files of the bundle's folder, and a card, to the Hugging Face hub.

        Args:
            repo_id: `OWNER/NAME` of a dataset repository, made if it does not exist.
            commit_message: Message of the commit.
            private: Whether a new repository is private; by default as the owner's
                settings say.
            token: Token of the hub; by default that of `hf auth login` or `HF_TOKEN`.
            revision: Branch, made if it does not exist; by default `main`.
            licence: The hub's identifier of a licence, for the card; by default those
                of the sources.

        Returns:
            Address of the commit.

        Raises:
            InputError: If the hub cannot be reached or refuses.
        """
        from ogs_env.bundle_card import bundle_card

        return upload(
            self.path,
            repo_id,
            HUB_KIND,
            bundle_card(self, repo_id, licence),
            commit_message=commit_message,
            private=private,
            token=token,
            revision=revision,
        )

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
    """Return the names of the shipped bundles.

    The package has the sha256 of the manifest of each. A bundle whose files it does
    not have is downloaded from the Hugging Face hub when it is first loaded.
    """
    return sorted(file.parent.name for file in SHIPPED.glob(f"*/{MANIFEST_HASH}"))


def shipped_repository(name: str) -> Repository:
    """Return the repository of a shipped bundle on the Hugging Face hub."""
    return Repository(
        f"{OWNER}/OGS-{name.title()}",
        HUB_KIND,
        None,
        f"{name}: this installation of ogs-env has no files of this shipped bundle",
        "use OGS-Medical-v0, whose bundle is always there, or install a clone of the "
        "repository of ogs-env",
    )


def is_here(name: str) -> bool:
    """Return whether a shipped bundle can be loaded without a download."""
    if (SHIPPED / name / MANIFEST).is_file():
        return True
    return cached_folder(shipped_repository(name), _shipped_hash(name)) is not None


@functools.lru_cache(maxsize=8)
def _load(path: Path, modified: int, verify: bool) -> Bundle:
    return Bundle(path, verify)


def load_bundle(name_or_path: str | Path, verify: bool = True) -> Bundle:
    """Load a bundle and verify it: shapes, finite values and hashes.

    The last bundles loaded are cached until their manifests change. Sketches stay on
    the disk until they are needed.

    Args:
        name_or_path: A folder, the name of a shipped bundle, such as `"medical"`, or
            `OWNER/NAME` or `OWNER/NAME@REVISION` of a dataset repository of the
            Hugging Face hub. A folder of that name comes first; a `Path` is always a
            folder. A repository is looked up once in a process.
        verify: Whether to read all files for their hashes and finite values. Of a
            bundle of 64 MB or more, files that were verified before are read again
            only if their size, times of change or inode are others, or the manifest
            is; this is remembered in the cache folder (`OGS_CACHE`, or the user's
            cache). Without it, a damaged bundle can give wrong numbers; it is for
            large bundles where the cache folder does not last.

    Raises:
        InputError: If it is unknown, damaged, incomplete or of another format, or
            cannot be downloaded.
    """
    with _folder(name_or_path) as folder:
        path = folder.resolve()
        manifest = path / MANIFEST
        modified = manifest.stat().st_mtime_ns if manifest.is_file() else 0
        return _load(path, modified, verify)


@contextlib.contextmanager
def _folder(name_or_path: str | Path) -> Iterator[Path]:
    """Find the folder of a bundle, download it if need be, and explain its errors."""
    path, name = Path(name_or_path), str(name_or_path)
    if path.is_dir():
        yield path
        return
    if name in shipped_bundles():
        if (SHIPPED / name / MANIFEST).is_file():
            yield SHIPPED / name
            return
        repository, sha256 = shipped_repository(name), _shipped_hash(name)
    elif found := hub_repository(name_or_path, HUB_KIND):
        repository, sha256 = found, ""
    elif path.is_absolute() or len(path.parts) > 1:
        raise InputError(
            f"{path}: no such folder; expected a bundle made by `ogs sketch`"
        )
    else:
        raise unknown_name("bundle", name, shipped_bundles())
    folder = downloaded(repository, sha256)
    with hub_copy(repository, folder):
        yield folder


def _shipped_hash(name: str) -> str:
    return (SHIPPED / name / MANIFEST_HASH).read_text("utf-8").strip()


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
