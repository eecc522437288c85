"""The chat format of a model: what its tokenizer's template adds around an answer."""

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
"""The date that templates get, so that samples are the same on every day."""

_CLOCK = "strftime_now"  # the function through which templates read the date
# A macro put before a template to replace that function. transformers passes no
# functions to templates, so the macro formats the date in the template's language.
_FIXED_DATE_MACRO = (
    f"{{%- macro {_CLOCK}(format) %}}{{{{ format"
    + "".join(
        f" | replace('%{letter}', '{TEMPLATE_DATE.strftime(f'%{letter}')}')"
        for letter in "aAbBcdHIjmMpSuUVwWxXyY"
    )
    + " }}{% endmacro %}\n"
)

# Placeholder texts, to find what the template itself adds around them.
_QUESTION, _ANSWER = "Ogsquestion", "Ogsanswer"
_BLANK = " \t\r\n\u2581"  # the last is a space in SentencePiece's vocabularies


class ChatFormat:
    """The text and tokens that a chat template puts around an answer.

    Args:
        tokenizer: One with a chat template.

    Attributes:
        end: Token ids from the end of an answer to the token that ends the turn;
            empty where the template has no such token.
        strips: Whether the template removes whitespace around an answer.

    Raises:
        InputError: If the template cannot render a question and its answer.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        # A weak reference, so that the cache does not keep its keys alive.
        self._tokenizer = weakref.ref(tokenizer)
        self._template = tokenizer.get_chat_template()
        if reads_clock(tokenizer):
            self._template = _FIXED_DATE_MACRO + self._template
        question, answer = Turn("user", _QUESTION), Turn("assistant", _ANSWER)
        prompt = self._render([question], add_generation_prompt=True)
        whole = self._render([question, answer])
        before, answer_text, after = whole.rpartition(_ANSWER)
        rendered = bool(answer_text)
        spaced = self._render([question, Turn("assistant", f" {_ANSWER} ")])
        self.strips = rendered and spaced == whole
        self.end = _through_control_token(tokenizer, after) if rendered else []
        self._prompt_end, self._answer_start = (
            _difference(prompt, before) if rendered else ("", "")
        )

    def before_answer(self, turns: Sequence[Turn]) -> str:
        """Render turns and the beginning of the assistant's answer to them.

        Raises:
            InputError: If the template refuses the turns.
        """
        prompt = self._render(turns, add_generation_prompt=True)
        return prompt.removesuffix(self._prompt_end) + self._answer_start

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


def _difference(prompt: str, before: str) -> tuple[str, str]:
    """Compare a generation prompt with the text before a given answer.

    They differ where a template adds an empty thinking block to a given answer, or
    opens a thinking block in the generation prompt.

    Args:
        prompt: The rendered question with a generation prompt.
        before: The rendered question and answer, up to the answer.

    Returns:
        The text to remove from the end of the prompt, and the text to append instead.
    """
    pairs = zip(prompt, before, strict=False)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
    common = len(list(same))
    prompt_end, answer_start = prompt[common:], before[common:]
    # Whitespace belongs to the tokens of the answer; a difference that already begins
    # in the question does not belong to the answer.
    if not (prompt_end + answer_start).strip() or _QUESTION in prompt_end:
        return "", ""
    return prompt_end, answer_start


_formats: "weakref.WeakKeyDictionary[Any, tuple[str, ChatFormat]]" = (
    weakref.WeakKeyDictionary()
)


def chat_format(tokenizer: "PreTrainedTokenizerBase") -> ChatFormat:
    """Return the chat format of a tokenizer with a chat template, cached.

    Raises:
        InputError: If the template cannot render a question and its answer.
    """
    template = str(tokenizer.chat_template)
    cached = _formats.get(tokenizer)
    if cached is None or cached[0] != template:
        cached = _formats[tokenizer] = (template, ChatFormat(tokenizer))
    return cached[1]


def reads_clock(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the chat template reads the date, and so gets `TEMPLATE_DATE`."""
    return _CLOCK in str(tokenizer.chat_template)


def _through_control_token(
    tokenizer: "PreTrainedTokenizerBase", text: str
) -> list[int]:
    """Return the tokens of a text through its first added non-whitespace token."""
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    control_ids = {
        id_
        for id_, token in tokenizer.added_tokens_decoder.items()
        if token.content.strip(_BLANK)
    }
    for position, id_ in enumerate(ids):
        if id_ in control_ids:
            return ids[: position + 1]
    return []
