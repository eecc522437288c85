"""Training settings from YAML files and from options, one for each field.

`ogs train --config FILE --learning-rate=0.002` is what a W&B agent runs, with
`learning_rate` spelled as in `TrainSettings` or with hyphens.
"""

import argparse
import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

import yaml

from ogs_env.agents.training import TrainSettings
from ogs_env.errors import InputError, unknown_name

CONFIGS = Path(__file__).parent / "configs"
_FIELDS = {field.name: field for field in dataclasses.fields(TrainSettings)}
_TYPES = typing.get_type_hints(TrainSettings)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add `--config`, `--bundle` and an option for every field."""
    shipped = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.yaml")))
    parser.add_argument(
        "--config", help=f"a YAML file of settings, or one of {shipped}"
    )
    parser.add_argument("--bundle", help="shipped bundle's name, or a bundle's folder")
    group = parser.add_argument_group(
        "settings", "instead of those of the config; `TrainSettings` explains them"
    )
    for name, field in _FIELDS.items():
        names = {f"--{name.replace('_', '-')}", f"--{name}"}
        default = {} if name == "env_kwargs" else field.default
        group.add_argument(
            *sorted(names), dest=name, metavar="X", help=f"default {default}"
        )


def read_settings(arguments: argparse.Namespace) -> TrainSettings:
    """Return the settings that options ask for, on top of those of a config.

    With `--steps` and no seconds a run has no limit of time, so it is repeatable.

    Raises:
        InputError: For a file that is missing or wrong, or a value that does not fit.
    """
    values = {} if arguments.config is None else _read(arguments.config)
    given = {
        name: _parsed(name, getattr(arguments, name))
        for name in _FIELDS
        if getattr(arguments, name) is not None
    }
    values.update(given)
    if arguments.bundle is not None:
        values.setdefault("env", "OGS-Custom-v0")
        values["env_kwargs"] = {
            **values.get("env_kwargs", {}),
            "bundle": arguments.bundle,
        }
    if "steps" in values and "seconds" not in values:
        values["seconds"] = None
    return TrainSettings(**values)


def _read(name: str) -> dict[str, Any]:
    path = Path(name)
    if not path.exists() and (CONFIGS / f"{name}.yaml").exists():
        path = CONFIGS / f"{name}.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        known = [file.stem for file in CONFIGS.glob("*.yaml")]
        raise unknown_name("config", name, known) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no YAML file ({error})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected settings, as in `learning_rate: 0.001`")
    for key, value in values.items():
        if key not in _FIELDS:
            raise unknown_name(f"setting (in {path})", str(key), _FIELDS)
        _check(str(key), value, f"{path}: {key}")
    return values


def _parsed(name: str, text: Any) -> Any:
    if not isinstance(text, str):  # a caller's own value
        return text
    if _TYPES[name] is str:
        return text
    try:
        value = json.loads({"None": "null", "none": "null"}.get(text, text))
    except json.JSONDecodeError:
        value = text
    _check(name, value, f"--{name.replace('_', '-')}")
    return value


def _check(name: str, value: Any, where: str) -> None:
    wanted = _TYPES[name]
    kinds = typing.get_args(wanted) or (wanted,)
    if typing.get_origin(wanted) is dict:
        kinds = (dict,)
    fits = any(
        isinstance(value, kind) or (kind is float and isinstance(value, int))
        for kind in kinds
    )
    if isinstance(value, bool) or not fits:
        names = {float: "a number", int: "a whole number", str: "a text", dict: "JSON"}
        expected = " or ".join(names.get(kind, "none") for kind in kinds)
        raise InputError(f"{where}: {value!r}, expected {expected}")
