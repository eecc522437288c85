"""From text to tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ogs_env.data.pairs import Pair
from ogs_env.data.records import Turn, joined
from ogs_env.sketching.chat import chat_format

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
    tokenizer: "PreTrainedTokenizerBase",
    turns: str | Sequence[Turn],
    response: str,
    max_tokens: int,
) -> Encoded:
    """Encode a sample in the model's chat format, or plainly where it has none.

    The response ends with what ends a turn in the chat format. One longer than three
    quarters of `max_tokens` loses its end. Turns that do not fit beside it lose their
    beginning, since the question stands at the end of chats, and of prompts with a
    table or passage.

    Args:
        tokenizer: The model's tokenizer.
        turns: The turns before the response, such as `Sample.turns`; a text stands
            for one turn of the user.
        response: What the model should answer.
        max_tokens: Most tokens of the two together.

    Raises:
        InputError: If the chat format refuses the turns.
    """
    turns = _as_turns(turns)
    if tokenizer.chat_template is not None and chat_format(tokenizer).strips:
        response = response.strip()
    answer = _tokens(tokenizer, response) + end_of_turn(tokenizer)
    longest = max(1, max_tokens * 3 // 4)
    kept = answer[:longest]
    room = max_tokens - len(kept)
    question = encode_prompt(tokenizer, turns)
    cut = len(kept) < len(answer) or len(question) > room
    if len(question) > room:
        question = _last_tokens(tokenizer, turns, question, room)
    return Encoded([*question, *kept], len(question), cut)


def encode_prompt(
    tokenizer: "PreTrainedTokenizerBase", turns: str | Sequence[Turn]
) -> list[int]:
    """Encode turns, or a text as one turn of the user, so that an answer follows.

    Raises:
        InputError: If the chat format refuses the turns.
    """
    turns = _as_turns(turns)
    if tokenizer.chat_template is None:
        encoding = tokenizer(f"{joined(turns)}\n", return_special_tokens_mask=True)
        ids = list(encoding["input_ids"])
        # An end token of the tokenizer's own has no place before the answer.
        while ids and encoding["special_tokens_mask"][len(ids) - 1]:
            ids.pop()
        return ids
    return _tokens(tokenizer, chat_format(tokenizer).before_answer(turns))


def encode_pair(
    tokenizer: "PreTrainedTokenizerBase", pair: Pair, max_tokens: int
) -> tuple[Encoded, Encoded]:
    """Encode a minimal pair; the loss is taken from where the two texts differ.

    That is the first token in which they do: it may begin before `Pair.shared` ends.

    Args:
        tokenizer: The model's tokenizer.
        pair: Two texts. Without a prompt they follow the token that begins a text.
        max_tokens: Most tokens of a text with what stands before it. A longer one
            loses its beginning, as far as the two texts share it.

    Returns:
        The right and the wrong text.
    """
    right, wrong = (
        _tokens(tokenizer, pair.shared + end) for end in (pair.right, pair.wrong)
    )
    same = 0
    while same < min(len(right), len(wrong)) - 1 and right[same] == wrong[same]:
        same += 1
    before = [*_before_pair(tokenizer, pair), *right[:same]]
    longest = max(len(right), len(wrong)) - same
    kept = before[-max(1, max_tokens - longest) :]
    cut = len(kept) < len(before)
    return (
        Encoded([*kept, *right[same:]], len(kept), cut),
        Encoded([*kept, *wrong[same:]], len(kept), cut),
    )


def _before_pair(tokenizer: "PreTrainedTokenizerBase", pair: Pair) -> list[int]:
    """Return the tokens of a pair's prompt, or the one that begins a text."""
    if pair.prompt is not None:
        return encode_prompt(tokenizer, pair.prompt)
    first: Any = tokenizer.bos_token_id
    return [tokenizer.eos_token_id if first is None else first]


def end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Return the tokens that end a response; none where the model has none."""
    if tokenizer.chat_template is not None and chat_format(tokenizer).end:
        return chat_format(tokenizer).end
    end = tokenizer.eos_token_id
    return [] if end is None else [end]


def _last_tokens(
    tokenizer: "PreTrainedTokenizerBase",
    turns: Sequence[Turn],
    question: list[int],
    room: int,
) -> list[int]:
    """Shorten turns from the beginning until their encoding `question` has room.

    Whole turns go first, so that the chat format stays whole around what is left.
    """
    while True:
        content = _tokens(tokenizer, turns[0].content)
        keep = len(content) - (len(question) - room)
        rest = _without_first(turns)
        if keep >= 0 or not rest:
            break
        turns = rest
        question = encode_prompt(tokenizer, turns)
        if len(question) <= room:
            return question
    keep = max(0, keep)
    kept = str(tokenizer.decode(content[len(content) - keep :])) if keep else ""
    question = encode_prompt(tokenizer, [Turn(turns[0].role, kept), *turns[1:]])
    return question[max(0, len(question) - room) :]


def _without_first(turns: Sequence[Turn]) -> Sequence[Turn]:
    """Drop the first turn, and answers to it, which chat formats refuse to begin with.

    Returns none where no turn of a user would be left.
    """
    for number in range(1, len(turns)):
        if turns[number].role == "user":
            return turns[number:]
    return []


def _as_turns(turns: str | Sequence[Turn]) -> Sequence[Turn]:
    return [Turn("user", turns)] if isinstance(turns, str) else turns


def _tokens(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Encode a text without what the tokenizer would put around it."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def collate(encoded: Sequence[Encoded], pad_id: int | None) -> dict[str, torch.Tensor]:
    """Pad samples on the left, so that all responses end together.

    Args:
        encoded: At least one sample.
        pad_id: The token for padding. It is masked, so a model that has none is
            padded with token 0.

    Returns:
        int64 tensors (n, tokens): `input_ids`, `attention_mask`, `position_ids`
        (counted from each sample's first token) and `labels` (-100 outside the
        response).
    """
    longest = max(len(sample.input_ids) for sample in encoded)
    shape = (len(encoded), longest)
    input_ids = torch.full(shape, pad_id or 0)
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
