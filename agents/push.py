"""The command `ogs push`: upload an agent or a bundle to the Hugging Face hub."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ogs_env.bundle import HUB_KIND, Bundle, load_bundle
from ogs_env.errors import InputError
from ogs_env.hub import hub_client

if TYPE_CHECKING:
    from ogs_env.agents.navigator import Navigator


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `ogs push`.

    Attributes:
        folder: Folder of an agent or of a bundle.
        name: Repository on the Hugging Face hub, OWNER/NAME; it is made if it does not
            exist.
        private: Make a new repository private.
        revision: Branch, made if it does not exist; by default main.
        message: Message of the commit; by default says what is pushed.
        licence: The hub's identifier of a licence for the card; by default those of
            the sources.
    """

    folder: Path = field(metadata={"positional": True, "metavar": "FOLDER"})
    name: str = field(metadata={"positional": True, "metavar": "OWNER/NAME"})
    private: bool = False
    revision: str | None = None
    message: str | None = None
    licence: str | None = None


def run(options: Options) -> None:
    """Push, and print the address.

    Raises:
        InputError: If the folder holds neither or is damaged, or the hub cannot be
            reached or refuses.
    """
    hub_client()  # before torch, which takes seconds to load
    pushed = _read(options.folder)
    address = pushed.push_to_hub(
        options.name,
        commit_message=options.message,
        private=options.private or None,
        revision=options.revision,
        licence=options.licence,
    )
    print(f"{options.folder}: pushed to {address}")


def _read(folder: Path) -> "Bundle | Navigator":
    if (folder / HUB_KIND.marker).is_file():
        return load_bundle(folder)
    from ogs_env.agents.navigator import DESCRIPTION, Navigator

    if (folder / DESCRIPTION).is_file():
        return Navigator.load(folder)
    raise InputError(
        f"{folder}: holds neither an agent ({DESCRIPTION}) nor a bundle "
        f"({HUB_KIND.marker}); give a folder made by `ogs train` or `ogs sketch`"
    )
