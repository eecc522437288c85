"""General knowledge: questions about named people, places and events in WordNet.

WordNet marks some of its nouns as instances: Napoleon is an instance of emperor, the
Nile of river. Each becomes a question that its gloss answers. Glosses about medicine,
law or finance are left out, so that the anchor is outside all domains.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ogs_env.data.samples import Sample
from ogs_env.data.sources import DATA_FOLDER, source_info
from ogs_env.errors import InputError

NAME = "wordnet"
LICENCE = "WordNet 3.0 licence"
ATTRIBUTION = "Princeton University 2006, WordNet 3.0"
URL = "https://wordnet.princeton.edu"

PLACES = ("/usr/share/wordnet", "/usr/local/WordNet-3.0/dict")
_FILE = "data.noun"
_INSTANCE = "@i"
_LEAST_WORDS = 5
_OF_A_DOMAIN = re.compile(
    r"\b(?:medic|physician|doctor|surg|disease|drug|hospital|nurs|health|anatom|physiol"
    r"|patholog|bacteri|virus|vaccin|psychiat|psycho|neurolog|therap|cancer|epidemi"
    r"|plague|pharma|biolog|biochem|genetic|immun|syndrome"
    r"|law|legal|judge|juris|justice|court|attorney|treat(?:y|ies)|legislat|constitution"
    r"|trial|licen[cs]|contract|statut|convict"
    r"|financ|econom|bank|stock|invest|money|monetary|currenc|tax|insur|market|trade"
    r"|commerc|merchant|industrialist|compan|business)",
    re.IGNORECASE,
)
_EXAMPLE = re.compile(r'; "[^"]*"?')


def wordnet() -> list[Sample]:
    """Return a question about every name that has exactly one gloss.

    Raises:
        InputError: If WordNet is in none of its usual folders.
    """
    instances = list(_instances(_folder() / _FILE))
    glosses = Counter(name for name, _ in instances)
    return [
        Sample(
            f"Who or what is {name}?", f"{gloss[0].upper()}{gloss[1:]}.", source=NAME
        )
        for name, gloss in instances
        if glosses[name] == 1
        and len(gloss.split()) >= _LEAST_WORDS
        and not _OF_A_DOMAIN.search(gloss)
    ]


def info() -> dict[str, Any]:
    """Return name, licence, attribution and url for a manifest."""
    return source_info(NAME, LICENCE, ATTRIBUTION, URL)


def _folder() -> Path:
    home, data = os.environ.get("WNHOME"), os.environ.get(DATA_FOLDER)
    places = [Path(place) for place in PLACES]
    if data:
        places.insert(0, Path(data) / "wordnet")
    if home:
        places.insert(0, Path(home) / "dict")
    for place in places:
        if (place / _FILE).is_file():
            return place
    raise InputError(
        f"{NAME}: no {_FILE} in {', '.join(map(str, places))}; install WordNet 3.0 "
        "(Debian: apt install wordnet-base), or set WNHOME to its folder"
    )


def _instances(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the gloss of each instance; the format is wndb(5WN)'s."""
    for line in file.read_text("utf-8").splitlines():
        if line.startswith(" "):  # the licence
            continue
        data, _, gloss = line.partition(" | ")
        columns = data.split()
        if _INSTANCE in columns:
            names = columns[4 : 4 + 2 * int(columns[3], 16) : 2]
            # "Jules Verne" rather than "Verne".
            name = max(names, key=len).replace("_", " ")
            yield name, _EXAMPLE.sub("", gloss).strip(" ;")
