"""Checks of arguments that all environments have."""

from collections.abc import Mapping, Sequence

import numpy as np

from ogs_env.bundle import Bundle, load_bundle
from ogs_env.errors import InputError, unknown_name


def given_bundle(bundle: str, custom: str) -> Bundle:
    """Load the bundle that an environment is made of.

    Args:
        bundle: Name or folder; empty where an id leaves it to the caller.
        custom: Id that plays any bundle, for the message.

    Raises:
        InputError: If it is missing, or cannot be loaded.
    """
    if not bundle:
        raise InputError(
            "bundle: missing; expected the name of a shipped bundle or a folder made "
            f"by `ogs sketch`, as in make('{custom}', bundle='runs/mine')"
        )
    return load_bundle(bundle)


def check_render_mode(mode: str | None, modes: Sequence[str]) -> None:
    """Check that a render mode, if there is one, is among an environment's."""
    if mode not in (None, *modes):
        raise unknown_name("render mode", str(mode), modes)


def check_whole(counts: Mapping[str, int]) -> None:
    """Check that numbers, by the names of their arguments, are whole and positive."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int | np.integer):
            raise InputError(f"{name}: {count!r}; expected a whole number")
        if count < 1:
            raise InputError(f"{name}: {count}; expected at least 1")


def check_task_seed(task_seed: int, learner: str) -> None:
    """Check the number of a sampled task."""
    whole = isinstance(task_seed, int | np.integer) and not isinstance(task_seed, bool)
    if not whole or task_seed < 0:
        raise InputError(
            f"task_seed: {task_seed!r}; expected a whole number, 0 or more"
        )
    if learner != "surrogate":
        raise InputError(
            f"task_seed: given with learner='{learner}'; expected the surrogate"
        )
