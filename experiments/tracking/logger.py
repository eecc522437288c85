"""The loggers' interface, and the option that chooses one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NONE, TENSORBOARD, WANDB = "none", "tensorboard", "wandb"
LOGGERS = (NONE, TENSORBOARD, WANDB)
STEP = "global_step"
"""Name of the steps that numbers are logged at."""


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """Options of logging.

    Attributes:
        report_to: Where to log: wandb (Weights & Biases), tensorboard or none.
    """

    report_to: str = field(default=NONE, metadata={"choices": LOGGERS})


class Logger:
    """Where a command logs; this base class logs nothing.

    Attributes:
        enabled: Whether anything is logged, so that its numbers are worth computing.
    """

    enabled = False

    def config(self, values: Mapping[str, Any]) -> None:
        """Log settings, in addition to those that the logger was opened with."""

    def numbers(self, values: Mapping[str, float], step: int, axis: str = STEP) -> None:
        """Log one point of each curve.

        Args:
            values: By name; a `/` ends the name of a group of curves.
            step: Place on the horizontal axis.
            axis: Name of that axis.
        """

    def table(
        self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        """Log a table."""

    def images(self, name: str, images: Mapping[str, NDArray[np.uint8]]) -> None:
        """Log pictures, uint8 (height, width, 3), by caption."""

    def page(self, name: str, file: Path) -> None:
        """Log a page of HTML."""

    def agent(self, files: Sequence[Path], description: Mapping[str, Any]) -> None:
        """Log the files of the trained agent, with its description."""
