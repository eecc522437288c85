"""The command `ogs study`: real fine-tuning by many methods on new pools."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from ogs_env.errors import InputError

STUDY = "study"
RESULTS = Path(__file__).parent.parent / "results" / STUDY


@dataclass(frozen=True)
class Options:
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
            run_study(settings, folder)
