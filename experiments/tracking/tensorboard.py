"""Log to TensorBoard's event files."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from ogs_env.experiments.tracking.logger import STEP, TENSORBOARD, Logger
from ogs_env.files import writing


class TensorboardLogger(Logger):
    """Logs to a new folder in a folder `tensorboard`, named by the time.

    Settings and tables are texts; pages and agents are left out.

    Args:
        folder: The outputs' folder.
    """

    enabled = True

    def __init__(self, folder: Path) -> None:
        place = folder / TENSORBOARD / time.strftime("%Y-%m-%d_%H-%M-%S")
        with writing(place):
            self._writer = SummaryWriter(str(place))

    def config(self, values: Mapping[str, Any]) -> None:
        """Write settings as a table."""
        rows = [[name, json.dumps(value)] for name, value in values.items()]
        self._text("config", ["setting", "value"], rows)

    def numbers(self, values: Mapping[str, float], step: int, axis: str = STEP) -> None:
        """Write scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def table(
        self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        """Write a table as Markdown."""
        self._text(name, columns, rows)

    def images(self, name: str, images: Mapping[str, NDArray[np.uint8]]) -> None:
        """Write pictures."""
        for caption, image in images.items():
            self._writer.add_image(f"{name}/{caption}", image, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _text(
        self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        """Write a table as Markdown."""
        lines = [columns, ["---"] * len(columns), *rows]
        text = "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
        self._writer.add_text(name, text)
        self._writer.flush()


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")
