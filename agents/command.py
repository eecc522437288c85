"""The command `ogs select`: select samples of a bundle with an agent."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from ogs_env.agents.baselines.metadata import MetadataSelector
from ogs_env.agents.deployment import load_selector
from ogs_env.agents.selector import READERS, SELECTORS
from ogs_env.bundle import load_bundle, shipped_bundles
from ogs_env.data.reading import ReadOptions
from ogs_env.data.texts import bundle_texts, numbers
from ogs_env.errors import InputError
from ogs_env.files import check_writable
from ogs_env.selection import SUMMARY, parse_budget, select


@dataclass(frozen=True, kw_only=True)
class Options(ReadOptions):
    """Options of `ogs select`.

    Attributes:
        agent: A folder made by `ogs train`, OWNER/NAME on the Hugging Face hub, or a
            selector.
        bundle: A folder made by `ogs sketch`, OWNER/NAME on the Hugging Face hub, or a
            shipped bundle.
        budget: Number of samples: 64, or 10%; required unless the agent is 'all'.
        out: Folder of the selection.
        texts: Files or datasets of the pool, which `ogs finetune` needs, and of the
            domain, which dsir and rds need. Those of a shipped bundle are found
            without.
        rank_by: Numeric field of the texts that the agent 'metadata' ranks by.
        split: Split of the pool to select from.
        seed: Seed of selectors that draw at random.
    """

    agent: str = field(metadata={"metavar": "AGENT", "known": SELECTORS})
    bundle: str = field(metadata={"metavar": "BUNDLE", "known": shipped_bundles()})
    out: Path
    budget: str | None = None
    texts: tuple[str, ...] | None = field(default=None, metadata={"metavar": "FILE"})
    rank_by: str | None = field(default=None, metadata={"metavar": "FIELD"})
    split: str = field(default="all", metadata={"choices": ("all", "train", "test")})
    seed: int = 0

    def __post_init__(self) -> None:
        if self.budget is None and self.agent != "all":
            raise InputError("--budget: is missing; say how many, such as 64 or 10%")
        if self.rank_by is not None and self.agent != "metadata":
            raise InputError(
                f"--rank-by: agent '{self.agent}' ranks by no field; expected "
                "--agent metadata with it"
            )
        if self.rank_by is not None and self.texts is None:
            raise InputError(
                f"--rank-by: no texts to read the field '{self.rank_by}' from; give "
                "the pool's file with --texts"
            )


def run(options: Options) -> None:
    """Select, and write and print the selection.

    Raises:
        InputError: For a wrong option, a wrong file or a missing text.
    """
    bundle = load_bundle(options.bundle)
    agent = options.agent
    budget = "100%" if options.budget is None else options.budget
    parse_budget(budget, len(bundle.split(options.split)))
    check_writable(options.out / SUMMARY)
    texts = None
    if options.texts is not None:
        roles = READERS.get(agent, ("pool",))
        texts = bundle_texts(bundle, options.texts, roles, **options.reading())
    selector = load_selector(agent, texts)
    if options.rank_by is not None and texts:
        ids = bundle.pool.hex_ids()
        selector = MetadataSelector(numbers(texts, options.rank_by, ids))
        agent = f"metadata by {options.rank_by}"
    selection = select(
        selector,
        bundle,
        budget,
        seed=options.seed,
        split=options.split,
        agent=agent,
    )
    if (options.out / SUMMARY).exists():
        print(f"{options.out}: its selection is replaced", file=sys.stderr)
    selection.save(options.out, texts)
    counts = {name: selection.sources.count(name) for name in bundle.sources}
    sources = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    print(f"{options.out}: {len(selection)} samples by {agent}: {sources}")
