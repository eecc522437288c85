"""Log to Weights & Biases."""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from numpy.typing import NDArray
from requests.utils import get_netrc_auth

from ogs_env.errors import InputError
from ogs_env.experiments.tracking.logger import STEP, Logger

PROJECT = "ogs_env"
"""The project, unless `WANDB_PROJECT` names another."""


class WandbLogger(Logger):
    """Logs to a run.

    Args:
        run: The run, just started.
    """

    enabled = True

    def __init__(self, run: wandb.Run) -> None:
        self._run = run
        self._axes: dict[str, str] = {}

    def config(self, values: Mapping[str, Any]) -> None:
        """Add to the run's config."""
        self._run.config.update(dict(values), allow_val_change=True)

    def numbers(self, values: Mapping[str, float], step: int, axis: str = STEP) -> None:
        """Log a row of the history."""
        for name in values:
            if name not in self._axes:
                self._axes[name] = axis
                self._run.define_metric(name, step_metric=axis)
        self._run.log({**values, axis: step})

    def table(
        self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        """Log a table."""
        table = wandb.Table(list(columns), [list(row) for row in rows])
        self._run.log({name: table})

    def images(self, name: str, images: Mapping[str, NDArray[np.uint8]]) -> None:
        """Log pictures."""
        pictures = [wandb.Image(image, caption=text) for text, image in images.items()]
        self._run.log({name: pictures})

    def page(self, name: str, file: Path) -> None:
        """Log a page as a panel."""
        self._run.log({name: wandb.Html(str(file), inject=False)})

    def agent(self, files: Sequence[Path], description: Mapping[str, Any]) -> None:
        """Log an artifact of the type model."""
        # W&B's server takes no NaN, such as the cost before an episode has ended.
        text = json.dumps(description)
        metadata = json.loads(text, parse_constant=lambda constant: None)
        artifact = wandb.Artifact(
            re.sub(r"[^\w.-]+", "-", f"{self._run.name} agent"),
            type="model",
            metadata=metadata,
        )
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)


@contextlib.contextmanager
def started(
    folder: Path,
    config: Mapping[str, Any],
    command: str,
    name: str,
    group: str | None,
) -> Iterator[wandb.Run]:
    """Start a run, and finish it also after an error.

    `WANDB_MODE=offline` logs without network access; `wandb sync` uploads the run
    later. `WANDB_PROJECT` and `WANDB_ENTITY` are supported.

    Args:
        folder: The outputs' folder; the log is in its folder `wandb`.
        config: The run's config.
        command: The run's job type.
        name: Name of the run.
        group: Name of a group of runs, or None for a single run.

    Raises:
        InputError: If no user is logged in, W&B cannot be reached, or one of its
            environment variables is wrong.
    """
    # By default W&B sends its error reports over the network, offline too.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _check_login()
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            group=group,
            job_type=command,
            dir=str(folder),
            config=dict(config),
            settings=wandb.Settings(console="off"),
        )
    except wandb.errors.CommError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"--report-to wandb: {reason}; WANDB_MODE=offline logs without network"
        ) from error
    except (wandb.Error, ValueError) as error:  # such as a wrong WANDB_PROJECT
        reason = str(error).partition("For further information")[0]
        line = " ".join(reason.split())
        raise InputError(f"--report-to wandb: {line}") from error
    with run:
        yield run


def _check_login() -> None:
    """Check that a user is logged in, if the run is to be online.

    Raises:
        InputError: If none is.
    """
    settings = wandb.setup().settings
    known = settings.api_key or settings.identity_token_file
    if settings.mode == "online" and not (known or get_netrc_auth(settings.base_url)):
        raise InputError(
            "--report-to wandb: no user is logged in; run `wandb login`, or set "
            "WANDB_MODE=offline to log without network"
        )
