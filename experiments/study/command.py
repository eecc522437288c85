"""The command `ogs study`: real fine-tuning by many methods on new pools."""

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ogs_env.errors import InputError
from ogs_env.experiments.tracking.logger import NONE, Logger, LogOptions
from ogs_env.experiments.tracking.opening import opened, run_name
from ogs_env.files import read_object

STUDY = "study"
RESULTS = Path(__file__).parent.parent / "results" / STUDY


@dataclass(frozen=True)
class Options(LogOptions):
    """Options of `ogs study`.

    Attributes:
        config: A YAML file of settings, or a shipped one: study or quick.
        quick: The shipped settings quick: a small version on texts of packages.
        summary: Print one JSON line for each domain, target and method.
        cost: Measure time and memory of a step with gradient surgery.
        report: Write the table and the picture of the results.
        out: Folder of pools and results; by default study, and for --summary and
            --report the results of the repository.
    """

    config: str = field(
        default=STUDY, metadata={"positional": True, "metavar": "CONFIG"}
    )
    quick: bool = False
    summary: bool = False
    cost: bool = False
    report: bool = False
    out: Path | None = field(default=None, metadata={"metavar": "FOLDER"})

    def __post_init__(self) -> None:
        if self.quick + self.summary + self.cost + self.report > 1:
            raise InputError("--quick, --summary, --cost, --report: give one of them")
        if (self.quick or self.summary or self.report) and self.config != STUDY:
            raise InputError(
                f"{self.config}: --quick, --summary and --report read no settings; "
                "leave one of them out"
            )
        if self.report_to != NONE and (self.summary or self.cost or self.report):
            raise InputError(
                "--report-to: --summary, --cost and --report are not logged; leave one "
                "of them out"
            )


def run(options: Options) -> None:
    """Run `ogs study`."""
    if options.summary:
        from ogs_env.experiments.study.summary import summaries

        for line in summaries(options.out or RESULTS):
            print(json.dumps(line))
    elif options.report:
        from ogs_env.experiments.study.report import write_report

        print(f"report: {write_report(options.out or RESULTS)}", file=sys.stderr)
    else:
        import torch

        from ogs_env.experiments.study.runs import run_study
        from ogs_env.experiments.study.settings import read_settings

        # Two processes of one thread are faster than one of two threads.
        torch.set_num_threads(1)
        settings = read_settings("quick" if options.quick else options.config)
        folder = options.out or Path("study")
        if options.cost:
            from ogs_env.experiments.study.cost import measure_cost

            print(json.dumps(measure_cost(settings, folder / "cost.json"), indent=2))
        else:
            config = dataclasses.asdict(settings)
            # Processes that share the work are runs of a group.
            group = run_name(folder)
            with opened(
                options.report_to, folder, config, command=STUDY, group=group
            ) as log:
                run_study(settings, folder, lambda file: _log_run(log, file))
                _log_summary(log, folder)


def _log_run(log: Logger, file: Path) -> None:
    """Log a run's changes of losses, in percent, over the draws of its domain."""
    from ogs_env.experiments.statistics import percent_change
    from ogs_env.experiments.study.results import BASE

    result = read_object(file, "result of a run")
    base = read_object(file.with_name(f"{BASE}.json"), "measures of a target")
    group = f"{result['domain']}/{result['method']}"
    changes = {
        f"{group}/{name}": percent_change(base["losses"][name], after)
        for name, after in result["losses"].items()
    }
    log.numbers(changes, result["draw"], "draw")


def _log_summary(log: Logger, folder: Path) -> None:
    """Log the summary of all runs of a folder as a table."""
    from ogs_env.experiments.study.summary import summaries

    if not log.enabled:
        return
    rows = [_flat(entry) for entry in summaries(folder)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    log.table("summary", columns, [[row.get(name) for name in columns] for row in rows])


def _flat(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of `summaries` with two numbers for each interval."""
    flat = {}
    for name, value in entry.items():
        if isinstance(value, list):
            flat[f"{name}_low"], flat[f"{name}_high"] = value
        else:
            flat[name] = value
    return flat
