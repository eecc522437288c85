"""General text: paragraphs of Python's own documentation."""

import re

from ogs_env.data.samples import Sample
from ogs_env.seeding import named_rng

_SIGNS = ("::=", "---", "***", "===")  # grammar, headings


def prose(count: int, seed: int = 0) -> list[Sample]:
    """Return paragraphs of 40 to 120 words from Python's own documentation.

    They represent general text outside the domain: the change of the model's loss on
    them is a second measure of forgetting. Their wording depends on the Python release.

    Args:
        count: Number of paragraphs.
        seed: Seed of the choice.
    """
    from pydoc_data.topics import topics

    paragraphs = []
    for topic, text in sorted(topics.items()):
        for paragraph in re.split(r"\n\s*\n", text):
            words = " ".join(paragraph.split())
            if (
                not paragraph.startswith((" ", "\t"))
                and not any(sign in paragraph for sign in _SIGNS)
                and 40 <= len(words.split()) <= 120
                and words.endswith(".")
            ):
                prompt = f'From the Python documentation, "{topic}":'
                paragraphs.append(Sample(prompt, words, "prose"))
    distinct: dict[str, Sample] = {}  # some paragraphs are in several topics
    for number in named_rng(seed, "prose").permutation(len(paragraphs)):
        sample = paragraphs[number]
        distinct.setdefault(sample.response, sample)
    return list(distinct.values())[:count]
