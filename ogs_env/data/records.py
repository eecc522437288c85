"""Parse a record of a user's data into prompt, response and earlier turns."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ogs_env.errors import InputError

FORMATS: dict[str, tuple[str, ...]] = {
    "prompt-response": ("prompt", "response"),
    "alpaca": ("instruction", "output"),
    "prompt-completion": ("prompt", "completion"),
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "text": ("text",),
}
"""Known formats of records: the fields that a record of the format has."""
NAMED = "named fields"
_SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
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
        left_out: Number of content parts that are no text.
    """

    prompt: str
    response: str
    messages: tuple[Turn, ...]
    used: set[str]
    left_out: int = 0


def formats_with(
    prompt_field: str, response_field: str, only: str | None
) -> dict[str, tuple[str, ...]]:
    """Return the formats that records are tried for, in this order.

    Args:
        prompt_field: Name of the field that holds the prompt.
        response_field: Name of the field that holds the response.
        only: The one format of all records; None to recognise each record's.

    Raises:
        InputError: If fields are named although the format is given.
    """
    named = prompt_field, response_field
    if named == FORMATS["prompt-response"]:
        return {only: FORMATS[only]} if only else FORMATS
    if only:
        raise InputError(
            f"--format {only}: has its own fields; leave out --prompt-field and "
            "--response-field, or --format"
        )
    return {NAMED: named}


def format_of(record: Mapping[str, Any], formats: Mapping[str, tuple[str, ...]]) -> str:
    """Return the first format whose fields a record has, preferably all filled.

    Raises:
        InputError: If the record has none of them.
    """
    filled = {name for name, value in record.items() if value is not None}
    for fields in (filled, set(record)):
        for name, needed in formats.items():
            if fields.issuperset(needed):
                return name
    name, needed = next(iter(formats.items()))
    missing = next(field for field in needed if field not in record)
    names = ", ".join(map(str, record)) or "none"
    flag = "--response-field" if missing == needed[-1] else "--prompt-field"
    remedy = f"name the right one with {flag}"
    if name != NAMED and len(formats) == 1:
        remedy = f"choose another format than --format {name}"
    raise InputError(f"lacks the field '{missing}'; fields found: {names}; {remedy}")


def texts_of(record: Mapping[str, Any], name: str, fields: Sequence[str]) -> Texts:
    """Return a record's texts.

    In a chat the last assistant turn is the response, and the turns before it are the
    prompt. `input` belongs to a prompt field that is named `instruction`, and `system`
    of an Alpaca or ShareGPT record is a turn before the others. A record with prompt,
    response and `messages`, as `write_samples` writes it, has the chat's turns if they
    agree with the two. Of a turn's content parts the texts are joined. Calls of tools
    are written as JSON between `<tool_call>` and `</tool_call>`.

    Args:
        record: One record, such as a line of a JSON lines file.
        name: Its format, from `format_of`.
        fields: The fields of this format.

    Raises:
        InputError: If a field is no text, or the response is empty; without the
            record's place.
    """
    if name == "text":
        response = _text(record["text"], "field 'text'")
        _check_response(response, "field 'text'")
        return Texts("", response, (), {"text"})
    if len(fields) == 2:
        return _of_pair(record, *fields)
    chat = fields[0]
    used = {chat}
    turns, response, left_out = _chat(_renamed(record[chat], chat), chat)
    if name == "sharegpt" and (system := _system(record)):
        turns = (Turn("system", system), *turns)
        used.add("system")
    _check_response(response, "the last assistant turn")
    return Texts(joined(turns), response, _more_than_prompt(turns), used, left_out)


def _of_pair(
    record: Mapping[str, Any], prompt_field: str, response_field: str
) -> Texts:
    """Return the texts of a record with a prompt and a response."""
    used, origin = {prompt_field, response_field}, f"field '{response_field}'"
    left_out = 0
    if isinstance(record[prompt_field], list):
        both = f"{prompt_field}, {response_field}"
        parts = record[prompt_field], record[response_field]
        if not isinstance(parts[1], list):
            raise InputError(
                f"field '{response_field}' should be a list of messages, as "
                f"'{prompt_field}' is, found {_kind(parts[1])}"
            )
        turns, response, left_out = _chat([*parts[0], *parts[1]], both)
        prompt, messages = joined(turns), _more_than_prompt(turns)
    else:
        prompt = _text(record[prompt_field], f"field '{prompt_field}'")
        response = _text(record[response_field], origin)
        messages = _same_chat(record, prompt, response)
        if messages:
            used.add("messages")
        if prompt_field == "instruction":
            used |= {"input", "system"} & set(record)
            if given := _text(record.get("input") or "", "field 'input'"):
                prompt = f"{prompt}\n\n{given}"
            if system := _system(record):
                messages = (Turn("system", system), Turn("user", prompt))
                prompt = joined(messages)
    _check_response(response, origin)
    return Texts(prompt, response, messages, used, left_out)


