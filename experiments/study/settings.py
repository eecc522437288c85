"""Settings of `ogs study`: pools, targets, methods and recipe, from a YAML file."""

import math
import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ogs_env.data.domains import PLANS
from ogs_env.errors import InputError, unknown_name
from ogs_env.experiments.settings import read_yaml
from ogs_env.experiments.study.methods import LARGER, LARGER_FACTOR, parse_method
from ogs_env.learners.fitted import EPOCHS, LAYERS
from ogs_env.lm.loading import DEFAULT_MODEL
from ogs_env.options import expected

PACKAGES = "medical-packages"
"""A domain of texts of installed packages, for machines without other texts."""
SHIPPED = Path(__file__).parent.parent / "configs" / "study"
OWN_FOLDERS = ("bundle", "trajectory", "agents", "selections")
"""Folders of a pool, next to which a target's sketches are in a folder of its name."""


@dataclass(frozen=True)
class StudySettings:
    """Settings of the study.

    Attributes:
        domains: Domains of real texts, or `medical-packages`.
        draws: Numbers of the pools of a domain; each is a pool of other samples, with
            selections and training seeds of its own.
        methods: Names of methods, most important first.
        proxy: Model that is sketched: a name, a folder, a GGUF file or a Hugging Face
            id.
        target: Model to fine-tune: a name, a folder, a GGUF file or a Hugging Face id.
        target_name: Name of the target in tables and of its folder of results: letters,
            digits, and `-`, `_` and `.` within.
        pool_size: Samples in a pool.
        share: Share of the pool that a method selects.
        test_size: Test samples of the domain.
        retention_size: Retention prompts of each capability.
        questions: Questions of the domain that have a checkable answer.
        generated: GSM8K answers that are generated before and after; a target's own.
        cosines: Samples on which the proxy's and the target's cosines are compared, if
            they are different models: of the first draw of each domain.
        layers: Decoder layers, from the last, that carry the adapter.
        epochs: Epochs of fine-tuning.
        batch: Samples per step.
        learning_rate: Peak learning rate; a target's own.
        train_steps: Steps of the environment in which a Navigator is trained.
    """

    domains: tuple[str, ...] = tuple(PLANS)
    draws: tuple[int, ...] = (1,)
    methods: tuple[str, ...] = ("random-0", "oracle")
    proxy: str = DEFAULT_MODEL
    target: str = DEFAULT_MODEL
    target_name: str = "SmolLM2-135M"
    pool_size: int = 640
    share: float = 0.1
    test_size: int = 128
    retention_size: int = 64
    questions: int = 96
    generated: int = 0
    cosines: int = 256
    layers: int = LAYERS
    epochs: int = EPOCHS
    batch: int = 8
    learning_rate: float = 1e-3
    train_steps: int = 600_000

    def __post_init__(self) -> None:
        for domain in self.domains:
            if domain not in (*PLANS, PACKAGES):
                raise unknown_name("domain", domain, [*PLANS, PACKAGES])
        for method in self.methods:
            parse_method(method)
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise InputError(
                    f"{name}: is {getattr(self, name)}; expected {least} or more"
                )
        if min(self.draws) < 0:
            raise InputError(f"draws: has {min(self.draws)}; expected 0 or more")
        if max(self.draws) > MOST_DRAW:
            raise InputError(
                f"draws: has {max(self.draws)}; expected at most {MOST_DRAW}"
            )
        if not 0 < self.share < 1:
            raise InputError(f"share: is {self.share}; expected a number from 0 to 1")
        if self.budget < 1:
            raise InputError(
                f"share: is {self.share}, which selects no sample of a pool of "
                f"{self.pool_size}; give a larger share"
            )
        larger = [name for name in self.methods if parse_method(name).kind == LARGER]
        if larger and LARGER_FACTOR * self.budget > self.pool_size:
            raise InputError(
                f"share: is {self.share}, of which {larger[0]} selects "
                f"{LARGER_FACTOR} times as much; give at most 1/{LARGER_FACTOR}"
            )
        if not 0 < self.learning_rate < math.inf:
            raise InputError(
                f"learning_rate: is {self.learning_rate}; expected a number above 0"
            )
        name = self.target_name
        if not re.fullmatch(r"\w([\w.-]*\w)?", name) or name in OWN_FOLDERS:
            raise InputError(
                f"target_name: is {name!r}; expected letters and digits, with -, _ and "
                f". within, and none of {', '.join(OWN_FOLDERS)}"
            )

    @property
    def budget(self) -> int:
        """Number of samples that a method selects."""
        return round(self.share * self.pool_size)


MOST_DRAW = 2**31 - 1
_LEAST = {
    "pool_size": 64,
    "test_size": 2,
    "retention_size": 1,
    "questions": 1,
    "generated": 0,
    "cosines": 2,
    "layers": 1,
    "epochs": 1,
    "batch": 1,
    "train_steps": 1,
}


def read_settings(name: str) -> StudySettings:
    """Return the settings of a YAML file, or of a shipped one by its name.

    Raises:
        InputError: If the file is missing or wrong.
    """
    path, values = read_yaml("study", name, SHIPPED)
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected settings, as in `draws: [1, 2]`")
    fields = typing.get_type_hints(StudySettings)
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise unknown_name(f"setting (in {path})", str(key), fields)
        checked[key] = _checked(value, fields[key], f"{path}: {key}")
    target = checked.get("target", DEFAULT_MODEL)
    if target != DEFAULT_MODEL and "target_name" not in checked:
        raise InputError(f"{path}: target_name: is missing; name the target '{target}'")
    try:
        return StudySettings(**checked)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _checked(value: Any, annotation: Any, place: str) -> Any:
    """Return a value of the annotated type, with lists as tuples."""
    if typing.get_origin(annotation) is tuple:
        member = typing.get_args(annotation)[0]
        if not isinstance(value, list) or not value:
            raise InputError(f"{place}: is {value!r}; expected a list")
        return tuple(_checked(item, member, place) for item in value)
    if annotation is float and type(value) is int:
        return float(value)
    if type(value) is not annotation:
        raise InputError(f"{place}: is {value!r}; expected {expected([annotation])}")
    return value
