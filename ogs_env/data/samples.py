"""Samples: a prompt and its response, with a stable id."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ogs_env.data.records import Turn
from ogs_env.errors import InputError
from ogs_env.files import whole_file


def sample_id(prompt: str, response: str, messages: Sequence[Turn] = ()) -> str:
    r"""Return the stable id of a prompt with its response, or of a chat.

    Args:
        prompt: The prompt.
        response: The response.
        messages: The turns before the response, unless the prompt is the only one.

    Returns:
        The first 16 hex digits of sha256(prompt + "\x1f" + response), to which each
        turn adds "\x1f" + role + "\x1f" + content.
    """
    texts = [prompt, response, *itertools.chain.from_iterable(messages)]
    return hashlib.sha256("\x1f".join(texts).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and the response that a model should learn to give.

    Attributes:
        prompt: The user's turn, or a chat's turns joined into one text; may be empty.
        response: The assistant's turn; never empty. Only its tokens have a loss.
        source: Name of the collection it comes from.
        fields: The record's further fields, as read.
        messages: A chat's turns before the response; empty if the prompt is a single
            user turn.
        place: File and line, or row, that it was read from; empty if unknown.
        row: Number of its record there, from 0; -1 if unknown.
    """

    prompt: str
    response: str
    source: str = ""
    fields: dict[str, Any] = field(default_factory=dict, compare=False, hash=False)
    messages: tuple[Turn, ...] = ()
    place: str = field(default="", compare=False, repr=False)
    row: int = field(default=-1, compare=False, repr=False)

    @property
    def id(self) -> str:
        """The stable id, 16 hex digits."""
        return sample_id(self.prompt, self.response, self.messages)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The turns before the response."""
        return self.messages or (Turn("user", self.prompt),)


def write_samples(path: str | Path, samples: Iterable[Sample]) -> None:
    """Write samples as JSON lines that `read_samples` reads back."""
    with (
        whole_file(Path(path)) as temporary,
        temporary.open("w", encoding="utf-8") as file,
    ):
        for sample in samples:
            record = {
                **sample.fields,
                "id": sample.id,
                "prompt": sample.prompt,
                "response": sample.response,
                "source": sample.source,
            }
            if sample.messages:
                chat = [*sample.messages, Turn("assistant", sample.response)]
                record["messages"] = [turn._asdict() for turn in chat]
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def without_duplicates(samples: Iterable[Sample]) -> list[Sample]:
    """Return the first sample of each id, in order."""
    first: dict[str, Sample] = {}
    for sample in samples:
        first.setdefault(sample.id, sample)
    return list(first.values())


def check_disjoint(named: Mapping[str, Iterable[Sample]]) -> None:
    """Check that no two roles share a sample.

    Args:
        named: Samples of each role, such as `{"pool": ..., "test": ...}`.

    Raises:
        InputError: If two do; it names the sample and both roles.
    """
    first: dict[str, tuple[str, Sample]] = {}
    for role, samples in named.items():
        for sample in samples:
            other, same = first.setdefault(sample.id, (role, sample))
            if other != role:
                one, two = (
                    f"{name} ({which.place})" if which.place else name
                    for name, which in ((other, same), (role, sample))
                )
                raise InputError(
                    f'the same sample (id {sample.id}, "{beginning(sample.prompt)}") '
                    f"is in both {one} and {two}; remove it from one"
                )


def beginning(text: str, characters: int = 40) -> str:
    """Shorten a text to a part of one line, for error messages."""
    line = " ".join(text.split())
    return line if len(line) <= characters else f"{line[:characters].rstrip()}..."
