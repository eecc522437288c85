"""Encode samples as tokens, in the model's chat format."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ogs_env.data.pairs import Pair
from ogs_env.data.records import Turn, joined
from ogs_env.lm.chat import chat_format

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that cross-entropy ignores


class Encoded:
    """One sample as tokens.

    Args:
        input_ids: Token ids of prompt and response, the end token last.
        response_start: Position of the response's first token.
        cut: Whether prompt or response was shortened to fit.

    Attributes:
        tokens: int32 (n,), the token ids. All samples of a pool are in memory, and a
            list of integers takes nine times as much.
        response_start: As given.
        cut: As given.
    """

    __slots__ = ("cut", "response_start", "tokens")

    def __init__(
        self, input_ids: Sequence[int], response_start: int, cut: bool
    ) -> None:
        self.tokens = np.array(input_ids, np.int32)
        self.response_start, self.cut = response_start, cut

    @property
    def input_ids(self) -> list[int]:
        """The token ids as a list."""
        return self.tokens.tolist()

    @property
    def response_tokens(self) -> int:
        """Number of tokens on which the loss is taken."""
        return len(self.tokens) - self.response_start


def encode(
    tokenizer: "PreTrainedTokenizerBase",
    turns: str | Sequence[Turn],
    response: str,
    max_tokens: int,
) -> Encoded:
    """Encode a sample in the model's chat format, or as plain text without one.

    The response ends with the tokens that end a turn in the chat format. A response
    longer than three quarters of `max_tokens` is cut at its end. Turns that do not
    fit in the rest are cut at their beginning, because the question usually comes
    last, after a table or passage.

    Args:
        tokenizer: The model's tokenizer.
        turns: The turns before the response, such as `Sample.turns`; a string is one
            user turn.
        response: What the model should answer.
        max_tokens: Maximum number of tokens of the two together.

    Raises:
        InputError: If the chat format refuses the turns.
    """
    turns = _as_turns(turns)
    if tokenizer.chat_template is not None and chat_format(tokenizer).strips:
        response = response.strip()
    answer = _tokens(tokenizer, response) + end_of_turn(tokenizer)
    cut_answer = answer[: max(1, max_tokens * 3 // 4)]
    room = max_tokens - len(cut_answer)
    prompt = encode_prompt(tokenizer, turns)
    cut = len(cut_answer) < len(answer) or len(prompt) > room
    if len(prompt) > room:
        prompt = _cut_turns(tokenizer, turns, prompt, room)
    return Encoded([*prompt, *cut_answer], len(prompt), cut)


def encode_prompt(
    tokenizer: "PreTrainedTokenizerBase", turns: str | Sequence[Turn]
) -> list[int]:
    """Encode turns, or a string as one user turn, up to where the answer begins.

    Raises:
        InputError: If the chat format refuses the turns.
    """
    turns = _as_turns(turns)
    if tokenizer.chat_template is None:
        encoding = tokenizer(f"{joined(turns)}\n", return_special_tokens_mask=True)
        ids = list(encoding["input_ids"])
        # Some tokenizers append an end token, which must not precede the answer.
        while ids and encoding["special_tokens_mask"][len(ids) - 1]:
            ids.pop()
        return ids
    return _tokens(tokenizer, chat_format(tokenizer).before_answer(turns))


def encode_pair(
    tokenizer: "PreTrainedTokenizerBase", pair: Pair, max_tokens: int
) -> tuple[Encoded, Encoded]:
    """Encode a minimal pair; the response begins at the first differing token.

    That token may begin before `Pair.shared` ends.

    Args:
        tokenizer: The model's tokenizer.
        pair: Two texts. Without a prompt they follow the token that begins a text.
        max_tokens: Maximum number of tokens of a text and its prompt. A longer one is
            cut at its beginning, but only in the part that both texts share.

    Returns:
        The right and the wrong text.
    """
    right, wrong = (
        _tokens(tokenizer, pair.shared + end) for end in (pair.right, pair.wrong)
    )
    same = 0
    while same < min(len(right), len(wrong)) - 1 and right[same] == wrong[same]:
        same += 1
    before = [*_pair_prompt(tokenizer, pair), *right[:same]]
    longest = max(len(right), len(wrong)) - same
    cut_before = before[-max(1, max_tokens - longest) :]
    cut = len(cut_before) < len(before)
    return (
        Encoded([*cut_before, *right[same:]], len(cut_before), cut),
        Encoded([*cut_before, *wrong[same:]], len(cut_before), cut),
    )


def _pair_prompt(tokenizer: "PreTrainedTokenizerBase", pair: Pair) -> list[int]:
    """Return the tokens of a pair's prompt, or the token that begins a text."""
    if pair.prompt is not None:
        return encode_prompt(tokenizer, pair.prompt)
    first: Any = tokenizer.bos_token_id
    return [tokenizer.eos_token_id if first is None else first]


