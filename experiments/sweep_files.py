"""Sweep files of Weights & Biases: read, checked, and what an agent makes of them."""

import functools
import importlib.util
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from ogs_env.errors import InputError, unknown_name

SWEEPS = Path(__file__).parent / "configs" / "sweeps"
# W&B's schema, in its package. That asks for numpy below 2, so it comes without what it
# stands on, and no more than this file of it is read.
_PACKAGE, _SCHEMA = "sweeps", "config/schema.json"
METHODS = ("grid", "random", "bayes")


@dataclass(frozen=True)
class Sweep:
    """A sweep file.

    Attributes:
        path: The file.
        config: What it holds.
        method: `"grid"`, `"random"` or `"bayes"`.
        metric: The name of the metric.
        maximise: Whether more of it is better.
        space: What each parameter is drawn from, in the file's order.
    """

    path: Path
    config: dict[str, Any]
    method: str
    metric: str
    maximise: bool
    space: dict[str, BaseDistribution]

    @property
    def grid(self) -> list[dict[str, Any]]:
        """Every point of a grid, in W&B's order: the last parameter changes first."""
        columns = [_values(self.path, *item) for item in self.space.items()]
        return [
            dict(zip(self.space, point, strict=True))
            for point in itertools.product(*columns)
        ]

    def command(self, parameters: Mapping[str, Any]) -> list[str]:
        """Return the words that `wandb agent` runs for sampled parameters.

        Raises:
            InputError: For a macro that is not known here.
        """
        macros = {
            "${env}": ["/usr/bin/env"],
            "${interpreter}": ["python"],
            "${program}": [self.config.get("program", "")],
            "${args}": [f"--{name}={value}" for name, value in parameters.items()],
        }
        words: list[str] = []
        for word in map(str, self.config.get("command", macros)):
            if word.startswith("${") and word not in macros:
                raise InputError(
                    f"{self.path}: command has {word}; expected {', '.join(macros)}"
                )
            words += macros.get(word, [word])
        return words

    def train_options(self, parameters: Mapping[str, Any]) -> list[str]:
        """Return the options that `wandb agent` gives to `ogs train`.

        Raises:
            InputError: If the command does not run `ogs train`.
        """
        words = self.command(parameters)
        if "train" not in words:
            raise InputError(
                f"{self.path}: command is {' '.join(words)!r}; expected one that runs "
                "`ogs train`, as the shipped sweeps do"
            )
        return words[words.index("train") + 1 :]


def read_sweep(name: str) -> Sweep:
    """Read a sweep file.

    Args:
        name: A file, or a shipped sweep's name.

    Raises:
        InputError: If the file is missing, breaks W&B's own schema, or asks for what
            cannot be done here.
    """
    path = Path(name)
    if not path.exists() and (SWEEPS / f"{name}.yaml").exists():
        path = SWEEPS / f"{name}.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        known = [file.stem for file in SWEEPS.glob("*.yaml")]
        raise unknown_name("sweep", name, known) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no YAML file ({error})") from None
    for problem in schema_violations(config):
        raise InputError(f"{path}: W&B would not take it: {problem}")
    if config["method"] not in METHODS:
        raise unknown_name(f"method (in {path})", config["method"], METHODS)
    metric = config.get("metric")
    if metric is None:
        raise InputError(f"{path}: lacks `metric`, with a name and a goal")
    parameters = config.get("parameters")
    if not parameters:
        raise InputError(f"{path}: lacks `parameters`, what the sweep is over")
    return Sweep(
        path=path,
        config=config,
        method=config["method"],
        metric=metric["name"],
        maximise=metric.get("goal") == "maximize",
        space={
            name: _distribution(f"{path}: {name}", spec)
            for name, spec in parameters.items()
        },
    )


def schema_violations(config: Any) -> Iterable[str]:
    """Yield how a sweep's config breaks W&B's own JSON schema, a line each."""
    for error in _validator().iter_errors(config):
        where = ".".join(map(str, error.absolute_path)) or "the file"
        # The schema's texts are whole sentences, or else repeat all of a long list.
        if error.validator == "anyOf":
            yield f"{where}: {json.dumps(error.instance)} is none of the forms it knows"
        else:
            yield f"{where}: {error.message}"


@functools.cache
def _validator() -> Any:
    import jsonschema

    # Formats that W&B's schema uses, as its package checks them.
    formats = jsonschema.FormatChecker(())
    formats.checks("float")(lambda value: isinstance(value, float))
    formats.checks("integer")(lambda value: isinstance(value, int))
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise InputError(
            f"W&B's schema of sweep files is in the package {_PACKAGE}, which is not "
            f"installed; run `pip install --no-deps {_PACKAGE}`"
        )
    file = Path(package.submodule_search_locations[0]) / _SCHEMA
    schema = json.loads(file.read_text(encoding="utf-8"))
    return jsonschema.Draft7Validator(schema, format_checker=formats)


def _distribution(where: str, spec: Mapping[str, Any]) -> BaseDistribution:
    """Return what a parameter is drawn from, W&B's meaning in Optuna's words."""
    if "value" in spec:
        return _categorical(where, [spec["value"]])
    if "values" in spec and "probabilities" not in spec:
        return _categorical(where, spec["values"])
    low, high = spec.get("min"), spec.get("max")
    if low is None or high is None:
        kind = spec.get("distribution", "nested parameters or probabilities")
        raise InputError(
            f"{where}: {kind}; expected value, values, int_uniform, uniform, "
            "q_uniform or log_uniform_values (settings inside env_kwargs as values "
            "that are JSON texts)"
        )
    if not low < high:
        raise InputError(f"{where}: min {low} is not below max {high}")
    whole = isinstance(low, int) and isinstance(high, int)
    match spec.get("distribution", "int_uniform" if whole else "uniform"):
        case "int_uniform":
            return IntDistribution(low, high)
        case "uniform":
            return FloatDistribution(low, high)
        case "log_uniform_values" if low > 0:
            return FloatDistribution(low, high, log=True)
        case "q_uniform":
            step = spec.get("q", 1)
            if whole and isinstance(step, int):
                return IntDistribution(low, high, step=step)
            return FloatDistribution(low, high, step=step)
        case kind:
            raise InputError(
                f"{where}: distribution {kind} from {low} to {high}; expected "
                "int_uniform, uniform, q_uniform, or log_uniform_values above 0"
            )


def _categorical(where: str, values: list[Any]) -> CategoricalDistribution:
    for value in values:
        if isinstance(value, list | dict):
            raise InputError(
                f"{where}: {value!r}; expected numbers or texts (a setting such as "
                "env_kwargs as a JSON text)"
            )
    return CategoricalDistribution(values)


def _values(path: Path, name: str, distribution: BaseDistribution) -> list[Any]:
    """Return the values of a parameter of a grid."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution):
        stop = distribution.high + 1
        return list(range(distribution.low, stop, distribution.step))
    if isinstance(distribution, FloatDistribution) and distribution.step:
        span = distribution.high - distribution.low
        count = round(span / distribution.step) + 1
        return [distribution.low + n * distribution.step for n in range(count)]
    raise InputError(f"{path}: {name}: a grid needs values, int_uniform or q_uniform")
