"""Processes of `ogs` that share one import of torch and transformers."""

import os
import sys
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from ogs_env.cli import main

_CONTEXT = get_context("forkserver")
# What `ogs sketch` imports: about five seconds, once rather than in every process.
_CONTEXT.set_forkserver_preload(
    [
        "ogs_env.sketching.sketcher",
        "peft",
        "transformers.models.auto.modeling_auto",
        "transformers.models.llama.modeling_llama",
    ]
)
ERRORS = "stderr.txt"
"""File in a process's folder that its stderr is written to."""


def _run(arguments: list[str], folder: Path) -> None:
    os.chdir(folder)
    sys.stdout = sys.stderr = open(ERRORS, "w", buffering=1)  # noqa: SIM115
    sys.argv = ["ogs", *arguments]
    sys.exit(main())


def start_ogs(arguments: list[str], folder: Path) -> ForkServerProcess:
    """Start a command of `ogs` in a folder."""
    process = _CONTEXT.Process(target=_run, args=(arguments, folder))
    process.start()
    return process
