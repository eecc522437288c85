"""The main job on texts of installed packages: the command `ogs demo`.

The domain is medical coding: half of its questions are answered in a sentence, half
with a code or one word. The pool has as many of either, and puzzles, which are no
medicine. What looks only at how well gradients agree with the domain's takes one-word
answers alone: their gradients are the longest and the most alike.
"""

import argparse
import shlex
import sys
from collections import Counter
from pathlib import Path

from ogs_env.data import generated, icd10
from ogs_env.data.domains import medical_packages
from ogs_env.data.samples import write_samples
from ogs_env.errors import InputError
from ogs_env.experiments import adapt
from ogs_env.experiments.plots import tradeoff
from ogs_env.files import read_json

POOL, BUDGET = 320, 32
SHARES = {icd10.NAME: 0.25, icd10.SHORT_NAME: 0.25, generated.PUZZLES: 0.5}
DEV, TEST, ANCHOR = 24, 48, 24
EPOCHS, DRAWS = 3, 3
# Other seeds than those of tests, examples and studies.
DATA_SEED = 271828


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ogs demo`."""
    parser.add_argument(
        "--out", type=Path, default=Path("demo_output"), help="folder for all it makes"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="draws the pool and all else"
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the texts into files, and run `ogs adapt` on them."""
    if arguments.seed < 0:
        raise InputError(f"--seed: {arguments.seed} is negative; give 0 or more")
    seed = DATA_SEED + arguments.seed
    out: Path = arguments.out / f"seed-{arguments.seed}"
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
    parser = argparse.ArgumentParser()
    adapt.add_arguments(parser)
    adapt.run(parser.parse_args(command))
    plot = out / "tradeoff.png"
    tradeoff(read_json(out / adapt.RESULT, "result of `ogs adapt`")["results"], plot)
    print(f"the trade-off as a picture: {plot}")
