"""The command `ogs study`: real fine-tuning by many methods on new pools."""

import argparse
import json
import sys
from pathlib import Path

RESULTS = Path(__file__).parent.parent / "results" / "study"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `ogs study`."""
    add = parser.add_argument
    add("config", nargs="?", default="study",
        help="a YAML file of settings, or a shipped one: study, quick "
        "(%(default)s)")  # fmt: skip
    add("--summary", action="store_true",
        help="print one JSON line per domain, target and method")  # fmt: skip
    add("--report", action="store_true",
        help="write the table and the picture of the results")  # fmt: skip
    add("--quick", action="store_true", help="the shipped settings quick")
    add("--out", type=Path, metavar="FOLDER",
        help="folder of pools and results; by default `study`, and for --summary and "
        "--report the results of the repository")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Run `ogs study`."""
    if arguments.summary or arguments.report:
        from ogs_env.experiments.study.report import write_report
        from ogs_env.experiments.study.summary import summaries

        folder = arguments.out or RESULTS
        if arguments.report:
            print(f"report: {write_report(folder)}", file=sys.stderr)
        else:
            for line in summaries(folder):
                print(json.dumps(line))
        return
    import torch

    from ogs_env.experiments.study.runs import run_study
    from ogs_env.experiments.study.settings import read_settings

    # Two processes of one thread are faster than one of two threads.
    torch.set_num_threads(1)
    config = "quick" if arguments.quick else arguments.config
    run_study(read_settings(config), arguments.out or Path("study"))