def _system(record: Mapping[str, Any]) -> str:
    """Return the text of a record's field `system`, or an empty one."""
    return _text(record.get("system") or "", "field 'system'")


def _check_response(response: str, origin: str) -> None:
    if not response.strip():
        raise InputError(
            f"{origin} is empty, there is nothing to learn; remove the sample or give "
            "its response"
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


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{what} should be text, found {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} holds half a surrogate pair (character {error.start}), which is "
            "not valid text; write the complete character"
        ) from None
    return value


def _renamed(messages: Any, name: str) -> Any:
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
                f"field '{name}' has a turn from {turn['from']!r}; expected "
                f"{', '.join(_SHAREGPT_ROLES)}; remove the sample"
            )
    return [
        {"role": _SHAREGPT_ROLES[str(turn["from"])], "content": turn["value"]}
        for turn in messages
    ]


def _chat(messages: Any, name: str) -> tuple[tuple[Turn, ...], str, int]:
    """Return the turns before the last assistant turn, and that turn's text.

    Args:
        messages: The chat.
        name: Name of its field, for the error line.

    Returns:
        The turns, the text, and the number of content parts that are no text.
    """
    if not isinstance(messages, list) or not all(
        isinstance(turn, Mapping)
        and "role" in turn
        and ("content" in turn or turn.get("tool_calls"))
        for turn in messages
    ):
        raise InputError(
            f"field '{name}' should be a list of objects with 'role' and 'content'"
        )
    turns, left_out = [], 0
    for number, message in enumerate(messages, 1):
        role = _text(message["role"], f"role of message {number}")
        content, others = _content(message, f"content of message {number}")
        left_out += others
        turns.append(Turn(role, content))
    answers = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
    if not answers:
        raise InputError(
            f"field '{name}' has no turn with role 'assistant', which would be the "
            "response"
        )
    return tuple(turns[: answers[-1]]), turns[answers[-1]].content, left_out


def _content(message: Mapping[str, Any], what: str) -> tuple[str, int]:
    """Return a message's text, and the number of its parts that are no text."""
    content, calls = message.get("content"), message.get("tool_calls") or ()
    left_out = 0
    if isinstance(content, list):
        texts = [text for part in content if (text := _part(part, what)) is not None]
        left_out = len(content) - len(texts)
        content = "\n".join(texts)
    if content is None and calls:
        content = ""
    return "\n".join(filter(None, [_text(content, what), *map(_call, calls)])), left_out


def _part(part: Any, what: str) -> str | None:
    """Return the text of a content part, or None if it is no text."""
    if isinstance(part, str):
        return _text(part, what)
    if not isinstance(part, Mapping):
        raise InputError(f"{what} should be text, found a list of {_kind(part)}")
    is_text = part.get("type", "text") == "text"
    return _text(part.get("text"), what) if is_text else None


def _call(call: Any) -> str:
    """Return the text of a call of a tool, as Hermes and Qwen write it."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "name" not in function:
        raise InputError("a call of a tool should be an object with 'function'")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):  # no JSON: written as it is
            arguments = json.loads(arguments)
    described = {"name": function["name"], "arguments": arguments}
    text = json.dumps(described, ensure_ascii=False)
    return _text(f"<tool_call>\n{text}\n</tool_call>", "a call of a tool")


def _same_chat(
    record: Mapping[str, Any], prompt: str, response: str
) -> tuple[Turn, ...]:
    """Return the turns of a record's chat if they agree with prompt and response."""
    try:
        turns, answer, _ = _chat(record.get("messages"), "messages")
    except InputError:  # a field of that name that holds no chat
        return ()
    same = (joined(turns), answer) == (prompt, response)
    return _more_than_prompt(turns) if same else ()


def _more_than_prompt(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Return the turns, or none if they are a single user turn."""
    return () if [turn.role for turn in turns] == ["user"] else turns
