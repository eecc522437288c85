"""Bundles and trained agents in repositories of the Hugging Face hub.

A name `OWNER/NAME` or `OWNER/NAME@REVISION` stands for a folder wherever a bundle or an
agent is given, unless there is a folder of that name. What is downloaded goes to the
cache of `huggingface_hub`, which is imported only for such names: a repository's files
are read as those of a folder are, and other files are not downloaded.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ogs_env.errors import InputError
from ogs_env.files import sha256_of

INSTALL_HUB = "pip install 'ogs-env[hub]'"
CARD = "README.md"
LIBRARY = "ogs-env"
"""Name of this library in the headers of cards."""

_NAME = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?",
    re.ASCII,
)
# Identifiers that the hub knows, of licences as sources of texts have them.
_LICENCES = {
    *("apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "gpl-3.0", "mit"),
    *("cc-by-3.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-sa-3.0"),
    *("cc-by-sa-4.0", "odbl", "odc-by"),
}


@dataclass(frozen=True)
class Kind:
    """What a repository holds.

    Attributes:
        what: `"bundle"` or `"agent"`.
        repo_type: The hub's type of the repository.
        marker: The file that every folder of this kind has.
        files: Function that returns the names of the other files, given the folder
            with the marker.
        beside: Further files, which a folder may lack.
        maker: Command that makes such folders.
    """

    what: str
    repo_type: str
    marker: str
    files: Callable[[Path], Iterable[str]]
    beside: tuple[str, ...]
    maker: str


@dataclass(frozen=True)
class Repository:
    """A repository of the hub, as a user asked for it.

    Attributes:
        repo_id: Owner and name.
        kind: What it holds.
        revision: Branch, tag or commit; the newest if None.
        wanted: How error lines begin: what was given, and where it is not.
        otherwise: How error lines end: what else can be done.
    """

    repo_id: str
    kind: Kind
    revision: str | None
    wanted: str
    otherwise: str

    def __str__(self) -> str:
        return f"{self.kind.repo_type} repository {self.repo_id}"

    @property
    def url(self) -> str:
        """Address of its page."""
        from huggingface_hub import constants

        folder = "datasets/" if self.kind.repo_type == "dataset" else ""
        return f"{constants.ENDPOINT}/{folder}{self.repo_id}"


def is_hub_name(name: str | Path) -> bool:
    """Return whether a text can be a repository's name; a `Path` is always a folder."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def hub_repository(
    name: str | Path, kind: Kind, revision: str | None = None
) -> Repository | None:
    """Return the repository of a name that is no folder; None if it can be no name.

    Args:
        name: `OWNER/NAME` or `OWNER/NAME@REVISION`; a `Path` is always a folder.
        kind: What the repository should hold.
        revision: Revision, in place of one in the name.
    """
    match = None if isinstance(name, Path) else _NAME.fullmatch(name)
    return match and Repository(
        match["repo"],
        kind,
        revision or match["revision"],
        f"{name}: no such folder",
        f"give a folder made by {kind.maker}",
    )


def download(
    repository: Repository,
    *,
    token: str | bool | None = None,
    marker_sha256: str = "",
) -> Path:
    """Download the files of a bundle or an agent into the hub's cache.

    Files that are in the cache are not downloaded again. Without network, or with
    `HF_HUB_OFFLINE=1`, what is in the cache is used.

    Args:
        repository: The repository.
        token: Token of the hub; by default that of `hf auth login` or `HF_TOKEN`.
        marker_sha256: Expected sha256 of the kind's marker file, if it is known. If
            the cache has that file, the hub is not asked.

    Returns:
        The folder of the files in the cache.

    Raises:
        InputError: If the files cannot be had, or the marker's hash is another one.
    """
    hub = _client_for(repository)
    kind = repository.kind
    if marker_sha256 and (folder := _cached(hub, repository, marker_sha256)):
        return folder
    with _explained(repository):
        how: dict[str, Any] = {
            "repo_type": kind.repo_type,
            "token": token,
            "library_name": LIBRARY,
            "local_files_only": not _answers(),
        }
        marker = hub.hf_hub_download(
            repository.repo_id, kind.marker, revision=repository.revision, **how
        )
    folder = Path(marker).parent
    if marker_sha256 and sha256_of(folder / kind.marker) != marker_sha256:
        if how["local_files_only"] or hub.constants.HF_HUB_OFFLINE:
            raise _failure(repository, *_not_cached(repository))
        problem = (
            f"{repository.url} holds another version (sha256 of {kind.marker} differs)"
        )
        raise _failure(repository, problem, "upgrade ogs-env")
    with hub_copy(repository, folder):
        names = list(kind.files(folder))
    if not _are_there(folder, names):
        with _explained(repository):
            # The folder's name is the commit, so all files are of one revision.
            hub.snapshot_download(
                repository.repo_id,
                revision=folder.name,
                allow_patterns=[kind.marker, *names, *kind.beside],
                **how,
            )
    return folder


