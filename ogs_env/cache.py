"""Where what can be computed again is kept."""

import os
from pathlib import Path

from ogs_env.errors import InputError


def cache_folder() -> Path:
    """Return the folder of what can be computed again: `OGS_CACHE`, or the user's.

    Raises:
        InputError: If it is not set, and the user has no home folder.
    """
    if folder := os.environ.get("OGS_CACHE"):
        return Path(folder)
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise InputError(f"OGS_CACHE: is not set ({error}); set it") from None
    return Path(base) / "ogs_env"
