"""Parse a record of a user's data into prompt, response and earlier turns."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ogs_env.errors import InputError


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

    In a record without the two fields but with a chat under `messages`, the chat's
    last assistant turn is the response, and the turns before it are the prompt. In a
    record with both, as `write_samples` writes them, the chat's turns are used if
    they agree with the prompt and the response.

    Args:
        record: One line of a JSON lines file or one row of a dataset.
        place: Its location for the error line, such as `"pool.jsonl:12"`.
        prompt_field: Name of the field that holds the prompt.
        response_field: Name of the field that holds the response.

    Raises:
        InputError: If a field is missing or no text, or the response is empty.
    """
    if prompt_field in record and response_field in record:
        prompt = _text(record[prompt_field], place, f"field '{prompt_field}'")
        response = _text(record[response_field], place, f"field '{response_field}'")
        used, origin = {prompt_field, response_field}, f"field '{response_field}'"
        messages = _same_chat(record, prompt, response)
        if messages:
            used.add("messages")
    elif "messages" in record:
        turns, response = _chat(record["messages"], place)
        prompt, messages = joined(turns), _more_than_prompt(turns)
        used, origin = {"messages"}, "the last assistant turn"
    else:
        missing = prompt_field if prompt_field not in record else response_field
        flag = "--prompt-field" if missing == prompt_field else "--response-field"
        names = ", ".join(map(str, record)) or "none"
        raise InputError(
            f"{place}: lacks the field '{missing}'; fields found: {names}; name the "
            f"right one with {flag}"
        )
    if not response.strip():
        raise InputError(
            f"{place}: {origin} is empty, there is nothing to learn; remove the sample "
            "or give its response"
        )
    return Texts(prompt, response, messages, used)


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


def _chat(messages: Any, place: str) -> tuple[tuple[Turn, ...], str]:
    """Return the turns before the last assistant turn, and that turn's text."""
    if not isinstance(messages, list) or not all(
        isinstance(turn, Mapping) and "role" in turn and "content" in turn
        for turn in messages
    ):
        raise InputError(
            f"{place}: field 'messages' should be a list of objects with 'role' and "
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
            f"{place}: field 'messages' has no turn with role 'assistant', which "
            "would be the response"
        )
    before = tuple(turns[: answers[-1]])
    return before, turns[answers[-1]].content


def _same_chat(
    record: Mapping[str, Any], prompt: str, response: str
) -> tuple[Turn, ...]:
    """Return the turns of a record's chat if they agree with prompt and response."""
    try:
        turns, answer = _chat(record.get("messages"), "")
    except InputError:  # a field of that name that holds no chat
        return ()
    same = (joined(turns), answer) == (prompt, response)
    return _more_than_prompt(turns) if same else ()


def _more_than_prompt(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Return the turns, or none if they are a single user turn."""
    return () if [turn.role for turn in turns] == ["user"] else turns
