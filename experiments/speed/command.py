"""The command `ogs speed`: measure speed in ratios, and memory."""

import dataclasses
import importlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ogs_env.errors import InputError, unknown_name
from ogs_env.experiments.speed.comparison import Comparison, Ratio, Remark, measure
from ogs_env.experiments.speed.machine import machine
from ogs_env.experiments.speed.report import (
    HEADING,
    line_of,
    read_results,
    summary,
)
from ogs_env.experiments.speed.settings import Settings
from ogs_env.files import check_writable, write_json

RESULT = Path(__file__).parents[1] / "results" / "speed.json"
PARTS = ("sketching", "peers", "selecting", "environments")
_SAMPLES = {"quick": 4, "full": 64}
# Shortest time of one side in a round.
_SECONDS = {"quick": 0.05, "full": 0.5}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `ogs speed`.

    Attributes:
        parts: What is measured, by default everything.
        quick: Measure less, about a minute for each part.
        threads: Threads of a pass over texts on a processor.
        model: The language model whose gradients are sketched, by default that of
            `ogs sketch`.
        samples: Texts in a pass, by default 64, with --quick 4.
        summary: Read the results, print one JSON line per ratio.
        result: Result file, in which other parts stay as they are; by default the
            repository's, and none with --quick.
    """

    parts: tuple[str, ...] = field(
        default=(), metadata={"positional": True, "known": PARTS}
    )
    quick: bool = False
    threads: int = 1
    model: str | None = None
    samples: int | None = None
    summary: bool = False
    result: Path | None = None

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in PARTS:
                raise unknown_name("part", part, PARTS)
        if self.summary and self.quick:
            raise InputError("--summary, --quick: each excludes the other; give one")
        if self.threads < 1:
            raise InputError(f"--threads: is {self.threads}; expected 1 or more")
        if self.samples is not None and (self.samples < 4 or self.samples % 4):
            raise InputError(f"--samples: is {self.samples}; expected a multiple of 4")


def run(options: Options) -> None:
    """Run `ogs speed`."""
    if options.summary:
        for line in summary(read_results(options.result or RESULT), options.parts):
            print(json.dumps(line))
        return
    file = options.result or (None if options.quick else RESULT)
    results = {}
    if file is not None:  # an error now, not after the measurement
        check_writable(file)
        results = read_results(file) if file.exists() else {}
    print(HEADING)
    for part in options.parts or PARTS:
        results[part] = _measured(part, options)
        if file is not None:
            write_json(file, results)
    if file is not None:
        print(f"ogs speed: {file}", file=sys.stderr)


def _measured(part: str, options: Options) -> dict[str, Any]:
    """Measure a part, and print its table line by line."""
    how = "quick" if options.quick else "full"
    module = importlib.import_module(f"ogs_env.experiments.speed.{part}")
    settings = Settings(
        options.quick,
        options.threads,
        options.model,
        options.samples or _SAMPLES[how],
    )
    found: dict[str, list[Any]] = {"ratios": [], "costs": [], "remarks": []}
    for finding in module.findings(settings):
        result = finding
        if isinstance(finding, Comparison):
            result = measure(finding, _SECONDS[how])
        print(line_of(part, result), flush=True)
        if isinstance(result, Remark):
            found["remarks"].append(result.text)
        else:
            kind = "ratios" if isinstance(result, Ratio) else "costs"
            found[kind].append(dataclasses.asdict(result))
    return {"machine": machine(), **dataclasses.asdict(settings), **found}
