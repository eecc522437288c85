"""Bundles with one flipped bit: each is refused when it is loaded."""

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ogs_env.bundle import Bundle
from ogs_env.bundle_files import MANIFEST
from ogs_env.errors import InputError


def run(bundle: Path, every: int) -> dict[str, Any]:
    """Flip a bit of the bytes of all files in turn, and load the bundle.

    The bundle's files are restored.

    Args:
        bundle: A valid bundle; it is changed meanwhile.
        every: 1 for each byte, N for each Nth.

    Returns:
        The figures. A flip in the manifest that changes no value the bundle depends on
        is not noticed; `unnoticed` counts these by field. Elsewhere, or with another
        error than `InputError`, a flip has failed.
    """
    Bundle(bundle)
    files: dict[str, Counter[str]] = {}
    unnoticed: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    for file in sorted(bundle.iterdir()):
        content = file.read_bytes()
        counts = files[file.name] = Counter()
        draw = random.Random(file.name)
        for place in range(0, len(content), every):
            changed = bytearray(content)
            changed[place] ^= 1 << draw.randrange(8)
            file.write_bytes(changed)
            outcome = _outcome(bundle)
            counts[outcome.partition(":")[0]] += 1
            if outcome == "loaded" and file.name == MANIFEST:
                unnoticed[_changed_field(content, bytes(changed))] += 1
            elif outcome != "refused":
                failures.append(
                    {
                        "file": file.name,
                        "byte": place,
                        "was": content[max(0, place - 40) : place + 20].decode(
                            errors="replace"
                        ),
                        "value": changed[place],
                        "outcome": outcome,
                    }
                )
        file.write_bytes(content)
        print(f"flipped: {file.name}, {len(content)} bytes, {dict(counts)}", flush=True)
    Bundle(bundle)
    return {
        "flips": sum(count for own in files.values() for count in own.values()),
        "every": every,
        "files": {name: dict(own) for name, own in files.items()},
        "unnoticed": dict(unnoticed.most_common()),
        "failed": len(failures),
        "failures": failures,
    }


def _outcome(bundle: Path) -> str:
    try:
        Bundle(bundle)
    except InputError:
        return "refused"
    except Exception as error:
        return f"error: {type(error).__name__}: {error}"
    return "loaded"


def _changed_field(before: bytes, after: bytes) -> str:
    """Return the field in which two manifests differ."""
    old, new = (dict(_fields(json.loads(text))) for text in (before, after))
    # A flip in a name takes fields away and adds others.
    changed = [name for name in old if name not in new or old[name] != new[name]]
    name = changed[0] if changed else "white space"
    kind = "name of " if name in old and name not in new else ""
    name = re.sub(r"[\w-]+-\d{5}\.safetensors", "FILE", name)
    return kind + re.sub(r"\[\d+\]", "[]", name)


def _fields(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield names and values of all leaves."""
    if isinstance(value, dict):
        for key, member in value.items():
            yield from _fields(member, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for number, member in enumerate(value):
            yield from _fields(member, f"{name}[{number}]")
    else:
        yield name, value
