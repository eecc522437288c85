"""Damage to files: of their bytes, of JSON and YAML values, and of tensors."""

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import yaml

_DEEP, _TWICE = "@deep@", "@twice@"
_DEPTH = 20_000


class Mutation(NamedTuple):
    """A damaged file.

    Attributes:
        name: What was done, and where.
        content: The file's new bytes.
    """

    name: str
    content: bytes


def mutated(
    content: bytes, kind: str, others: Sequence[bytes], draw: random.Random
) -> Mutation:
    """Return a file's content with one kind of damage.

    Args:
        content: The file's bytes.
        kind: `"json"`, `"lines"` (JSON lines), `"yaml"`, `"tensors"` (safetensors) or
            `"bytes"`.
        others: Other files' bytes, one of which may take its place.
        draw: Draws the damage and its place.
    """
    structural = _STRUCTURAL.get(kind)
    if structural is not None and draw.random() < 0.7:
        return structural(content, draw)
    name = draw.choice([*_OF_BYTES, "swapped"])
    if name == "swapped":
        return Mutation(name, draw.choice(others))
    return Mutation(name, _OF_BYTES[name](content, draw))


def _flipped(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.randint(1, 8)):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _without_part(content: bytes, draw: random.Random) -> bytes:
    start, end = sorted(draw.choices(range(len(content) + 1), k=2))
    return content[:start] + content[end:]


def _repeated_part(content: bytes, draw: random.Random) -> bytes:
    start, end = sorted(draw.choices(range(len(content) + 1), k=2))
    return content[:end] + content[start:]


def _with_inserted(content: bytes, draw: random.Random) -> bytes:
    place = draw.randint(0, len(content))
    what = draw.choice([b"\0" * 16, b"\xff\xfe", b"\xe9", draw.randbytes(32), b'"'])
    return content[:place] + what + content[place:]


def _as_utf16(content: bytes, draw: random.Random) -> bytes:
    return content.decode("latin-1").encode("utf-16")


_OF_BYTES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "empty": lambda content, draw: b"",
    "truncated": lambda content, draw: content[: draw.randrange(len(content))],
    "bits flipped": _flipped,
    "part left out": _without_part,
    "part repeated": _repeated_part,
    "bytes inserted": _with_inserted,
    "UTF-16": _as_utf16,
    "byte order mark": lambda content, draw: b"\xef\xbb\xbf" + content,
    "zeros": lambda content, draw: bytes(len(content)),
    "random bytes": lambda content, draw: draw.randbytes(len(content)),
}

_VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "a text": "text",
    "an empty text": "",
    "a lone surrogate": "\ud800",
    "a list": [1],
    "an empty list": [],
    "an object": {"a": 1},
    "an empty object": {},
    "zero": 0,
    "negative": -1,
    "very negative": -(2**63) - 1,
    "huge": 2**64,
    "huger": 10**400,
    "too many digits": "@digits@",
    "a fraction": 0.5,
    "a large fraction": 1e308,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "nested deeply": _DEEP,
}


def _places(value: Any, path: str = "") -> list[tuple[Any, Any, str]]:
    """Return container, key and path of every value within a value."""
    found = []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, member in list(items):
        where = f"{path}.{key}" if path else f"{key}"
        found.append((value, key, where))
        if isinstance(member, dict | list):
            found += _places(member, where)
    return found


def _of_value(value: Any, draw: random.Random) -> tuple[str, Any]:
    """Change one place of a JSON value; return what was done and the new value."""
    changed = copy.deepcopy(value)
    places = _places(changed) if isinstance(changed, dict | list) else []
    if not places or draw.random() < 0.03:
        name = draw.choice([*_VALUES])
        return f"is {name}", _VALUES[name]
    container, key, where = draw.choice(places)
    how = draw.choice(["deleted", "renamed", "duplicated", *["value"] * 5])
    if how == "value":
        name = draw.choice([*_VALUES])
        container[key] = _VALUES[name]
        return f"{where} is {name}", changed
    if how == "deleted":
        del container[key]
    elif isinstance(container, list):
        container.insert(key, container[key])
        how = "duplicated"
    elif how == "renamed":
        container[f"{key}_"] = container.pop(key)
    else:
        container[f"{key}{_TWICE}"] = draw.choice([*_VALUES.values()])
    return f"{where} {how}", changed


def _written(text: str) -> bytes:
    """Put in what no value of Python can be written as."""
    deep = "[" * _DEPTH + "]" * _DEPTH
    for quote in ('"', "'"):
        text = text.replace(f"{quote}{_DEEP}{quote}", deep)
        text = text.replace(f"{quote}@digits@{quote}", "9" * 5000)
    return text.replace(_TWICE, "").encode("utf-8", "surrogatepass")


def _json(value: Any, indent: int | None = None) -> bytes:
    return _written(json.dumps(value, ensure_ascii=False, indent=indent))


def _of_json(content: bytes, draw: random.Random) -> Mutation:
    name, value = _of_value(json.loads(content), draw)
    return Mutation(name, _json(value, indent=2))


def _of_lines(content: bytes, draw: random.Random) -> Mutation:
    lines = content.splitlines()
    number = draw.randrange(len(lines))
    how = draw.choice(["left out", "repeated", "blank", *["changed"] * 6])
    if how == "left out":
        del lines[number]
    elif how == "repeated":
        lines.insert(number, lines[number])
    elif how == "blank":
        lines[number] = b" "
    else:
        name, value = _of_value(json.loads(lines[number]), draw)
        lines[number] = _json(value)
        how = f"changed: {name}"
    return Mutation(f"line {number + 1} {how}", b"\n".join([*lines, b""]))


def _of_yaml(content: bytes, draw: random.Random) -> Mutation:
    name, value = _of_value(yaml.safe_load(content), draw)
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    if isinstance(value, str):
        text = text.removesuffix("...\n")
    return Mutation(name, _written(text))


def _of_tensors(content: bytes, draw: random.Random) -> Mutation:
    """Change the header, its length or the numbers of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    how = draw.choice(["length", "numbers", *["header"] * 4])
    if how == "length":
        wrong = draw.choice([0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1])
        return Mutation(
            f"header length {wrong}", wrong.to_bytes(8, "little") + content[8:]
        )
    if how == "numbers":
        fill = draw.choice([b"\xff", b"\0", b"\x7f", b"\x80"])
        start, end = sorted(draw.choices(range(len(data) + 1), k=2))
        data = data[:start] + fill * (end - start) + data[end:]
        name = f"bytes {start} to {end} are {fill.hex()}"
    else:
        changed, header = _of_value(header, draw)
        name = f"header: {changed}"
    written = _json(header)
    return Mutation(name, len(written).to_bytes(8, "little") + written + data)


_STRUCTURAL: dict[str, Callable[[bytes, random.Random], Mutation]] = {
    "json": _of_json,
    "lines": _of_lines,
    "yaml": _of_yaml,
    "tensors": _of_tensors,
}
