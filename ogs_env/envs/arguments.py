"""Checks of arguments that several environments share."""

from collections.abc import Mapping, Sequence

import numpy as np
from gymnasium.vector import AutoresetMode

from ogs_env.bundle import Bundle, load_bundle
from ogs_env.errors import InputError, unknown_name

MOST_EPOCHS = 1_000_000
"""Predictions of more epochs overflow."""


def given_bundle(bundle: str, custom: str) -> Bundle:
    """Load the bundle of an environment.

    Args:
        bundle: Name or folder; empty if the caller of `make` gave none.
        custom: Id of the environment that takes any bundle, for the error message.

    Raises:
        InputError: If the bundle is missing or cannot be loaded.
    """
    if not bundle:
        raise InputError(
            "bundle: missing; expected the name of a shipped bundle or a folder made "
            f"by `ogs sketch`, as in make('{custom}', bundle='runs/mine')"
        )
    return load_bundle(bundle)


def check_render_mode(mode: str | None, modes: Sequence[str]) -> None:
    """Check that a render mode is None or one of an environment's modes.

    Raises:
        InputError: For an unknown mode.
    """
    if mode not in (None, *modes):
        raise unknown_name("render mode", str(mode), modes)


def checked_autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    """Return an autoreset mode that is given by its name or as a member.

    Raises:
        InputError: For an unknown mode.
    """
    try:
        return AutoresetMode(mode)
    except ValueError:
        modes = [known.value for known in AutoresetMode]
        raise unknown_name("autoreset mode", str(mode), modes) from None


def check_whole(counts: Mapping[str, int]) -> None:
    """Check that arguments, by name, are positive whole numbers.

    Raises:
        InputError: For the first that is not.
    """
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int | np.integer):
            raise InputError(f"{name}: {count!r}; expected a whole number")
        if count < 1:
            raise InputError(f"{name}: {count}; expected at least 1")


def check_flag(name: str, value: bool) -> None:
    """Check that an argument is True or False.

    Raises:
        InputError: For anything else.
    """
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name}: {value!r}; expected True or False")


def check_epochs(epochs: float, learner: str) -> None:
    """Check the number of epochs that a learner predicts.

    Raises:
        InputError: If it is no positive number, too large, or for a live learner.
    """
    numbers = int | float | np.integer | np.floating
    is_number = isinstance(epochs, numbers) and not isinstance(epochs, bool)
    if not is_number or not 0 < epochs <= MOST_EPOCHS:
        raise InputError(
            f"epochs: {epochs!r}; expected a number above 0, at most {MOST_EPOCHS:,}"
        )
    if learner != "surrogate":
        raise InputError(
            f"epochs: given with learner='{learner}'; expected the surrogate"
        )
