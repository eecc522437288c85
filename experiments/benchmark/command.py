"""The command `ogs benchmark`: play the same episodes with all policies."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ogs_env.errors import InputError, unknown_name

if TYPE_CHECKING:
    from ogs_env.experiments.benchmark.play import AgentGroup, Domain, UserPolicy

RESULTS = Path(__file__).parent.parent / "results" / "benchmark"
AGENTS = Path(__file__).parent.parent / "results" / "agents"
USER_RESULTS = Path("benchmark_results")
"""Default folder of results with users' policies."""
REFERENCES = ("random", "greedy", "greedy-threshold", "oracle")
"""Selectors that users' policies are compared with by default."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `ogs benchmark`."""
    add = parser.add_argument
    add("--domains", nargs="+", metavar="NAME",
        help="domains to play in (all shipped domains)")  # fmt: skip
    add("--selectors", nargs="+", metavar="NAME",
        help="NAME, a selector that sees one slate at a time, or NAME/stream, one that "
        "sees the whole stream (all of both; with --policy "
        f"{', '.join(REFERENCES)})")  # fmt: skip
    add("--agents", type=Path, metavar="FOLDER",
        help="trained agents, KIND/DOMAIN/seed-N; each plays every domain (those of "
        "the repository, unless --selectors or --policy is given)")  # fmt: skip
    add("--policy", nargs="+", default=[], metavar="POLICY",
        help="your own policies: MODULE:NAME of a callable from (observation, info, "
        "env) to an action, or the zip file of a Stable-Baselines3 model; loading one "
        "runs its code")  # fmt: skip
    add("--episodes", type=int, default=100,
        help="test episodes in each domain")  # fmt: skip
    add("--out", type=Path, metavar="FOLDER",
        help="folder of the results; records in it are not played again (the "
        f"repository's; with --policy {USER_RESULTS})")  # fmt: skip
    add("--verify", type=Path, metavar="FOLDER",
        help="replay the selections of these results and compare")  # fmt: skip
    add("--summary", action="store_true",
        help="read the results, print one JSON line per domain and policy")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Run `ogs benchmark`."""
    if arguments.summary:
        from ogs_env.experiments.benchmark.summary import read_report, summary

        for line in summary(read_report(arguments.out or RESULTS)):
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
        find_user_policies,
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
    selectors = arguments.selectors
    if selectors is None and arguments.policy:
        selectors = REFERENCES
    if agents is None and selectors is None and AGENTS.is_dir():
        agents = AGENTS
    benchmark(
        [DOMAINS[name] for name in dict.fromkeys(arguments.domains or DOMAINS)],
        list(dict.fromkeys(selectors or selector_names())),
        find_agents(agents) if agents else [],
        REPORT_SEEDS[: arguments.episodes],
        arguments.out or (USER_RESULTS if arguments.policy else RESULTS),
        find_user_policies(arguments.policy),
    )


def benchmark(
    domains: Sequence["Domain"],
    selectors: Sequence[str],
    agents: Sequence["AgentGroup"],
    episodes: range,
    folder: Path,
    policies: Sequence["UserPolicy"] = (),
) -> None:
    """Play the missing episodes, then write and print a report on the whole folder.

    Args:
        domains: Domains to play in.
        selectors: Names of selectors.
        agents: Groups of trained agents; each plays every domain.
        episodes: Seeds of the episodes, consecutive.
        folder: Folder of the results.
        policies: Users' policies; each plays every domain.

    Raises:
        InputError: For an unknown name, an agent or policy that does not fit, a folder
            that cannot be written or holds records of other episodes.
    """
    from ogs_env.experiments.benchmark import pictures
    from ogs_env.experiments.benchmark.play import play
    from ogs_env.experiments.benchmark.records import read_records
    from ogs_env.experiments.benchmark.report import TABLE, markdown
    from ogs_env.experiments.benchmark.report import report as make_report
    from ogs_env.experiments.benchmark.summary import REPORT
    from ogs_env.files import write_json, write_text

    play(domains, selectors, agents, episodes, folder, policies)
    records = read_records(folder)
    report = make_report(records)
    write_json(folder / REPORT, report)
    write_text(folder / TABLE, markdown(report))
    pictures.draw(report, records, folder)
    for domain in report["domains"]:
        print(json.dumps(domain))
    print(f"results: {folder}")
