"""From one record of a user's data to its prompt and response."""

from collections.abc import Mapping
from typing import Any

from ogs_env.errors import InputError


def texts_of(
    record: Mapping[str, Any], place: str, prompt_field: str, response_field: str
) -> tuple[str, str, set[str]]:
    """Return a record's prompt, response and the names of the fields they came from.

    A record that lacks the two fields but holds a chat under `messages` gives the
    chat's last assistant turn as response, and what comes before it as prompt.

    Args:
        record: One line of a JSON lines file or one row of a dataset.
        place: Where it lies, for the error line, such as `"pool.jsonl:12"`.
        prompt_field: Name of the field that holds the prompt.
        response_field: Name of the field that holds the response.

    Raises:
        InputError: If a field is missing or no text, or the response is empty.
    """
    if prompt_field in record and response_field in record:
        prompt = _text(record[prompt_field], place, f"field '{prompt_field}'")
        response = _text(record[response_field], place, f"field '{response_field}'")
        used, what = {prompt_field, response_field}, f"field '{response_field}'"
    elif "messages" in record:
        prompt, response = _chat(record["messages"], place)
        used, what = {"messages"}, "the last assistant turn"
    else:
        lacking = prompt_field if prompt_field not in record else response_field
        flag = "--prompt-field" if lacking == prompt_field else "--response-field"
        found = ", ".join(map(str, record)) or "none"
        raise InputError(
            f"{place}: lacks the field '{lacking}'; fields found: {found}; name the "
            f"right one with {flag}"
        )
    if not response.strip():
        raise InputError(
            f"{place}: {what} is empty, there is nothing to learn; remove the sample "
            "or give its response"
        )
    return prompt, response, used


def _text(value: Any, place: str, what: str) -> str:
    if not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        raise InputError(f"{place}: {what} should be text, found {kind}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{place}: {what} holds half a surrogate pair at character {error.start}, "
            "which is no text; write the character whole"
        ) from None
    return value


def _chat(messages: Any, place: str) -> tuple[str, str]:
    if not isinstance(messages, list) or not all(
        isinstance(turn, Mapping) and "role" in turn and "content" in turn
        for turn in messages
    ):
        raise InputError(
            f"{place}: field 'messages' should be a list of objects with 'role' and "
            "'content'"
        )
    turns = [
        (
            _text(turn["role"], place, f"role of message {number}"),
            _text(turn["content"], place, f"content of message {number}"),
        )
        for number, turn in enumerate(messages, 1)
    ]
    answers = [i for i, (role, _) in enumerate(turns) if role == "assistant"]
    if not answers:
        raise InputError(
            f"{place}: field 'messages' has no turn with role 'assistant', which "
            "would be the response"
        )
    return _joined(turns[: answers[-1]]), turns[answers[-1]][1]


def _joined(turns: list[tuple[str, str]]) -> str:
    """Join turns into one prompt; roles are told only where they alternate."""
    one_question = [role for role, _ in turns if role != "system"] in ([], ["user"])
    return "\n\n".join(
        text if one_question or role == "system" else f"{role.capitalize()}: {text}"
        for role, text in turns
    )
