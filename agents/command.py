"""The command `ogs select`: select samples of a bundle with an agent."""

import argparse
import sys
from pathlib import Path

from ogs_env.agents.baselines.metadata import MetadataSelector
from ogs_env.agents.deployment import load_selector
from ogs_env.agents.selector import READERS, SELECTORS
from ogs_env.bundle import load_bundle, shipped_bundles
from ogs_env.data.texts import bundle_texts, numbers
from ogs_env.errors import InputError
from ogs_env.selection import SUMMARY, parse_budget, select


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ogs select` to a parser."""
    parser.add_argument(
        "--agent",
        required=True,
        help=f"a folder made by `ogs train`, or one of {', '.join(SELECTORS)}",
    )
    parser.add_argument(
        "--bundle",
        required=True,
        help=f"a folder made by `ogs sketch`, or one of {', '.join(shipped_bundles())}",
    )
    # A raw % in argparse's help is a format character.
    parser.add_argument(
        "--budget",
        help="number of samples: 64, or 10%%; required unless the agent is 'all'",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the selection"
    )
    parser.add_argument(
        "--texts",
        type=Path,
        nargs="+",
        help="JSON lines of the pool, which `ogs finetune` needs, and of the domain, "
        "which dsir and rds need (those of a shipped bundle are found without)",
    )
    parser.add_argument(
        "--rank-by",
        help="numeric field of the texts that the agent 'metadata' ranks by",
    )
    parser.add_argument("--prompt-field", default="prompt")
    parser.add_argument("--response-field", default="response")
    parser.add_argument(
        "--split",
        default="all",
        choices=["all", "train", "test"],
        help="split of the pool to select from",
    )
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> None:
    """Select, and write and print the selection.

    Raises:
        InputError: For a wrong option, a wrong file or a missing text.
    """
    bundle = load_bundle(arguments.bundle)
    agent = arguments.agent
    budget = arguments.budget
    if budget is None and agent != "all":
        raise InputError("--budget: is missing; say how many, such as 64 or 10%")
    budget = "100%" if budget is None else budget
    parse_budget(budget, len(bundle.split(arguments.split)))
    if arguments.rank_by is not None:
        _check_rank_by(arguments)
    fields = {
        "prompt_field": arguments.prompt_field,
        "response_field": arguments.response_field,
    }
    texts = None
    if arguments.texts is not None:
        roles = READERS.get(agent, ("pool",))
        texts = bundle_texts(bundle, arguments.texts, roles, **fields)
    selector = load_selector(agent, texts)
    if arguments.rank_by is not None and texts is not None:
        ids = bundle.pool.hex_ids()
        selector = MetadataSelector(
            numbers(texts, arguments.rank_by, ids, arguments.texts, **fields)
        )
        agent = f"metadata by {arguments.rank_by}"
    selection = select(
        selector,
        bundle,
        budget,
        seed=arguments.seed,
        split=arguments.split,
        agent=agent,
    )
    if (arguments.out / SUMMARY).exists():
        print(f"{arguments.out}: its selection is replaced", file=sys.stderr)
    selection.save(arguments.out, texts)
    counts = {name: selection.sources.count(name) for name in bundle.sources}
    sources = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    print(f"{arguments.out}: {len(selection)} samples by {agent}: {sources}")


def _check_rank_by(arguments: argparse.Namespace) -> None:
    if arguments.agent != "metadata":
        raise InputError(
            f"--rank-by: agent '{arguments.agent}' ranks by no field; expected "
            "--agent metadata with it"
        )
    if arguments.texts is None:
        raise InputError(
            f"--rank-by: no texts to read the field '{arguments.rank_by}' from; give "
            "the pool's JSON lines with --texts"
        )