@functools.cache
def downloaded(repository: Repository, marker_sha256: str = "") -> Path:
    """Return the folder of `download`; the hub is asked once in a process."""
    return download(repository, marker_sha256=marker_sha256)


def cached_folder(repository: Repository, marker_sha256: str) -> Path | None:
    """Return the folder in the hub's cache, if it is there; the hub is not asked."""
    try:
        return _cached(_client_for(repository), repository, marker_sha256)
    except InputError:  # without huggingface_hub, or with a damaged cache
        return None


@contextlib.contextmanager
def hub_copy(repository: Repository, folder: Path) -> Iterator[None]:
    """Give the advice that helps where files in the hub's cache are damaged.

    Raises:
        InputError: If the block raises one.
    """
    try:
        yield
    except InputError as error:
        problem = str(error).rpartition("; ")[0] or str(error)
        raise InputError(
            f"{repository.repo_id}: no whole {repository.kind.what} in its copy from "
            f"the Hugging Face hub: {problem}; remove {folder.parents[1]} and run "
            f"again; if the error stays, upgrade ogs-env or ask the owner of "
            f"{repository.url}"
        ) from error


def upload(
    folder: Path,
    repo_id: str,
    kind: Kind,
    card: str,
    *,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
) -> str:
    """Upload the files of a bundle or an agent, and a card, in one commit.

    Args:
        folder: The folder.
        repo_id: Owner and name of the repository, which is made if it does not exist.
        kind: What the folder holds.
        card: The repository's card, see `card_text`.
        commit_message: Message of the commit.
        private: Whether a new repository is private; by default as the owner's
            settings say.
        token: Token of the hub; by default that of `hf auth login` or `HF_TOKEN`.
        revision: Branch, which is made if it does not exist; by default `main`.

    Returns:
        Address of the commit.

    Raises:
        InputError: If the hub cannot be reached or refuses.
    """
    match = _NAME.fullmatch(repo_id)
    if match is None or match["revision"]:
        raise InputError(
            f"{repo_id}: is no name of a repository; expected OWNER/NAME, of letters, "
            "digits, '-', '_' and '.'"
        )
    repository = Repository(
        repo_id, kind, revision, f"{repo_id}: nothing is pushed", "push elsewhere"
    )
    hub = _client_for(repository)
    if not _answers():
        raise _failure(repository, *_unreachable())
    names = [kind.marker, *kind.files(folder)]
    names += [name for name in kind.beside if (folder / name).is_file()]
    with _explained(repository):
        where = {"repo_id": repo_id, "repo_type": kind.repo_type}
        api = hub.HfApi(token=token, library_name=LIBRARY)
        api.create_repo(**where, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(**where, branch=revision, exist_ok=True)
        done = api.create_commit(
            **where,
            operations=[
                *(hub.CommitOperationAdd(name, folder / name) for name in names),
                hub.CommitOperationAdd(CARD, card.encode()),
            ],
            commit_message=commit_message or f"Push {kind.what} with ogs_env",
            revision=revision,
        )
    downloaded.cache_clear()
    return str(done.commit_url)


def card_text(header: Mapping[str, Any], lines: Iterable[str]) -> str:
    """Return the text of a card: a YAML header and Markdown.

    Args:
        header: Entries of the header.
        lines: Lines of the Markdown.

    Raises:
        InputError: If huggingface_hub is not installed.
    """
    data = hub_client().CardData(library_name=LIBRARY, **header)
    return "\n".join(["---", data.to_yaml(), "---", "", *lines, ""])


def markdown_table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """Return the lines of a Markdown table."""

    def line(cells: Iterable[object]) -> str:
        texts = (" ".join(str(cell).split()).replace("|", "\\|") for cell in cells)
        return f"| {' | '.join(texts)} |"

    heads = list(heads)
    return [line(heads), line("---" for _ in heads), *map(line, rows)]


def licence_ids(names: Iterable[str]) -> list[str]:
    """Return the hub's identifiers of licences; `other` for what it has none for."""
    lower = {name.lower() for name in names}
    known = sorted(lower & _LICENCES)
    return known if lower <= _LICENCES else [*known, "other"]


def hub_client() -> ModuleType:
    """Import huggingface_hub.

    Raises:
        InputError: If it is not installed.
    """
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise InputError(
            "the Hugging Face hub needs the package huggingface_hub, which is not "
            f"installed; run `{INSTALL_HUB}`"
        ) from None
    return huggingface_hub


def _client_for(repository: Repository) -> ModuleType:
    try:
        return hub_client()
    except InputError as error:
        problem, _, advice = str(error).partition("; ")
        raise _failure(repository, problem, advice) from None


def _answers() -> bool:
    """Return whether to ask the hub; its library retries for half a minute."""
    from ogs_env.data.record_files import hub_answers

    return hub_answers()


def _cached(hub: ModuleType, repository: Repository, marker_sha256: str) -> Path | None:
    kind = repository.kind
    marker = hub.try_to_load_from_cache(
        repository.repo_id,
        kind.marker,
        revision=repository.revision,
        repo_type=kind.repo_type,
    )
    if not isinstance(marker, str) or sha256_of(Path(marker)) != marker_sha256:
        return None
    folder = Path(marker).parent
    return folder if _are_there(folder, kind.files(folder)) else None


def _are_there(folder: Path, names: Iterable[str]) -> bool:
    return all((folder / name).is_file() for name in names)


@contextlib.contextmanager
def _explained(repository: Repository) -> Iterator[None]:
    """Report in one line why the hub does not serve or take a repository.

    Raises:
        InputError: If the block fails.
    """
    try:
        yield
    # The classes of connection errors depend on the library under huggingface_hub.
    except Exception as error:
        raise _failure(repository, *_explanation(repository, error)) from error


def _failure(repository: Repository, problem: str, advice: str) -> InputError:
    return InputError(
        f"{repository.wanted}, and {problem}; {advice}, or {repository.otherwise}"
    )


def _unreachable() -> tuple[str, str]:
    from huggingface_hub import constants

    problem = f"the Hugging Face hub ({constants.ENDPOINT}) cannot be reached"
    return problem, "check the network"


def _not_cached(repository: Repository) -> tuple[str, str]:
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:
        return _unreachable()
    return (
        f"the {repository} is not in the Hugging Face hub's cache, or not whole, and "
        "HF_HUB_OFFLINE=1 forbids to download it",
        "unset HF_HUB_OFFLINE",
    )


def _explanation(repository: Repository, error: Exception) -> tuple[str, str]:
    """Return what is wrong, and what to do."""
    from huggingface_hub import errors

    kind, log_in = repository.kind, "log in with `hf auth login` or set HF_TOKEN"
    status = getattr(getattr(error, "response", None), "status_code", None)
    match error:
        case errors.GatedRepoError():
            return (
                f"the Hugging Face hub asks for consent to load the {repository}",
                f"accept its terms at {repository.url} and {log_in}",
            )
        case errors.RepositoryNotFoundError():
            return (
                f"the Hugging Face hub has no {repository}, or a private one",
                f"check the name, {log_in}",
            )
        case errors.RevisionNotFoundError():
            return (
                f"the {repository} has no revision '{repository.revision}'",
                "name a branch, a tag or a commit of it",
            )
        case errors.RemoteEntryNotFoundError():
            return (
                f"the {repository} has no {kind.marker}, so it holds no {kind.what}",
                "name a repository that `ogs push` filled",
            )
        case errors.LocalEntryNotFoundError():
            return _not_cached(repository)
        case errors.OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE=1 forbids to ask the hub", "unset HF_HUB_OFFLINE"
        case errors.HfHubHTTPError() if status in (401, 403):
            return (
                f"the Hugging Face hub refuses access to the {repository}",
                f"{log_in}, to a token that has the right to do this",
            )
        case errors.HFValidationError():
            return f"the hub has no such names ({_first_line(error)})", "rename it"
        case OSError() if error.errno:
            return (
                f"the hub's cache fails ({error.strerror})",
                "free space or set HF_HOME to another folder",
            )
    return f"the Hugging Face hub failed ({_first_line(error)})", "try again later"


def _first_line(error: Exception) -> str:
    lines = str(error).split("\n")
    return lines[0].strip().rstrip(".;") or type(error).__name__
