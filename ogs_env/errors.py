"""Errors in a user's input, each with a one-line message."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: a file, a line, a field, a name or a number.

    The message is one line that names the place, what was expected and what to do.
    The command `ogs` prints it without a traceback and exits with status 2.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for an unknown name, with similar names as suggestions.

    Args:
        kind: What is named, such as `"domain"`.
        name: The given name.
        known: All valid names.
    """
    choices = sorted(known)
    near = difflib.get_close_matches(str(name), choices, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else ""
    return InputError(
        f"unknown {kind} '{name}'; {hint or 'known: ' + ', '.join(choices)}"
    )
