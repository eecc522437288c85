"""Parse a record of a user's data into prompt, response and earlier turns."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ogs_env.errors import InputError

_FORMATS = (
    ("prompt", "response"),
    ("instruction", "output"),
    ("prompt", "completion"),
)
"""Fields of prompt and response in known formats."""
_SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}


class Turn(NamedTuple):
    """One message of a chat.

    Attributes:
        role: Such as `"system"`, `"user"` or `"assistant"`.
        content: Its text.
    """

    role: str
    content: str


class Texts(NamedTuple):
    """The texts of a record.

    Attributes:
        prompt: Everything before the response, as one text.
        response: What the model should answer.
        messages: The turns before the response; empty if the prompt is a single user
            turn.
        used: Names of the fields that these came from.
    """

    prompt: str
    response: str
    messages: tuple[Turn, ...]
    used: set[str]


def texts_of(
    record: Mapping[str, Any], place: str, prompt_field: str, response_field: str
) -> Texts:
    """Return a record's texts.

    If no fields are named, a record is recognised by its own: `prompt` and `response`;
    `instruction`, `input` and `output` (Alpaca); `prompt` and `completion`, as texts or
    messages (TRL). Else it may have a chat under `messages`, or under `conversations`
    (ShareGPT). `input` also belongs to a prompt field that is named `instruction`.

    In a chat the last assistant turn is the response, and the turns before it are the
    prompt. In a record with prompt, response and `messages`, as `write_samples` writes
    them, the chat's turns are used if they agree with the two.

    Args:
        record: One line of a JSON lines file or one row of a dataset.
        place: Its location for the error line, such as `"pool.jsonl:12"`.
        prompt_field: Name of the field that holds the prompt.
        response_field: Name of the field that holds the response.

    Raises:
        InputError: If a field is missing or no text, or the response is empty.
    """
    if (prompt_field, response_field) == _FORMATS[0]:
        prompt_field, response_field = _recognised(record)
    chat = next((name for name in ("messages", "conversations") if name in record), "")
    if prompt_field in record and response_field in record:
        return _of_pair(record, place, prompt_field, response_field)
    if not chat:
        missing = prompt_field if prompt_field not in record else response_field
        flag = "--prompt-field" if missing == prompt_field else "--response-field"
        names = ", ".join(map(str, record)) or "none"
        raise InputError(
            f"{place}: lacks the field '{missing}'; fields found: {names}; name the "
            f"right one with {flag}"
        )
    turns, response = _chat(_renamed(record[chat], place, chat), place, chat)
    _check_response(response, place, "the last assistant turn")
    return Texts(joined(turns), response, _more_than_prompt(turns), {chat})


def _recognised(record: Mapping[str, Any]) -> tuple[str, str]:
    """Return the fields of the known format that a record has, or the first's."""
    return next((both for both in _FORMATS if record.keys() >= set(both)), _FORMATS[0])


def _of_pair(
    record: Mapping[str, Any], place: str, prompt_field: str, response_field: str
) -> Texts:
    """Return the texts of a record with a prompt and a response."""
    used, origin = {prompt_field, response_field}, f"field '{response_field}'"
    if isinstance(record[prompt_field], list):
        both = f"{prompt_field}, {response_field}"
        parts = record[prompt_field], record[response_field]
        if not isinstance(parts[1], list):
            raise InputError(
                f"{place}: field '{response_field}' should be a list of messages, as "
                f"'{prompt_field}' is, found {type(parts[1]).__name__}"
            )
        turns, response = _chat([*parts[0], *parts[1]], place, both)
        prompt, messages = joined(turns), _more_than_prompt(turns)
    else:
        prompt = _text(record[prompt_field], place, f"field '{prompt_field}'")
        response = _text(record[response_field], place, origin)
        if prompt_field == "instruction" and "input" in record:
            used.add("input")
            given = _text(record["input"] or "", place, "field 'input'")
            prompt = f"{prompt}\n\n{given}" if given else prompt
        messages = _same_chat(record, prompt, response)
        if messages:
            used.add("messages")
    _check_response(response, place, origin)
    return Texts(prompt, response, messages, used)


def _check_response(response: str, place: str, origin: str) -> None:
    if not response.strip():
        raise InputError(
            f"{place}: {origin} is empty, there is nothing to learn; remove the sample "
            "or give its response"
        )


def joined(turns: Sequence[Turn]) -> str:
    """Join turns into one prompt; roles are named only if there are several turns."""
    others = [turn.role for turn in turns if turn.role != "system"]
    one_question = others in ([], ["user"])
    return "\n\n".join(
        turn.content
        if one_question or turn.role == "system"
        else f"{turn.role.capitalize()}: {turn.content}"
        for turn in turns
    )


def _text(value: Any, place: str, what: str) -> str:
    if not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        raise InputError(f"{place}: {what} should be text, found {kind}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{place}: {what} holds half a surrogate pair at character {error.start}, "
            "which is not valid text; write the complete character"
        ) from None
    return value


def _renamed(messages: Any, place: str, name: str) -> Any:
    """Return ShareGPT's messages with `role` and `content`; others as they are."""
    is_sharegpt = isinstance(messages, list) and all(
        isinstance(turn, Mapping) and "from" in turn and "value" in turn
        for turn in messages
    )
    if not is_sharegpt:
        return messages
    for turn in messages:
        if str(turn["from"]) not in _SHAREGPT_ROLES:
            raise InputError(
                f"{place}: field '{name}' has a turn from {turn['from']!r}; expected "
                f"{', '.join(_SHAREGPT_ROLES)}; remove the sample"
            )
    return [
        {"role": _SHAREGPT_ROLES[str(turn["from"])], "content": turn["value"]}
        for turn in messages
    ]


def _chat(messages: Any, place: str, name: str) -> tuple[tuple[Turn, ...], str]:
    """Return the turns before the last assistant turn, and that turn's text.

    Args:
        messages: The chat.
        place: Its location for the error line.
        name: Name of its field, for the error line.
    """
    if not isinstance(messages, list) or not all(
        isinstance(turn, Mapping) and "role" in turn and "content" in turn
        for turn in messages
    ):
        raise InputError(
            f"{place}: field '{name}' should be a list of objects with 'role' and "
            "'content'"
        )
    turns = [
        Turn(
            _text(turn["role"], place, f"role of message {number}"),
            _text(turn["content"], place, f"content of message {number}"),
        )
        for number, turn in enumerate(messages, 1)
    ]
    answers = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
    if not answers:
        raise InputError(
            f"{place}: field '{name}' has no turn with role 'assistant', which "
            "would be the response"
        )
    before = tuple(turns[: answers[-1]])
    return before, turns[answers[-1]].content


def _same_chat(
    record: Mapping[str, Any], prompt: str, response: str
) -> tuple[Turn, ...]:
    """Return the turns of a record's chat if they agree with prompt and response."""
    try:
        turns, answer = _chat(record.get("messages"), "", "messages")
    except InputError:  # a field of that name that holds no chat
        return ()
    same = (joined(turns), answer) == (prompt, response)
    return _more_than_prompt(turns) if same else ()


def _more_than_prompt(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Return the turns, or none if they are a single user turn."""
    return () if [turn.role for turn in turns] == ["user"] else turns