def end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Return the tokens that end a response; empty if the model has none."""
    if tokenizer.chat_template is not None and chat_format(tokenizer).end:
        return chat_format(tokenizer).end
    end = tokenizer.eos_token_id
    return [] if end is None else [end]


def _cut_turns(
    tokenizer: "PreTrainedTokenizerBase",
    turns: Sequence[Turn],
    prompt: list[int],
    room: int,
) -> list[int]:
    """Cut turns at their beginning until they fit into `room` tokens.

    Whole turns are dropped first, so that the chat format around the rest stays
    intact.

    Args:
        tokenizer: The model's tokenizer.
        turns: The turns.
        prompt: Their tokens, more than `room`.
        room: Maximum number of tokens.
    """
    while True:
        content = _tokens(tokenizer, turns[0].content)
        left = len(content) - (len(prompt) - room)
        rest = _without_first(turns)
        if left >= 0 or not rest:
            break
        turns = rest
        prompt = encode_prompt(tokenizer, turns)
        if len(prompt) <= room:
            return prompt
    left = max(0, left)
    cut_content = str(tokenizer.decode(content[len(content) - left :])) if left else ""
    prompt = encode_prompt(tokenizer, [Turn(turns[0].role, cut_content), *turns[1:]])
    return prompt[max(0, len(prompt) - room) :]


def _without_first(turns: Sequence[Turn]) -> Sequence[Turn]:
    """Drop the first turn and the answers to it: a chat must begin with a user turn.

    Returns an empty list if no user turn is left.
    """
    for number in range(1, len(turns)):
        if turns[number].role == "user":
            return turns[number:]
    return []


def _as_turns(turns: str | Sequence[Turn]) -> Sequence[Turn]:
    return [Turn("user", turns)] if isinstance(turns, str) else turns


def _tokens(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Encode a text without the tokenizer's special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def collate(encoded: Sequence[Encoded], pad_id: int | None) -> dict[str, torch.Tensor]:
    """Pad samples on the left, so that all responses end at the same position.

    Args:
        encoded: At least one sample.
        pad_id: The padding token. It is masked, so token 0 serves for a model without
            one.

    Returns:
        int64 tensors (n, tokens): `input_ids`, `attention_mask`, `position_ids`
        (counted from each sample's first token) and `labels` (-100 outside the
        response).
    """
    longest = max(len(sample.tokens) for sample in encoded)
    shape = (len(encoded), longest)
    input_ids = torch.full(shape, pad_id or 0)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED)
    for row, sample in enumerate(encoded):
        begin = longest - len(sample.tokens)
        input_ids[row, begin:] = torch.tensor(sample.tokens)
        attention_mask[row, begin:] = 1
        answer = begin + sample.response_start
        labels[row, answer:] = input_ids[row, answer:]
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": (attention_mask.cumsum(1) - 1).clamp(min=0),
        "labels": labels,
    }
