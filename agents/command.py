"""`ogs select`: let an agent choose samples from a bundle."""

import argparse
import sys
from pathlib import Path

from ogs_env.agents.deployment import load_selector
from ogs_env.agents.selector import SELECTORS
from ogs_env.bundle import load_bundle, shipped_bundles
from ogs_env.data.samples import read_samples
from ogs_env.errors import InputError
from ogs_env.selection import SUMMARY, parse_budget, select


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ogs select`."""
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
    parser.add_argument("--budget", required=True, help="how many: 64, or 10%%")
    parser.add_argument(
        "--out", type=Path, required=True, help="the selection's folder"
    )
    parser.add_argument(
        "--texts",
        type=Path,
        help="JSON lines the pool was sketched from; `ogs finetune` needs them",
    )
    parser.add_argument("--prompt-field", default="prompt")
    parser.add_argument("--response-field", default="response")
    parser.add_argument(
        "--split", default="all", choices=["all", "train", "test"], help="of the pool"
    )
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> None:
    """Run `ogs select`."""
    bundle = load_bundle(arguments.bundle)
    selector = load_selector(arguments.agent)
    parse_budget(arguments.budget, len(bundle.split(arguments.split)))
    if (arguments.out / SUMMARY).exists():
        print(f"{arguments.out}: its selection is replaced", file=sys.stderr)
    texts = None
    if arguments.texts is not None:
        samples = read_samples(
            arguments.texts,
            prompt_field=arguments.prompt_field,
            response_field=arguments.response_field,
        )
        texts = {sample.id: sample for sample in samples}
        missing = set(bundle.pool.hex_ids()) - set(texts)
        if missing:
            raise InputError(
                f"{arguments.texts}: lacks {len(missing)} of the pool's "
                f"{len(bundle.pool)} samples, such as {min(missing)}; give the file "
                "that the bundle was sketched from"
            )
    selection = select(
        selector,
        bundle,
        arguments.budget,
        seed=arguments.seed,
        split=arguments.split,
        agent=arguments.agent,
    )
    selection.save(arguments.out, texts)
    counts = {name: selection.sources.count(name) for name in bundle.sources}
    shown = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    print(f"{arguments.out}: {len(selection)} samples by {arguments.agent}: {shown}")
