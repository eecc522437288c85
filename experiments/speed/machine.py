"""The machine that speed and memory are measured on."""

import gc
import importlib.metadata
import multiprocessing
import platform
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_PACKAGES = ("ogs-env", "gymnasium", "numpy", "torch", "transformers", "peft")


def machine() -> dict[str, Any]:
    """Describe processor, graphics card and versions, as far as they are there."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        **_card(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **versions,
    }


def clock(threads: int) -> Callable[[], float]:
    """Return a function that returns the time in seconds.

    On one thread it is the processor's time, which other processes change less; with
    a graphics card or several threads it is the clock's, after the card has finished.
    """
    import torch

    if torch.cuda.is_available():

        def now() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()

        return now
    return time.process_time if threads == 1 else time.perf_counter


def in_fresh_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a new process: the peak memory of one only grows."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_quieten) as workers:
        return workers.submit(function, *arguments).result()


def _quieten() -> None:
    # As in `ogs_env.cli`: such warnings of libraries are for developers.
    warnings.simplefilter("ignore", FutureWarning)


def peak_of(work: Callable[[], Any]) -> dict[str, float]:
    """Run work, and return peaks of memory in 10^6 bytes.

    Returns:
        `peak, MB`: of the graphics card, if there is one, else of the process, which
        has to be a fresh one; `before, MB`: what was held before the work, of which
        the model is the largest part.
    """
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    else:
        before = peak_memory()
        work()
        peak = peak_memory()
    return {"peak, MB": round(peak / 1e6), "before, MB": round(before / 1e6)}


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Unlike the system call's figure, without that of the parent process.
        line = next(line for line in status.open() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _processor() -> str:
    """Return the processor's name, as far as the system provides it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text("utf-8").splitlines() if file.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor()


def _card() -> dict[str, str]:
    try:
        import torch
    except ModuleNotFoundError:
        return {}
    if not torch.cuda.is_available():
        return {}
    return {"card": torch.cuda.get_device_name()}
