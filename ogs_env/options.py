"""Command-line options made from the fields of a dataclass.

A field's name, type and default are those of its option, and the section `Attributes`
of the docstring is its help. Types are `bool` (a flag), `str`, `int`, `float`,
`pathlib.Path`, `dict` (JSON), tuples of one of these, and unions with None. A field's
metadata can have:

- `positional`: True if the option is a word without a name.
- `metavar`: Name of the value in the help.
- `choices`: The valid values.
- `bare`: The value of an option that is given without one.
- `known`: Names that end the help text, such as those of shipped files.
- `options_of`: Classes whose fields are options too. The value has those that are
  given, by name. Fields of the same name are one option, described by the first class.
"""

import argparse
import dataclasses
import difflib
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ogs_env.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def parse(
    options_class: type[T],
    words: Sequence[str],
    prog: str = "ogs",
    description: str | None = None,
) -> T:
    """Parse a command line; print the help and exit if it has `--help`.

    Hyphens and underscores in names of options are the same.

    Args:
        options_class: Dataclass of the options.
        words: The command line without the command.
        prog: The command, for help and errors.
        description: What the command does, for its help.

    Raises:
        InputError: For a wrong, missing or unknown option.
    """
    parser = _Parser(prog, description=description, argument_default=argparse.SUPPRESS)
    names: set[str] = set()
    _add_options(parser, options_class, names)
    given, unknown = parser.parse_known_args([_hyphenated(word) for word in words])
    if unknown:
        known, wrong = map(option_name, names), unknown[0].partition("=")[0]
        near = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.75)
        hint = f"; did you mean {near[0]}?" if near else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    values: dict[str, Any] = {}
    fields = {field.name: field for field in dataclasses.fields(options_class)}
    for name, value in vars(given).items():
        values[name] = tuple(value) if isinstance(value, list) else value
    for field in fields.values():
        if "options_of" in field.metadata:
            others = [name for name in values if name not in fields]
            values[field.name] = {name: values.pop(name) for name in others}
    return options_class(**values)


def settings_of(
    settings_class: type[T], options: "DataclassInstance", **changes: Any
) -> T:
    """Return settings with the values of options of the same names.

    Args:
        settings_class: Dataclass of the settings.
        options: Options with all of its fields, except for those in `changes`.
        changes: Other values.
    """
    names = [field.name for field in dataclasses.fields(settings_class)]
    values = {name: getattr(options, name) for name in names if name not in changes}
    return settings_class(**values, **changes)


def option_name(field: str) -> str:
    """Return the option of a field, such as `--learning-rate`."""
    return f"--{field.rstrip('_').replace('_', '-')}"


def types_of(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the only type."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    members = typing.get_args(annotation) if is_union else (annotation,)
    return tuple(dict if typing.get_origin(t) is dict else t for t in members)


def expected(members: Iterable[Any]) -> str:
    """Describe values of some types, for errors."""
    return " or ".join(_TYPES[member][2] for member in members)


class _Parser(argparse.ArgumentParser):
    """Raises InputError for a bad option, so that it is reported in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see `{self.prog} --help`")


def _add_options(
    parser: argparse.ArgumentParser,
    options_class: type["DataclassInstance"],
    added: set[str],
) -> None:
    """Add the options of a class that are not added yet, in a group for each base."""
    annotations, texts = typing.get_type_hints(options_class), _texts(options_class)
    fields = {field.name: field for field in dataclasses.fields(options_class)}
    for base in options_class.__mro__:
        # In the order of the class, not that of a base whose default it changes.
        names = [name for name in inspect.get_annotations(base) if name not in added]
        own = [fields[name] for name in names if name in fields]
        if own:
            title = inspect.cleandoc(base.__doc__ or "").partition("\n")[0]
            group = parser.add_argument_group(title.rstrip("."))
            added.update(names)
        for field in own:
            if "options_of" not in field.metadata:
                text = texts.get(field.name, "")
                _add_option(group, field, annotations[field.name], text)
    for field in fields.values():
        for other in field.metadata.get("options_of", ()):
            _add_options(parser, other, added)


def _add_option(
    group: argparse._ArgumentGroup,
    field: "dataclasses.Field[Any]",
    annotation: Any,
    text: str,
) -> None:
    factory = field.default_factory
    default = field.default if factory is dataclasses.MISSING else factory()
    details: Mapping[str, Any] = field.metadata
    if known := details.get("known"):
        text = f"{text.rstrip('.')}: {', '.join(known)}."
    required = default is dataclasses.MISSING
    if not (required or default is False or "by default" in text.lower()):
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        text += f" (default: {'none' if shown in (None, '') else shown})"
    how: dict[str, Any] = {"help": text.replace("%", "%%")}
    if annotation is bool:
        how["action"] = "store_true"
    else:
        members = types_of(annotation)
        for member in members:
            if typing.get_origin(member) is tuple:
                how["nargs"] = "*" if default == () else "+"
                members = typing.get_args(member)[:1]
        how["type"] = _reader(members)
        if "bare" in details:
            how |= {"nargs": "?", "const": details["bare"]}
        how["choices"] = details.get("choices")
        if how["choices"] is None:
            how["metavar"] = details.get("metavar") or _TYPES[members[0]][1]
    if details.get("positional"):
        if not required:
            how.setdefault("nargs", "?")
        group.add_argument(field.name, **how)
    else:
        name = option_name(field.name)
        group.add_argument(name, dest=field.name, required=required, **how)


def _hyphenated(word: str) -> str:
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word


def _texts(options_class: type) -> dict[str, str]:
    """Return the texts of the docstrings' `Attributes`, by name."""
    texts = {}
    for base in reversed(options_class.__mro__):
        section = inspect.cleandoc(base.__doc__ or "").partition("\nAttributes:\n")[2]
        section = re.split(r"\n(?=\S)", section)[0]
        for name, text in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.M):
            texts[name] = " ".join(text.split())
    return texts


def _reader(members: Sequence[Any]) -> Callable[[str], Any]:
    """Return the function that reads a word as a value of one of some types."""

    def read(word: str) -> Any:
        for member in members:
            try:
                return _TYPES[member][0](word)
            except (ValueError, TypeError, KeyError):
                pass
        raise argparse.ArgumentTypeError(f"{word!r}, expected {expected(members)}")

    return read


def _path(word: str) -> Path:
    if not word:  # such as an unset variable of the shell; a Path would be `.`
        raise ValueError
    return Path(word)


# Of each type: function that reads a word, name of the value in the help, and what is
# expected, for errors.
_TYPES: dict[Any, tuple[Callable[[str], Any], str, str]] = {
    str: (str, "TEXT", "a text"),
    int: (int, "N", "a whole number"),
    float: (float, "X", "a number"),
    Path: (_path, "PATH", "a path"),
    dict: (lambda word: dict(json.loads(word)), "JSON", "a JSON object"),
    type(None): ({"None": None, "none": None, "null": None}.__getitem__, "", "none"),
}
