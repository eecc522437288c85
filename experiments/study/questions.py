"""Questions of a domain with an answer that can be checked."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ogs_env.data.domains import (
    PUBMEDQA_SHORT,
    DomainData,
    load_source,
    question_key,
)
from ogs_env.data.samples import Sample
from ogs_env.data.sources import collection
from ogs_env.seeding import named_rng

DECISIONS = ("yes", "no", "maybe")
_NUMBER = re.compile(r"-?\d[\d,]*\.?\d*")


@dataclass(frozen=True)
class Question:
    """A question with a right answer.

    Attributes:
        sample: Prompt and right answer.
        options: Possible answers, the right one among them; empty if the answer is a
            number to be generated.
    """

    sample: Sample
    options: tuple[str, ...]


def domain_questions(data: DomainData, count: int, seed: int) -> list[Question]:
    """Return questions of a domain's sources that no role of the data asks.

    Medical: PubMedQA's yes, no or maybe. Legal: LegalBench, with the labels of the
    question's task as options. Financial: TAT-QA's arithmetic, whose answers end in a
    number. Other domains have no questions.

    Args:
        data: Data of one of these domains.
        count: Maximum number of questions.
        seed: Seed of the choice.
    """
    used = {question_key(s) for s in [*data.pool, *data.dev, *data.test]}
    sources = {"medical": _decisions, "legal": _labels, "financial": _arithmetic}
    every = sources[data.name]() if data.name in sources else []
    free = [q for q in every if question_key(q.sample) not in used]
    order = named_rng(seed, "questions").permutation(len(free))[:count]
    return [free[number] for number in order]


def right_number(answer: str, response: str) -> bool:
    """Return whether the last number of an answer is that of the right response."""
    given, right = _NUMBER.findall(answer), _NUMBER.findall(response)
    return bool(given and right) and _value(given[-1]) == _value(right[-1])


def _value(number: str) -> float:
    return float(number.replace(",", ""))


def _decisions() -> list[Question]:
    return [Question(sample, DECISIONS) for sample in load_source(PUBMEDQA_SHORT)]


def _labels() -> list[Question]:
    samples = collection("legalbench").load()
    labels: dict[str, set[str]] = {}
    for sample in samples:
        labels.setdefault(sample.fields["task"], set()).add(sample.response)
    return [
        Question(sample, tuple(sorted(labels[sample.fields["task"]])))
        for sample in samples
        if len(labels[sample.fields["task"]]) > 1
    ]


def _arithmetic() -> list[Question]:
    return [
        Question(sample, ())
        for sample in collection("tatqa").load()
        if sample.fields["answer_type"] == "arithmetic"
    ]


def options_of(questions: Sequence[Question]) -> list[Sample]:
    """Return every option of every question as a sample, in order."""
    return [
        replace(q.sample, response=option) for q in questions for option in q.options
    ]
