"""The command `ogs demo`: run `ogs adapt` on texts of installed packages.

The domain is medical coding: half of its questions have answers of one sentence, half
of a code or one word. The pool has equal shares of both, and puzzles, which are not
medical. A selector that uses only the agreement of gradients with the domain's picks
one-word answers only: their gradients are the longest and the most similar.
"""

import shlex
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ogs_env.data import generated, icd10
from ogs_env.data.domains import medical_packages
from ogs_env.data.samples import write_samples
from ogs_env.errors import InputError
from ogs_env.experiments import adapt
from ogs_env.experiments.plots import tradeoff
from ogs_env.files import check_writable, read_json
from ogs_env.options import parse
from ogs_env.seeding import MOST_SEED

POOL, BUDGET = 320, 32
SHARES = {icd10.NAME: 0.25, icd10.SHORT_NAME: 0.25, generated.PUZZLES: 0.5}
DEV, TEST, ANCHOR = 24, 48, 24
EPOCHS, DRAWS = 3, 3
# Different from the seeds of tests, examples and studies.
DATA_SEED = 271828


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `ogs demo`.

    Attributes:
        out: Folder of the outputs.
        seed: Seed of the pool and of all random choices.
    """

    out: Path = Path("demo_output")
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"--seed: {self.seed} is negative; give 0 or more")
        if self.seed > MOST_SEED:
            raise InputError(
                f"--seed: {self.seed} is too large; give {MOST_SEED} or less"
            )


def run(options: Options) -> None:
    """Write the texts to files, and run `ogs adapt` on them."""
    seed = DATA_SEED + options.seed
    out = options.out / f"seed-{options.seed}"
    plot = out / "tradeoff.png"
    check_writable(plot)
    data = medical_packages(
        seed, POOL, shares=SHARES, own=(icd10.NAME, icd10.SHORT_NAME),
        dev_size=DEV, test_size=TEST, anchor_size=ANCHOR,
    )  # fmt: skip
    texts = out / "texts"
    for name, samples in (
        ("pool", data.pool), ("domain", data.dev), ("test", data.test)
    ):  # fmt: skip
        write_samples(texts / f"{name}.jsonl", samples)
    counts = Counter(sample.source for sample in data.pool)
    shown = ", ".join(f"{count} {source}" for source, count in counts.most_common())
    command = [
        *(str(texts / "pool.jsonl"), "--domain", str(texts / "domain.jsonl")),
        *("--test", str(texts / "test.jsonl"), "--anchor", generated.GSM_SYMBOLIC),
        *("--anchor-samples", str(ANCHOR), "--budget", str(BUDGET)),
        *("--epochs", str(EPOCHS), "--compare", "random", "less"),
        *("--draws", str(DRAWS), "--seed", str(seed), "--out", str(out)),
    ]
    print(f"the pool: {shown}", file=sys.stderr)
    print(shlex.join(["ogs", "adapt", *command]), file=sys.stderr)
    adapt.run(parse(adapt.Options, command))
    tradeoff(read_json(out / adapt.RESULT, "result of `ogs adapt`")["results"], plot)
    print(f"the trade-off as a picture: {plot}")
