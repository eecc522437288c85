"""A model's chat format, as its tokenizer's template renders it."""

import datetime
import itertools
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ogs_env.data.records import Turn
from ogs_env.data.samples import beginning
from ogs_env.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE_DATE = datetime.datetime(2026, 1, 1)
"""The date that templates are told, so that samples are the same on every day."""

_CLOCK = "strftime_now"  # the function by which templates ask for the date
# Stands before a template and takes the function's place. transformers hands no
# functions to templates, so the directives are replaced in the template's language.
_STOPPED_CLOCK = (
    f"{{%- macro {_CLOCK}(format) %}}{{{{ format"
    + "".join(
        f" | replace('%{letter}', '{TEMPLATE_DATE.strftime(f'%{letter}')}')"
        for letter in "aAbBcdHIjmMpSuUVwWxXyY"
    )
    + " }}{% endmacro %}\n"
)

# Stand in for texts where the template's own words are looked for.
_QUESTION, _ANSWER = "Ogsquestion", "Ogsanswer"
_BLANK = " \t\r\n\u2581"  # the last is a space in SentencePiece's vocabularies


class ChatFormat:
    """What a chat template puts before, around and after an answer.

    Args:
        tokenizer: One with a chat template.

    Attributes:
        end: Token ids from the end of an answer to the token that ends the turn;
            empty where the template has no such token.
        strips: Whether the template removes blanks around an answer.

    Raises:
        InputError: If the template cannot render a question and its answer.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        # A weak reference: what is kept for a tokenizer must not keep it.
        self._tokenizer = weakref.ref(tokenizer)
        self._template = tokenizer.get_chat_template()
        if reads_clock(tokenizer):
            self._template = _STOPPED_CLOCK + self._template
        question, answer = Turn("user", _QUESTION), Turn("assistant", _ANSWER)
        prompt = self._render([question], add_generation_prompt=True)
        whole = self._render([question, answer])
        before, found, after = whole.rpartition(_ANSWER)
        padded = self._render([question, Turn("assistant", f" {_ANSWER} ")])
        self.strips = bool(found) and padded == whole
        self.end = _first_control_token(tokenizer, after) if found else []
        self._opening, self._lead = _opening(prompt, before) if found else ("", "")

    def before_answer(self, turns: Sequence[Turn]) -> str:
        """Render turns and the beginning of the assistant's answer to them.

        Raises:
            InputError: If the template refuses the turns.
        """
        prompt = self._render(turns, add_generation_prompt=True)
        return prompt.removesuffix(self._opening) + self._lead

    def _render(
        self, turns: Sequence[Turn], add_generation_prompt: bool = False
    ) -> str:
        import jinja2

        tokenizer: Any = self._tokenizer()
        try:
            return tokenizer.apply_chat_template(
                [turn._asdict() for turn in turns],
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                chat_template=self._template,
            )
        except jinja2.TemplateError as error:
            roles = ", ".join(turn.role for turn in turns)
            raise InputError(
                f'sample "{beginning(turns[-1].content)}": the chat template refuses '
                f"its turns ({roles}): {beginning(str(error), 200)}; leave the sample "
                "out or change its turns"
            ) from None


def _opening(prompt: str, before: str) -> tuple[str, str]:
    """Compare what asks for an answer with what stands before a given one.

    They differ where a template adds an empty block of thoughts to a given answer, or
    asks for thoughts first.

    Returns:
        What to take from the end of the prompt, and what to put there.
    """
    pairs = zip(prompt, before, strict=False)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
    common = len(list(same))
    opening, lead = prompt[common:], before[common:]
    # A blank belongs to the tokens of the answer; a difference that begins at the
    # question is none of the answer's beginning.
    if not (opening + lead).strip() or _QUESTION in opening:
        return "", ""
    return opening, lead


_formats: "weakref.WeakKeyDictionary[Any, tuple[str, ChatFormat]]" = (
    weakref.WeakKeyDictionary()
)


def chat_format(tokenizer: "PreTrainedTokenizerBase") -> ChatFormat:
    """Return the format of a tokenizer with a chat template, found out once.

    Raises:
        InputError: If the template cannot render a question and its answer.
    """
    template = str(tokenizer.chat_template)
    known = _formats.get(tokenizer)
    if known is None or known[0] != template:
        known = _formats[tokenizer] = (template, ChatFormat(tokenizer))
    return known[1]


def reads_clock(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the chat template asks for the date, and is told `TEMPLATE_DATE`."""
    return _CLOCK in str(tokenizer.chat_template)


def _first_control_token(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Return the tokens of a text up to its first added token that is no blank."""
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    control = {
        number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.content.strip(_BLANK)
    }
    for place, number in enumerate(ids):
        if number in control:
            return ids[: place + 1]
    return []
