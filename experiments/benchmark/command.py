"""`ogs benchmark`: every selector and agent on the same episodes."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ogs_env.errors import InputError, unknown_name

if TYPE_CHECKING:
    from ogs_env.experiments.benchmark.play import Agents, Domain

RESULTS = Path(__file__).parent.parent / "results" / "benchmark"
AGENTS = Path(__file__).parent.parent / "results" / "agents"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `ogs benchmark`."""
    add = parser.add_argument
    add("--domains", nargs="+", metavar="NAME",
        help="where is played (all shipped domains)")  # fmt: skip
    add("--selectors", nargs="+", metavar="NAME",
        help="who plays without training: a selector's name, slate by hand, or "
        "NAME/stream, over the whole stream (all of both)")  # fmt: skip
    add("--agents", type=Path, metavar="FOLDER",
        help="trained agents, KIND/DOMAIN/seed-N; each plays every domain (those of "
        "the repository, unless selectors are named)")  # fmt: skip
    add("--episodes", type=int, default=100,
        help="test episodes in each domain")  # fmt: skip
    add("--out", type=Path, default=RESULTS, metavar="FOLDER",
        help="results; what was played already stays")  # fmt: skip
    add("--verify", type=Path, metavar="FOLDER",
        help="play the selections of these results again and compare")  # fmt: skip
    add("--summary", action="store_true",
        help="read the results; print one JSON line a domain and selector")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Run `ogs benchmark`."""
    if arguments.summary:
        from ogs_env.experiments.benchmark.summary import read_report, summary

        for line in summary(read_report(arguments.out)):
            print(json.dumps(line))
        return
    if arguments.verify:
        from ogs_env.experiments.benchmark.verify import verify

        for text in verify(arguments.verify):
            print(text, flush=True)
        return
    from ogs_env.agents.episodes import REPORT_SEEDS
    from ogs_env.experiments.benchmark.play import (
        DOMAINS,
        find_agents,
        selector_names,
    )

    if not 2 <= arguments.episodes <= len(REPORT_SEEDS):
        raise InputError(
            f"--episodes {arguments.episodes}: expected 2 to {len(REPORT_SEEDS)}"
        )
    for name in arguments.domains or []:
        if name not in DOMAINS:
            raise unknown_name("domain", name, DOMAINS)
    agents = arguments.agents
    if agents is None and arguments.selectors is None and AGENTS.is_dir():
        agents = AGENTS
    benchmark(
        [DOMAINS[name] for name in dict.fromkeys(arguments.domains or DOMAINS)],
        list(dict.fromkeys(arguments.selectors or selector_names())),
        find_agents(agents) if agents else [],
        REPORT_SEEDS[: arguments.episodes],
        arguments.out,
    )


def benchmark(
    domains: Sequence["Domain"],
    selectors: Sequence[str],
    agents: Sequence["Agents"],
    episodes: range,
    folder: Path,
) -> None:
    """Play what is missing, then report on all that the folder holds, and print it.

    Args:
        domains: Where is played.
        selectors: Names of those that need no training.
        agents: Trained ones; each plays every domain.
        episodes: Their seeds, one after the other.
        folder: Of the results.

    Raises:
        InputError: For an unknown name, an agent that does not fit, a folder that
            cannot be written or holds records of other episodes.
    """
    from ogs_env.experiments.benchmark import pictures
    from ogs_env.experiments.benchmark.play import play
    from ogs_env.experiments.benchmark.records import read_records
    from ogs_env.experiments.benchmark.report import TABLE, markdown, report
    from ogs_env.experiments.benchmark.summary import REPORT
    from ogs_env.files import write_json, write_text

    play(domains, selectors, agents, episodes, folder)
    records = read_records(folder)
    found = report(records)
    write_json(folder / REPORT, found)
    write_text(folder / TABLE, markdown(found))
    pictures.draw(found, records, folder)
    for one in found["domains"]:
        print(json.dumps(one))
    print(f"results: {folder}")
