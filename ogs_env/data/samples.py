"""Samples and their ids."""

import hashlib
from dataclasses import dataclass, field
from typing import Any


def sample_id(prompt: str, response: str) -> str:
    """Return the stable id of a text pair.

    Returns:
        The first 16 hex digits of sha256(prompt + "\\x1f" + response).
    """
    text = f"{prompt}\x1f{response}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and the response that a model should learn to give.

    Attributes:
        prompt: The user's turn; may be empty.
        response: The assistant's turn; never empty. Loss is taken on it alone.
        source: Name of the collection it comes from.
        fields: The record's further fields, as they were read.
    """

    prompt: str
    response: str
    source: str = ""
    fields: dict[str, Any] = field(default_factory=dict, compare=False, hash=False)

    @property
    def id(self) -> str:
        """The stable id, 16 hex digits."""
        return sample_id(self.prompt, self.response)
