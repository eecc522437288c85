"""General text that comes with every Python: prose of the language reference."""

import re

from ogs_env.data.samples import Sample
from ogs_env.seeding import named_rng

_SIGNS = ("::=", "---", "***", "===")  # grammar, headings


def prose(count: int, seed: int = 0) -> list[Sample]:
    """Return paragraphs of 40 to 120 words from Python's own documentation.

    They stand for general text of no domain: what fine-tuning does to the model's
    loss on them is a second measure of what it forgets. Their wording depends on the
    release of Python.

    Args:
        count: How many.
        seed: Chooses them.
    """
    from pydoc_data.topics import topics

    found = []
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
                found.append(Sample(prompt, words, "prose"))
    distinct: dict[str, Sample] = {}  # some paragraphs stand under several topics
    for number in named_rng(seed, "prose").permutation(len(found)):
        distinct.setdefault(found[number].response, found[number])
    return list(distinct.values())[:count]
