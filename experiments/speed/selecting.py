"""Selecting a tenth of large bundles: time, memory, and how both grow.

Each bundle has random initial sketches; it is written for the measurement, shard by
shard as `ogs sketch` does, and removed afterwards.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ogs_env.bundle import Bundle, load_bundle
from ogs_env.experiments.speed.comparison import (
    Comparison,
    Cost,
    Finding,
    rate_of,
    rounded,
)
from ogs_env.experiments.speed.machine import peak_memory
from ogs_env.experiments.speed.random_bundle import (
    write_random_bundle,
    write_untrained_navigator,
)
from ogs_env.experiments.speed.settings import Settings

SMALL, QUICK, LARGE = 10_000, 100_000, 1_000_000
"""Samples of the pools; a million take 1.1 GB of disk meanwhile."""
NAVIGATOR = "navigator"
SELECTORS = ("random", "greedy", "less", "grad-match", NAVIGATOR)
"""Names of baselines, and an untrained Navigator."""
SHARE = 0.1
"""Share of the pool that is selected."""


def findings(settings: Settings) -> Iterator[Finding]:
    """Yield what selecting costs, and how the rate changes with the size of the pool.

    Costs are seconds of the processor to open the bundle for the first time, to open
    it again and to select, and the peak memory of the latter two; each selector runs in
    a process of its own.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_untrained_navigator(folder / NAVIGATOR)
        sizes = SMALL, QUICK if settings.quick else LARGE
        for rows in sizes:
            write_random_bundle(folder / f"{rows}", rows)
        for rows in sizes:
            yield from _costs(folder, rows)
        for selector in SELECTORS:
            yield _growth(folder, selector, *sizes)


def _costs(folder: Path, rows: int) -> Iterator[Cost]:
    bundle = folder / f"{rows}"
    first = _measured(folder, bundle, "random")["open, s"]
    for selector in SELECTORS:
        values = {"open first, s": first, **_measured(folder, bundle, selector)}
        yield Cost(f"{selector}, {rows:,} samples", values)


def _growth(folder: Path, selector: str, small: int, large: int) -> Comparison:
    """Compare samples a second in a large pool with those in a small one."""
    name = f"{selector}, pool of {large:,} / {small:,}"
    select = [_selecting(folder, selector, rows) for rows in (large, small)]
    ours, theirs = (rate_of(run, time.process_time) for run in select)
    return Comparison(name, ours, theirs, "samples")


def _selecting(folder: Path, selector: str, rows: int) -> Callable[[], float]:
    """Return what selects from a pool, and counts the samples of the pool."""
    from ogs_env.agents.deployment import load_selector

    bundle = load_bundle(folder / f"{rows}")
    agent = load_selector(_where(folder, selector))

    def run() -> float:
        agent.select(bundle, _budget(bundle), np.random.default_rng(0))
        return rows

    return run


def _where(folder: Path, selector: str) -> str:
    return str(folder / NAVIGATOR) if selector == NAVIGATOR else selector


def _budget(bundle: Bundle) -> int:
    return round(SHARE * len(bundle.pool))


def _measured(folder: Path, bundle: Path, selector: str) -> dict[str, float]:
    """Run `_measure` in a fresh process."""
    return json.loads(
        subprocess.run(
            [sys.executable, "-m", __name__, str(bundle), _where(folder, selector)],
            env={
                **os.environ,
                # What is remembered of the bundle is removed with it.
                "OGS_CACHE": str(folder / "cache"),
                # A thread that waits for others takes processor time, too.
                "OMP_NUM_THREADS": "1",
            },
            check=True,
            stdout=subprocess.PIPE,
        ).stdout
    )


def _measure(bundle_folder: str, name_or_folder: str) -> dict[str, float]:
    """Return the figures of a cost that this process measures itself."""
    from ogs_env.agents.deployment import load_selector

    selector = load_selector(name_or_folder)
    begin = time.process_time()
    bundle = load_bundle(bundle_folder)
    opened = time.process_time()
    selector.select(bundle, _budget(bundle), np.random.default_rng(0))
    selected = time.process_time()
    return {
        "open, s": rounded(opened - begin),
        "select, s": rounded(selected - opened),
        "peak, MB": round(peak_memory() / 1e6),
    }


if __name__ == "__main__":  # in a process of `_measured`
    print(json.dumps(_measure(*sys.argv[1:])))
