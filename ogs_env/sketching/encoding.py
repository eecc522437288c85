"""From text to tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ogs_env.data.pairs import Pair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that cross-entropy passes over


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sample as tokens.

    Attributes:
        input_ids: Token ids of prompt and response, the end token last.
        response_start: Position of the response's first token.
        cut: Whether prompt or response was shortened to fit.
    """

    input_ids: list[int]
    response_start: int
    cut: bool

    @property
    def response_tokens(self) -> int:
        """Number of tokens on which the loss is taken."""
        return len(self.input_ids) - self.response_start


def encode(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, response: str, max_tokens: int
) -> Encoded:
    """Encode a sample in the model's chat format, or plainly where it has none.

    A response longer than three quarters of `max_tokens` loses its end; a prompt
    that does not fit beside it loses its beginning, since the question stands at
    the end of prompts with a table or passage.

    Args:
        tokenizer: The model's tokenizer.
        prompt: The user's turn.
        response: What the model should answer.
        max_tokens: Most tokens of the two together.
    """
    answer = tokenizer(response, add_special_tokens=False)["input_ids"]
    if tokenizer.eos_token_id is not None:
        answer = [*answer, tokenizer.eos_token_id]
    longest = max(1, max_tokens * 3 // 4)
    cut = len(answer) > longest
    answer = answer[:longest]
    room = max_tokens - len(answer)
    question = encode_prompt(tokenizer, prompt)
    if len(question) > room:
        cut = True
        content = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        keep = max(0, len(content) - (len(question) - room))
        kept = str(tokenizer.decode(content[len(content) - keep :])) if keep else ""
        question = encode_prompt(tokenizer, kept)
        question = question[max(0, len(question) - room) :]
    return Encoded([*question, *answer], len(question), cut)


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> list[int]:
    """Encode a prompt so that the model's answer follows it."""
    if tokenizer.chat_template is None:
        return tokenizer(f"{prompt}\n")["input_ids"]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        tokenize=False,
        add_generation_prompt=True,
    )
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode_pair(
    tokenizer: "PreTrainedTokenizerBase", pair: Pair, max_tokens: int
) -> tuple[Encoded, Encoded]:
    """Encode a minimal pair; the loss is taken from where the two texts differ.

    Args:
        tokenizer: The model's tokenizer.
        pair: Two texts. Without a prompt they follow the token that begins a text.
        max_tokens: Longer prompts lose their beginning.

    Returns:
        The right and the wrong text.
    """
    if pair.prompt is None:
        begin = [tokenizer.bos_token_id]
        if begin == [None]:
            begin = [tokenizer.eos_token_id]
    else:
        begin = encode_prompt(tokenizer, pair.prompt)
    right, wrong = (
        tokenizer(pair.shared + end, add_special_tokens=False)["input_ids"]
        for end in (pair.right, pair.wrong)
    )
    same = 0
    while same < min(len(right), len(wrong)) - 1 and right[same] == wrong[same]:
        same += 1
    found = []
    for text in (right, wrong):
        kept = begin[-max(1, max_tokens - len(text)) :]
        found.append(Encoded([*kept, *text], len(kept) + same, len(kept) < len(begin)))
    return found[0], found[1]


def collate(encoded: Sequence[Encoded], pad_id: int) -> dict[str, torch.Tensor]:
    """Pad samples on the left, so that all responses end together.

    Returns:
        int64 tensors (n, tokens): `input_ids`, `attention_mask`, `position_ids`
        (counted from each sample's first token) and `labels` (-100 outside the
        response).
    """
    longest = max(len(sample.input_ids) for sample in encoded)
    shape = (len(encoded), longest)
    input_ids = torch.full(shape, pad_id)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED)
    for row, sample in enumerate(encoded):
        begin = longest - len(sample.input_ids)
        input_ids[row, begin:] = torch.tensor(sample.input_ids)
        attention_mask[row, begin:] = 1
        answer = begin + sample.response_start
        labels[row, answer:] = input_ids[row, answer:]
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": (attention_mask.cumsum(1) - 1).clamp(min=0),
        "labels": labels,
    }
