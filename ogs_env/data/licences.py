"""Clauses of licences, from the package licensedcode-data.

A clause is a paragraph of 30 to 140 words; the prompt is its beginning. Licences copy
each other, so a clause that shares most phrases with earlier ones is left out.
"""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ogs_env.data.samples import Sample
from ogs_env.data.sources import source_info
from ogs_env.errors import InputError

NAME = "licence_clauses"
LICENCE = "CC-BY-4.0"
ATTRIBUTION = "nexB Inc. and others, ScanCode LicenseDB"
URL = "https://scancode-licensedb.aboutcode.org"

LEAST_WORDS, MOST_WORDS = 30, 140
_BEGINNING = 15  # words of the prompt
_PHRASE = 5  # words of a phrase
_MARK = re.compile(r"^---$", re.MULTILINE)  # before and after a file's header
_KNOWN_SHARE = 0.5
_PACKAGE = "licensedcode-data"


def licence_clauses() -> list[Sample]:
    """Return a sample of every clause that differs from the earlier ones.

    Files are read in order of their names. A clause is left out if more than half of
    its phrases of five words are in earlier clauses of the result.

    Raises:
        InputError: If the package licensedcode-data is not installed.
    """
    samples, known = [], set[tuple[str, ...]]()
    for key, words in _clauses():
        plain = [re.sub(r"\W", "", word).casefold() for word in words]
        phrases = {
            tuple(plain[i : i + _PHRASE]) for i in range(len(plain) - _PHRASE + 1)
        }
        if len(phrases & known) > _KNOWN_SHARE * len(phrases):
            continue
        known |= phrases
        beginning = " ".join(words[:_BEGINNING])
        samples.append(
            Sample(
                f"Continue this clause of a licence: {beginning}",
                " ".join(words[_BEGINNING:]),
                source=NAME,
                fields={"licence": key},
            )
        )
    return samples


def info() -> dict[str, Any]:
    """Return name, licence, attribution and url for a manifest."""
    return source_info(NAME, LICENCE, ATTRIBUTION, URL)


def _clauses() -> Iterator[tuple[str, list[str]]]:
    """Yield the licence's key and the words of each English clause."""
    for file in sorted(_folder().glob("*.LICENSE")):
        _, header, *text = _MARK.split(file.read_text("utf-8"), 2)
        if not text or re.search(r"^language:", header, re.MULTILINE):
            continue
        for paragraph in re.split(r"\n\s*\n", text[0]):
            words = paragraph.split()
            if LEAST_WORDS <= len(words) <= MOST_WORDS:
                yield file.stem, words


def _folder() -> Path:
    spec = importlib.util.find_spec("licensedcode")
    for place in (spec and spec.submodule_search_locations) or ():
        if (folder := Path(place) / "data" / "licenses").is_dir():
            return folder
    raise InputError(
        f"{NAME}: the package {_PACKAGE} is not installed; run "
        f"`pip install --no-deps {_PACKAGE}`"
    )
