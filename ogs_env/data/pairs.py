"""Minimal pairs: two texts that differ only where one of them is wrong.

They test a model without generation: it should assign the right text the higher
probability.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ogs_env.data.reading import read_samples
from ogs_env.data.record_files import hub_answers
from ogs_env.data.samples import Sample
from ogs_env.data.sources import DATA_FOLDER
from ogs_env.errors import InputError
from ogs_env.seeding import named_rng

_MARKS = re.compile(r"<<[^<>]*>>")  # GSM8K's calculator marks
# At most 18 digits, because a random draw has 64 bits.
_NUMBER = re.compile(r"[0-9]{1,18}(?![0-9])")
_BLIMP = "nyu-mll/blimp"
_BLIMP_FILE = "blimp_pairs.jsonl.gz"


@dataclass(frozen=True)
class Pair:
    """A right and a wrong text.

    Attributes:
        prompt: The question that both answer; None for texts without a prompt.
        shared: The common beginning of both texts.
        right: The rest of the right text.
        wrong: The rest of the wrong text.
    """

    prompt: str | None
    shared: str
    right: str
    wrong: str


def solution_pairs(samples: Sequence[Sample], seed: int = 0) -> list[Pair]:
    """Return pairs of worked solutions that differ in their last number.

    Calculator marks and the line `#### N` are removed. The wrong number has as many
    digits as the right one. Samples without that line, or without a number before
    it, are left out.

    Args:
        samples: Maths problems with solutions that end in `#### N`.
        seed: Seed of the wrong numbers; that of a sample depends only on the seed and
            the sample's id.
    """
    pairs = []
    for sample in samples:
        solution, line, _ = _MARKS.sub("", sample.response).rpartition("####")
        numbers = list(_NUMBER.finditer(solution))
        if line and numbers:
            shared, right = solution[: numbers[-1].start()], numbers[-1].group()
            wrong = _other_number(right, seed, sample.id)
            pairs.append(Pair(sample.prompt, shared, right, wrong))
    return pairs


def grammar_file() -> Path | None:
    """Return BLiMP's file in the folder `OGS_DATA`; None if there is none."""
    file = Path(os.environ.get(DATA_FOLDER) or "") / _BLIMP_FILE
    return file if os.environ.get(DATA_FOLDER) and file.is_file() else None


def grammar_pairs(each: int = 10) -> list[Pair]:
    """Return BLiMP's minimal pairs of English grammar.

    Warstadt et al. 2020, "BLiMP: The Benchmark of Linguistic Minimal Pairs".

    Args:
        each: Maximum number of pairs of each of the 67 paradigms; the first are taken.

    Raises:
        InputError: If neither `OGS_DATA` nor the Hugging Face hub has them.
    """
    file = grammar_file()
    sentences = _from_hub(each) if file is None else _from_file(file)
    counts: Counter[str] = Counter()
    pairs = []
    for paradigm, good, bad in sentences:
        counts[paradigm] += 1
        if counts[paradigm] <= each:
            pairs.append(Pair(None, "", good, bad))
    return pairs


def _from_file(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield paradigm, good and bad sentence."""
    for sample in read_samples(file, prompt_field="bad", response_field="good"):
        if "paradigm" not in sample.fields:
            raise InputError(
                f"{file}: the line with '{sample.response}' has no field 'paradigm'; "
                "expected BLiMP's pairs with good, bad and paradigm"
            )
        yield sample.fields["paradigm"], sample.response, sample.prompt


def _from_hub(each: int) -> Iterator[tuple[str, str, str]]:
    """Yield paradigm, good and bad sentence, the first of each paradigm."""
    if not hub_answers():
        raise _missing("the Hugging Face hub cannot be reached")
    try:
        import datasets

        for paradigm in datasets.get_dataset_config_names(_BLIMP):
            rows = datasets.load_dataset(_BLIMP, paradigm, split=f"train[:{each}]")
            for row in rows:
                yield paradigm, row["sentence_good"], row["sentence_bad"]
    # Any failure of the hub has the same remedy: a local file.
    except Exception as error:
        why = " ".join(str(error).split())
        raise _missing(
            f"the Hugging Face hub did not serve {_BLIMP} ({why})"
        ) from error


def _missing(why: str) -> InputError:
    folder = os.environ.get(DATA_FOLDER) or "unset"
    return InputError(
        f"blimp: not in {DATA_FOLDER} ({folder}) and {why}; put {_BLIMP_FILE} into a "
        f"folder and set {DATA_FOLDER} to it"
    )


def _other_number(number: str, seed: int, id_: str) -> str:
    """Draw another number with as many digits, the first of which is not 0."""
    rng = named_rng(seed, "solution pairs", int(id_, 16))
    low = 10 ** (len(number) - 1) if len(number) > 1 else 0
    drawn = int(rng.integers(low, 10 ** len(number) - 1))
    # The range excludes one number: draws from the right number on move up by one.
    return str(drawn + (drawn >= int(number)))
