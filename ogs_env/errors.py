"""Errors that are the user's to mend, told in one clear line."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: a file, a line, a field, a name or a number.

    The message is one line that names the place, what was expected and what to
    do. The command `ogs` prints it without a traceback and exits with status 2.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that is not known, with near ones offered.

    Args:
        kind: What the name stands for, such as `"domain"`.
        name: What was given.
        known: All names that would have been right.
    """
    choices = sorted(known)
    near = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else ""
    return InputError(
        f"unknown {kind} '{name}'; {hint or 'known: ' + ', '.join(choices)}"
    )
