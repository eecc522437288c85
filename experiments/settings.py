"""Training settings from YAML files and from command-line options.

There is an option for each field of `TrainSettings` and `ImitationSettings`, spelled
with hyphens or, as W&B agents do, with underscores (`--learning_rate=0.002`). The
setting `algorithm` chooses which of the two classes is read.
"""

import argparse
import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

import yaml

from ogs_env.agents.settings import (
    ALGORITHMS,
    ImitationSettings,
    Settings,
    TrainSettings,
)
from ogs_env.errors import InputError, unknown_name

CONFIGS = Path(__file__).parent / "configs"
# Those of `TrainSettings` are last, so that their defaults are the ones of the options.
_FIELDS = {
    field.name: field
    for settings_class in (ImitationSettings, TrainSettings)
    for field in dataclasses.fields(settings_class)
}
_TYPES = {
    **typing.get_type_hints(ImitationSettings),
    **typing.get_type_hints(TrainSettings),
}


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add `--config`, `--bundle` and an option for every field to a parser."""
    shipped = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.yaml")))
    parser.add_argument(
        "--config", help=f"a YAML file of settings, or one of {shipped}"
    )
    parser.add_argument("--bundle", help="name of a shipped bundle, or a folder")
    group = parser.add_argument_group(
        "settings",
        "these override the config; `TrainSettings` and `ImitationSettings` describe "
        "them",
    )
    for name, field in _FIELDS.items():
        names = {_option(name), f"--{name}"}
        default = {} if name == "env_kwargs" else field.default
        group.add_argument(
            *sorted(names), dest=name, metavar="X", help=f"default {default}"
        )


def read_settings(arguments: argparse.Namespace) -> Settings:
    """Return the settings of a config and of options, which override it.

    If `steps` are set and `seconds` are not, there is no limit of time, so that the
    run is repeatable.

    Raises:
        InputError: For a file that is missing or wrong, a value of a wrong type or out
            of range, or a setting that the algorithm does not use.
    """
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    if arguments.config is not None:
        path, values = read_yaml("config", arguments.config, CONFIGS)
        _check_values(path, values)
        places = {name: f"{path}: {name}" for name in values}
    for name in _FIELDS:
        option = getattr(arguments, name)
        if option is not None:
            values[name] = _parsed(name, option)
            places[name] = _option(name)
    settings_class = _settings_class(values, places)
    if arguments.bundle is not None:
        values.setdefault("env", "OGS-Custom-v0")
        values["env_kwargs"] = {
            **values.get("env_kwargs", {}),
            "bundle": arguments.bundle,
        }
    if "steps" in values and "seconds" not in values:
        values["seconds"] = None
    return settings_class(**values)


def _settings_class(values: dict[str, Any], places: dict[str, str]) -> type[Settings]:
    """Return the class for the algorithm; check that it has all settings.

    Args:
        values: Settings by name.
        places: File and key or option of each setting, for errors.
    """
    algorithm = values.get("algorithm", TrainSettings.algorithm)
    if algorithm not in ALGORITHMS:
        raise unknown_name("algorithm", algorithm, ALGORITHMS)
    for name in values:
        users = [key for key, own in ALGORITHMS.items() if name in _names(own)]
        if algorithm not in users:
            raise InputError(
                f"{places[name]}: algorithm '{algorithm}' does not use it; remove it, "
                f"or set the algorithm to {' or '.join(users)}"
            )
    return ALGORITHMS[algorithm]


def _names(settings_class: type[Settings]) -> list[str]:
    return [field.name for field in dataclasses.fields(settings_class)]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def read_yaml(kind: str, name: str, shipped: Path) -> tuple[Path, Any]:
    """Read a YAML file, by its path or the name of a shipped one.

    Args:
        kind: What the file is, for the error of an unknown name.
        name: Path of a file, or the stem of one in `shipped`.
        shipped: Folder of the shipped files.

    Returns:
        The file that was read, and its content.

    Raises:
        InputError: If there is no such file or it is no YAML.
    """
    path = Path(name)
    if not path.exists() and (shipped / f"{name}.yaml").exists():
        path = shipped / f"{name}.yaml"
    try:
        return path, yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        known = [file.stem for file in shipped.glob("*.yaml")]
        raise unknown_name(kind, name, known) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no YAML file ({error})") from None


def _check_values(path: Path, values: Any) -> None:
    """Check names and types of a config's settings."""
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected settings, as in `learning_rate: 0.001`")
    for name, value in values.items():
        if name not in _FIELDS:
            raise unknown_name(f"setting (in {path})", str(name), _FIELDS)
        _check(name, value, f"{path}: {name}")


def _parsed(name: str, option: Any) -> Any:
    """Return the value of an option; one that is no text is returned unchanged."""
    if not isinstance(option, str) or _TYPES[name] is str:
        return option
    try:
        value = json.loads({"None": "null", "none": "null"}.get(option, option))
    except json.JSONDecodeError:
        value = option
    _check(name, value, _option(name))
    return value


def _check(name: str, value: Any, place: str) -> None:
    """Raise an error that names the place if a value has a wrong type."""
    annotation = _TYPES[name]
    types = typing.get_args(annotation) or (annotation,)
    if typing.get_origin(annotation) is dict:
        types = (dict,)
    fits = any(
        isinstance(value, type_) or (type_ is float and isinstance(value, int))
        for type_ in types
    )
    if isinstance(value, bool) or not fits:
        names = {float: "a number", int: "a whole number", str: "a text", dict: "JSON"}
        expected = " or ".join(names.get(type_, "none") for type_ in types)
        raise InputError(f"{place}: {value!r}, expected {expected}")
