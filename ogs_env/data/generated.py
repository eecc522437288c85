"""Generate grade-school maths and puzzles with the package reasoning-gym."""

import re
from collections.abc import Iterator
from typing import Any

from ogs_env.data.samples import Sample
from ogs_env.data.sources import source_info
from ogs_env.errors import InputError
from ogs_env.seeding import named_rng

LICENCE = "Apache-2.0"
ATTRIBUTION = "Stojanovski et al. 2025, Reasoning Gym"
URL = "https://github.com/open-thought/reasoning-gym"

GSM_SYMBOLIC = "gsm_symbolic"
PUZZLES = "puzzles"
# Tasks without mathematics, with short prompts, a single right answer and the same
# items from a seed in every process (isomorphic_strings depends on string hashes).
PUZZLE_TASKS = (
    "calendar_arithmetic",
    "caesar_cipher",
    "family_relationships",
    "knights_knaves",
    "letter_counting",
    "spell_backward",
    "time_intervals",
    "word_sequence_reversal",
    "word_sorting",
)
PUZZLE_WORDS = 120

_FORMAT_INSTRUCTION = " Give the result as your final answer. Do not include units."
_WHOLE_NUMBER = re.compile(r"(\d)\.0\b")
# Some questions repeat, so this many times more items are generated than needed.
_SPARE_FACTOR = 4


def info(name: str) -> dict[str, Any]:
    """Return name, licence, attribution and url for a manifest."""
    return source_info(name, LICENCE, ATTRIBUTION, URL)


def gsm_symbolic(count: int, seed: int) -> list[Sample]:
    """Generate grade-school maths questions with worked solutions.

    They come from the templates of GSM-Symbolic (Mirzadeh et al. 2024,
    arXiv:2410.05229). Solutions end in `#### N`, like those of GSM8K.

    Args:
        count: How many; all questions differ.
        seed: The same seed gives the same questions.
    """
    samples: dict[str, Sample] = {}
    for item in _items(GSM_SYMBOLIC, count, seed):
        prompt = item["question"].removesuffix(_FORMAT_INSTRUCTION)
        steps, _, _ = item["metadata"]["answer_cot"].rpartition("\n#### ")
        # Some templates write whole numbers as floating point, such as 14.0 eggs.
        steps = _WHOLE_NUMBER.sub(r"\1", steps)
        response = f"{steps}\n#### {item['answer']}"
        samples.setdefault(prompt, Sample(prompt, response, GSM_SYMBOLIC))
        if len(samples) == count:
            break
    return _enough(list(samples.values()), count, GSM_SYMBOLIC)


def puzzles(count: int, seed: int) -> list[Sample]:
    """Generate short puzzles about words, dates, kinship and logic.

    Args:
        count: How many, in equal shares of `PUZZLE_TASKS`; all questions differ.
        seed: The same seed gives the same puzzles.

    Returns:
        Samples in random order, prompts of at most 120 words, with the field `task`.
    """
    rng = named_rng(seed, "puzzles")
    samples: list[Sample] = []
    for number, task in enumerate(PUZZLE_TASKS):
        share = (count + number) // len(PUZZLE_TASKS)
        of_task: dict[str, Sample] = {}
        for item in _items(task, share, int(rng.integers(2**31))):
            if len(of_task) == share:
                break
            prompt = item["question"].strip()
            if len(prompt.split()) <= PUZZLE_WORDS and item["answer"].strip():
                sample = Sample(prompt, item["answer"], PUZZLES, {"task": task})
                of_task.setdefault(prompt, sample)
        samples += _enough(list(of_task.values()), share, f"{PUZZLES} ({task})")
    return [samples[i] for i in rng.permutation(len(samples))]


def _items(task: str, count: int, seed: int) -> Iterator[dict[str, Any]]:
    try:
        import reasoning_gym
    except ImportError:
        raise InputError(
            f"{task}: needs the package reasoning-gym; run `pip install "
            "'ogs-env[texts]'` (it needs a C compiler)"
        ) from None
    # reasoning-gym makes item i from seed + i, so neighbouring seeds would share items.
    spread_seed = int(named_rng(seed, "reasoning_gym").integers(2**31))
    size = _SPARE_FACTOR * count + 16
    dataset = reasoning_gym.create_dataset(task, size=size, seed=spread_seed)
    return (dataset[i] for i in range(size))


def _enough(samples: list[Sample], count: int, what: str) -> list[Sample]:
    if len(samples) < count:
        raise InputError(
            f"{what}: only {len(samples):,} different questions where {count:,} were "
            "asked for; ask for fewer"
        )
    return samples
