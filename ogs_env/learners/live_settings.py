"""The settings of the live learner."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ogs_env.errors import InputError, unknown_name


@dataclass(frozen=True)
class LiveSettings:
    """Settings of the live learner.

    Attributes:
        model: Hugging Face causal LM id or folder; by default the bundle's proxy.
            Gradients of another model are not in the space of the bundle's basis.
        texts: Source of the bundle's texts: the name of a domain, which is built with
            the bundle's seed and pool size, or paths of JSON lines files. By default
            the domain of the bundle's name.
        layers: Number of last decoder layers with an adapter; by default the bundle's.
        batch: Samples of an optimizer step.
        learning_rate: Learning rate from the third step on; the first two have a third
            and two thirds of it.
        evaluate_every: Picks between two measurements of the dev and anchor losses.
        evaluation_samples: Maximum number of samples in a measurement: of dev, test and
            retention, and for each capability of anchor and own answers. They are
            evenly spread over the bundle's samples.

    Raises:
        InputError: If a value is invalid.
    """

    model: str | None = None
    texts: str | Sequence[str] | None = None
    layers: int | None = None
    batch: int = 4
    learning_rate: float = 1e-3
    evaluate_every: int = 8
    evaluation_samples: int = 32

    def __post_init__(self) -> None:
        for name in ("layers", "batch", "evaluate_every", "evaluation_samples"):
            count = getattr(self, name)
            if count is None and name == "layers":
                continue
            is_whole = isinstance(count, int) and not isinstance(count, bool)
            if not is_whole or count < 1:
                raise InputError(
                    f"live: {name} is {count!r}; expected a whole number from 1 on"
                )
        rate = self.learning_rate
        if not isinstance(rate, int | float) or not 0 < rate < math.inf:
            raise InputError(
                f"live: learning_rate is {rate!r}; expected a number above 0"
            )
        if not isinstance(self.model, str | None):
            raise InputError(
                f"live: model is {self.model!r}; expected a model id or folder"
            )
        are_files = isinstance(self.texts, list | tuple) and all(
            isinstance(path, str) for path in self.texts
        )
        if not isinstance(self.texts, str | None) and not (are_files and self.texts):
            raise InputError(
                f"live: texts is {self.texts!r}; expected the name of a domain or a "
                "list of JSON lines files"
            )

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> "LiveSettings":
        """Return settings from a mapping of names to values; others have defaults."""
        names = [field.name for field in dataclasses.fields(cls)]
        for name in given or {}:
            if name not in names:
                raise unknown_name("live setting", name, names)
        return cls(**(given or {}))
