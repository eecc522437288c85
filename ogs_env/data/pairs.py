"""Minimal pairs: two texts that differ in what makes one of them wrong.

A model that assigns the right one the higher probability shows an ability without
having to generate an answer.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ogs_env.data.samples import Sample, read_samples
from ogs_env.data.sources import DATA_FOLDER, hub_answers
from ogs_env.errors import InputError

_MARKS = re.compile(r"<<[^<>]*>>")  # GSM8K's calculator marks
_NUMBER = re.compile(r"\d+")
GRAMMAR = "blimp_pairs"
"""Name of BLiMP's file in `OGS_DATA`, without its endings."""


@dataclass(frozen=True)
class Pair:
    """A right and a wrong text.

    Attributes:
        prompt: The question that both answer; None for texts that stand alone.
        shared: What both begin with.
        right: How the right one goes on.
        wrong: How the wrong one goes on.
    """

    prompt: str | None
    shared: str
    right: str
    wrong: str


def solution_pairs(samples: Sequence[Sample], seed: int = 0) -> list[Pair]:
    """Make pairs of worked solutions: the last number is right, or wrong.

    Calculator marks and the line `#### N` are removed. The wrong number has as many
    digits as the right one. Samples whose solution has no number are left out.

    Args:
        samples: Maths problems with solutions that end in `#### N`.
        seed: Draws the wrong numbers.
    """
    pairs = []
    for sample in samples:
        text = _MARKS.sub("", sample.response).partition("####")[0].rstrip()
        numbers = list(_NUMBER.finditer(text))
        if not numbers:
            continue
        last = numbers[-1]
        wrong = _other_number(last.group(), seed, sample.id)
        pairs.append(Pair(sample.prompt, text[: last.start()], last.group(), wrong))
    return pairs


def grammar_pairs(each: int = 10) -> list[Pair]:
    """Return BLiMP's minimal pairs of English grammar.

    Warstadt et al. 2020, "BLiMP: The Benchmark of Linguistic Minimal Pairs".

    Args:
        each: Pairs of each of the 67 paradigms, the first of the file.

    Raises:
        InputError: If neither `OGS_DATA` nor the Hugging Face hub has them.
    """
    counts: Counter[str] = Counter()
    pairs = []
    for paradigm, good, bad in _sentences(each):
        counts[paradigm] += 1
        if counts[paradigm] <= each:
            pairs.append(Pair(None, "", good, bad))
    return pairs


def _sentences(each: int) -> Iterator[tuple[str, str, str]]:
    """Yield paradigm, good and bad sentence, at least `each` of a paradigm."""
    folder = os.environ.get(DATA_FOLDER)
    file = Path(folder or "") / f"{GRAMMAR}.jsonl.gz"
    if folder and file.is_file():
        for sample in read_samples(file, prompt_field="bad", response_field="good"):
            yield sample.fields["paradigm"], sample.response, sample.prompt
        return
    if not hub_answers():
        raise InputError(
            f"blimp: not in {DATA_FOLDER} ({folder or 'unset'}), and the Hugging Face "
            f"hub cannot be reached; put {file.name} into a folder and set "
            f"{DATA_FOLDER} to it"
        )
    import datasets

    for paradigm in datasets.get_dataset_config_names("nyu-mll/blimp"):
        rows = datasets.load_dataset("nyu-mll/blimp", paradigm, split=f"train[:{each}]")
        for row in rows:
            yield paradigm, row["sentence_good"], row["sentence_bad"]


def _other_number(number: str, seed: int, id_: str) -> str:
    """Draw another number with as many digits, the first of which is not 0."""
    rng = np.random.default_rng([seed, 80, int(id_, 16)])
    low = 10 ** (len(number) - 1) if len(number) > 1 else 0
    drawn = int(rng.integers(low, 10 ** len(number) - 1))
    # The range is one short: numbers from the right one on move up by one.
    return str(drawn + (drawn >= int(number))).zfill(len(number))
