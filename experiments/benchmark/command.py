"""The command `ogs benchmark`: play the same episodes with all policies."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `ogs benchmark`.

    Attributes:
        domains: Domains to play in; by default all shipped ones.
        selectors: NAME, a selector that sees one slate at a time, or NAME/stream, one
            that sees the whole stream. By default all of both or, with --policy.
        agents: Folder of trained agents, KIND/DOMAIN/seed-N; each plays every domain.
            By default those of the repository, unless --selectors or --policy is given.
        policy: Your own policies: MODULE:NAME of a callable from (observation, info,
            env) to an action, or the zip file of a Stable-Baselines3 model. Loading one
            runs its code.
        episodes: Number of test episodes in each domain.
        out: Folder of the results; records in it are not played again. By default the
            repository's or, with --policy.
        verify: Replay the selections of the results in this folder and compare.
        summary: Read the results, print one JSON line per domain and policy.
    """

    domains: tuple[str, ...] | None = field(default=None, metadata={"metavar": "NAME"})
    selectors: tuple[str, ...] | None = field(
        default=None, metadata={"metavar": "NAME", "known": REFERENCES}
    )
    agents: Path | None = None
    policy: tuple[str, ...] | None = field(default=None, metadata={"metavar": "POLICY"})
    episodes: int = 100
    out: Path | None = field(default=None, metadata={"known": [str(USER_RESULTS)]})
    verify: Path | None = None
    summary: bool = False

    def __post_init__(self) -> None:
        if self.summary and self.verify:
            raise InputError("--summary, --verify: each excludes the other; give one")


def run(options: Options) -> None:
    """Run `ogs benchmark`."""
    if options.summary:
        from ogs_env.experiments.benchmark.summary import read_report, summary

        for line in summary(read_report(options.out or RESULTS)):
            print(json.dumps(line))
        return
    if options.verify:
        from ogs_env.experiments.benchmark.verify import verify

        for text in verify(options.verify):
            print(text, flush=True)
        return
    from ogs_env.agents.episodes import REPORT_SEEDS
    from ogs_env.experiments.benchmark.play import (
        DOMAINS,
        find_agents,
        find_user_policies,
        selector_names,
    )

    if not 2 <= options.episodes <= len(REPORT_SEEDS):
        raise InputError(
            f"--episodes {options.episodes}: expected 2 to {len(REPORT_SEEDS)}"
        )
    for name in options.domains or []:
        if name not in DOMAINS:
            raise unknown_name("domain", name, DOMAINS)
    agents, selectors = options.agents, options.selectors
    if selectors is None and options.policy:
        selectors = REFERENCES
    if agents is None and selectors is None and AGENTS.is_dir():
        agents = AGENTS
    benchmark(
        [DOMAINS[name] for name in dict.fromkeys(options.domains or DOMAINS)],
        list(dict.fromkeys(selectors or selector_names())),
        find_agents(agents) if agents else [],
        REPORT_SEEDS[: options.episodes],
        options.out or (USER_RESULTS if options.policy else RESULTS),
        find_user_policies(options.policy or ()),
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
    from ogs_env.files import check_writable, write_json, write_text

    check_writable(folder / REPORT)
    play(domains, selectors, agents, episodes, folder, policies)
    records = read_records(folder)
    report = make_report(records)
    write_json(folder / REPORT, report)
    write_text(folder / TABLE, markdown(report))
    pictures.draw(report, records, folder)
    for domain in report["domains"]:
        print(json.dumps(domain))
    print(f"results: {folder}")
