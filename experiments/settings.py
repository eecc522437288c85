"""Training settings from YAML files and from command-line options.

The setting `algorithm` chooses `TrainSettings` or `ImitationSettings`.
"""

import dataclasses
import typing
from collections.abc import Mapping
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
from ogs_env.options import expected, option_name, types_of

CONFIGS = Path(__file__).parent / "configs"
_TYPES = {
    **typing.get_type_hints(ImitationSettings),
    **typing.get_type_hints(TrainSettings),
}


def read_settings(
    config: str | None, bundle: str | None, options: Mapping[str, Any]
) -> Settings:
    """Return the settings of a config and of options, which override it.

    If `steps` are set and `seconds` are not, there is no limit of time, so that the
    run is repeatable.

    Args:
        config: A YAML file, or the name of a shipped one.
        bundle: A bundle's name or folder, for the environment `OGS-Custom-v0` unless
            the settings have another one.
        options: Settings by name.

    Raises:
        InputError: For a file that is missing or wrong, a value of a wrong type or out
            of range, or a setting that the algorithm does not use.
    """
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    if config is not None:
        path, values = read_yaml("config", config, CONFIGS)
        _check_values(path, values)
        places = {name: f"{path}: {name}" for name in values}
    values |= options
    places |= {name: option_name(name) for name in options}
    settings_class = _settings_class(values, places)
    if bundle is not None:
        values.setdefault("env", "OGS-Custom-v0")
        values["env_kwargs"] = {**values.get("env_kwargs", {}), "bundle": bundle}
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


def shipped_names(folder: Path) -> list[str]:
    """Return the names of the YAML files in a folder."""
    return sorted(file.stem for file in folder.glob("*.yaml"))


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
    except OSError as error:
        if path.suffix or path.exists():
            raise InputError(
                f"{path}: cannot be read ({error.strerror}); expected a YAML file"
            ) from None
        raise unknown_name(kind, name, shipped_names(shipped)) from None
    # ValueError: not UTF-8, or a number of too many digits.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no YAML file ({error})") from None


def _check_values(path: Path, values: Any) -> None:
    """Check names and types of a config's settings."""
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected settings, as in `learning_rate: 0.001`")
    for name, value in values.items():
        if name not in _TYPES:
            raise unknown_name(f"setting (in {path})", str(name), _TYPES)
        _check(name, value, f"{path}: {name}")


def _check(name: str, value: Any, place: str) -> None:
    """Raise an error that names the place if a value has a wrong type."""
    types = types_of(_TYPES[name])
    fits = any(
        isinstance(value, type_) or (type_ is float and isinstance(value, int))
        for type_ in types
    )
    if isinstance(value, bool) or not fits:
        raise InputError(f"{place}: {value!r}, expected {expected(types)}")
