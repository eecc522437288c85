"""Open the logger that a command's options choose."""

import contextlib
import importlib.metadata
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ogs_env.bundle import Bundle
from ogs_env.bundle_files import MANIFEST
from ogs_env.experiments.tracking.logger import TENSORBOARD, WANDB, Logger
from ogs_env.files import sha256_of


def identity(bundle: Bundle) -> dict[str, str]:
    """Return what names a bundle in the logged settings."""
    manifest = sha256_of(bundle.path / MANIFEST)
    return {"bundle_name": bundle.name, "bundle_sha256": manifest}


def run_name(folder: Path) -> str:
    """Return the name of a folder, also of `.`; links on the way are not followed."""
    return os.path.basename(os.path.abspath(folder))


@contextlib.contextmanager
def opened(
    report_to: str,
    folder: Path,
    config: Mapping[str, Any],
    *,
    command: str,
    group: str | None = None,
    name: str | None = None,
) -> Iterator[Logger]:
    """Open a logger, and close it also after an error.

    Args:
        report_to: One of `LOGGERS`.
        folder: The outputs' folder; the log is in its folder `wandb` or `tensorboard`.
        config: Settings, by the names that a user gives.
        command: The command's name.
        group: Name of a group of runs, or None for a single run.
        name: Name of the run; by default the folder's.

    Raises:
        InputError: If W&B cannot be used: no login, no network or a wrong setting.
    """
    # The packages are imported only where they are used.
    version = importlib.metadata.version("ogs-env")
    # Paths as texts, tuples as lists.
    config = json.loads(json.dumps({**config, "ogs_env_version": version}, default=str))
    if report_to == WANDB:
        from ogs_env.experiments.tracking.weights_and_biases import WandbLogger, started

        shown = name or run_name(folder)
        with started(folder, config, command, shown, group) as run:
            yield WandbLogger(run)
    elif report_to == TENSORBOARD:
        from ogs_env.experiments.tracking.tensorboard import TensorboardLogger

        with contextlib.closing(TensorboardLogger(folder)) as log:
            log.config(config)
            yield log
    else:
        yield Logger()
