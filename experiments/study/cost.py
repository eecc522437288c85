"""Time and memory of gradient surgery beside plain training."""

import dataclasses
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ogs_env.experiments.study.methods import SURGERY
from ogs_env.experiments.study.pools import pool_data
from ogs_env.experiments.study.settings import PACKAGES, StudySettings
from ogs_env.experiments.study.target import Target
from ogs_env.files import check_writable, write_json

PLAIN = "plain"
SAMPLES = 64


def measure_cost(settings: StudySettings, file: Path) -> dict[str, Any]:
    """Train with each method in a process of its own, on texts of packages.

    Args:
        settings: Target and recipe; an epoch on 64 samples is trained.
        file: JSON file of the result.

    Returns:
        By method and `plain`: `seconds`, CPU seconds of a step; `seconds_ratio`, over
        that of plain training; `memory`, peak resident memory of the process in MB, of
        which the model and its texts are a part; and `memory_ratio`.
    """
    check_writable(file)
    small = dataclasses.replace(
        settings, epochs=1, pool_size=SAMPLES, test_size=2, retention_size=1
    )
    # A process's peak memory only grows, so each method has a process of its own.
    context = multiprocessing.get_context("spawn")
    measured: dict[str, Any] = {}
    for method in (PLAIN, *SURGERY):
        with ProcessPoolExecutor(1, mp_context=context) as workers:
            seconds, memory = workers.submit(_train, small, method).result()
        plain = measured.get(PLAIN, {"seconds": seconds, "memory": memory})
        measured[method] = {
            "seconds": round(seconds, 3),
            "seconds_ratio": round(seconds / plain["seconds"], 2),
            "memory": round(memory),
            "memory_ratio": round(memory / plain["memory"], 2),
        }
    write_json(file, measured)
    return measured


def _train(settings: StudySettings, method: str) -> tuple[float, float]:
    """Return CPU seconds of a step and the peak memory in MB."""
    torch.set_num_threads(1)
    data = pool_data(PACKAGES, 0, settings)
    with tempfile.TemporaryDirectory() as folder:
        target = Target(settings, data, Path(folder))
    rows = list(range(SAMPLES))
    begin = time.process_time()
    target.train(rows, 0, None if method == PLAIN else method)
    steps = -(-len(rows) // settings.batch)
    seconds = (time.process_time() - begin) / steps
    # Kilobytes on Linux.
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
