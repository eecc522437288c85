"""Questions about ICD-10-CM, made from the package simple-icd-10-cm.

Facts (code, description, parent, inclusion terms) are the classification's own;
only the wording of questions and answers is ours. Chapter 20, external causes such
as traffic accidents, is left out: it is no medicine.
"""

import functools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from ogs_env.data import icd10_wording as wording
from ogs_env.data.samples import Sample
from ogs_env.data.sources import source_info
from ogs_env.errors import InputError
from ogs_env.seeding import named_rng

NAME = "icd10cm"
SHORT_NAME = "icd10cm_short"
LICENCE = "MIT (package); the classification is in the public domain"
ATTRIBUTION = (
    "CDC/NCHS and CMS, ICD-10-CM; package simple-icd-10-cm by Stefano Travasci"
)
URL = "https://github.com/StefanoTrv/simple_icd_10_CM"

_LEFT_OUT_CHAPTER = "20"
# Codes of up to six characters; longer ones repeat them by encounter and side.
_LONGEST_CODE = 6
_LONGEST_LIST = 6
_RANGE = re.compile(r" \([A-Z0-9.-]+\)$")
# Inclusion terms that point at other codes, or head a list, name no condition.
_REFERENCE = re.compile(r"[A-Z]\d\d|classif|\(|:$")

Facts = dict[str, str]


@dataclass(frozen=True)
class _Kind:
    """A kind of question: its wordings, and where its facts come from.

    Attributes:
        facts: From (classification, code, generator) to the words that fill the
            wording, or None where the code has no such fact.
    """

    name: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    facts: Callable[["_Classification", str, np.random.Generator], Facts | None]


@dataclass
class _Classification:
    """The package, with what it takes long to find out kept."""

    icd: ModuleType
    codes: list[str] = field(default_factory=list)
    words: set[str] = field(default_factory=set)
    names: Counter[str] = field(default_factory=Counter)
    terms: Counter[str] = field(default_factory=Counter)

    def title(self, item: str) -> str:
        """The description, without the range that chapters and blocks repeat."""
        return _RANGE.sub("", self.icd.get_description(item))

    def name(self, item: str) -> str:
        """The description, as it stands within a sentence."""
        return self.within_sentence(self.title(item))

    def within_sentence(self, text: str) -> str:
        """Write the first word small if the classification does so elsewhere.

        So "Anemia" becomes "anemia", but "Marfan syndrome" and "HIV" stay.
        """
        first = text.split(maxsplit=1)[0].rstrip(",")
        small = first[:1].lower() + first[1:]
        return text[:1].lower() + text[1:] if small in self.words else text

    def chapter(self, code: str) -> str:
        return self.icd.get_ancestors(code)[-1]

    def unique(self, code: str) -> bool:
        """Whether the description stands for this code alone."""
        return self.names[self.name(code).casefold()] == 1

    def included(self, code: str) -> list[str]:
        """Conditions classified here, from both of the classification's lists."""
        icd = self.icd
        terms = (*icd.get_inclusion_term(code), *icd.get_includes(code))
        return [
            self.within_sentence(term) for term in terms if not _REFERENCE.search(term)
        ]

    def siblings(self, code: str) -> list[str]:
        others = self.icd.get_children(self.icd.get_parent(code))
        name = self.name(code)
        return [o for o in others if o != code and self.name(o) != name]


def info(name: str) -> dict[str, Any]:
    """Return name, licence, attribution and url for a manifest."""
    return source_info(name, LICENCE, ATTRIBUTION, URL)


def icd10cm(count: int, seed: int) -> list[Sample]:
    """Make questions with full-sentence answers.

    Args:
        count: How many; every one is about another code while there are codes, and
            all questions differ.
        seed: The same seed gives the same samples.

    Returns:
        Samples with the fields `code` and `kind`.
    """
    return _make(NAME, _LONG_KINDS, count, named_rng(seed, NAME))


def icd10cm_short(count: int, seed: int) -> list[Sample]:
    """Make questions whose whole answer is a word, a number or a code.

    The arguments and fields are those of `icd10cm`.
    """
    return _make(SHORT_NAME, _SHORT_KINDS, count, named_rng(seed, SHORT_NAME))


def _make(
    source: str, kinds: tuple[_Kind, ...], count: int, rng: np.random.Generator
) -> list[Sample]:
    classification = _classification()
    codes = classification.codes
    samples: dict[str, Sample] = {}
    for number in rng.permutation(len(codes)):
        if len(samples) == count:
            break
        code = codes[number]
        # A code lacks some facts (few have inclusion terms): take the first kind, in
        # random order, that it has.
        for choice in rng.permutation(len(kinds)):
            kind = kinds[choice]
            facts = kind.facts(classification, code, rng)
            if facts is not None:
                prompt = _filled(str(rng.choice(kind.questions)), facts)
                response = _filled(str(rng.choice(kind.answers)), facts)
                fields: dict[str, Any] = {"code": code, "kind": kind.name}
                samples.setdefault(prompt, Sample(prompt, response, source, fields))
                break
    if len(samples) < count:
        raise InputError(
            f"{source}: {count:,} samples asked for, one for each of {len(samples):,} "
            "codes can be made; ask for fewer"
        )
    return list(samples.values())


def _filled(text: str, facts: Facts) -> str:
    filled = text.format(**facts)
    starts_with_words = text.startswith(("{name}", "{term}", "{claim}"))
    return filled[:1].upper() + filled[1:] if starts_with_words else filled


@functools.cache
def _classification() -> _Classification:
    try:
        import simple_icd_10_cm
    except ImportError:
        raise InputError(
            f"{NAME}: needs the package simple-icd-10-cm; pip install simple-icd-10-cm"
        ) from None
    icd = simple_icd_10_cm
    found = _Classification(icd)
    # Some categories, such as C50, are a block as well, and are listed twice.
    items = [
        item
        for item in dict.fromkeys(icd.get_all_codes())
        if icd.is_category(item) or not icd.is_chapter_or_block(item)
    ]
    for item in items:
        found.words.update(icd.get_description(item).replace(",", "").split()[1:])
    for item in items:
        found.names[found.name(item).casefold()] += 1
        found.terms.update(term.casefold() for term in found.included(item))
        if len(item) <= _LONGEST_CODE and found.chapter(item) != _LEFT_OUT_CHAPTER:
            found.codes.append(item)
    return found


def _meaning(known: _Classification, code: str, _: np.random.Generator) -> Facts:
    return {"code": code, "name": known.name(code)}


def _code(known: _Classification, code: str, _: np.random.Generator) -> Facts | None:
    if not known.unique(code):
        return None
    return {"code": code, "name": known.name(code)}


def _chapter(known: _Classification, code: str, _: np.random.Generator) -> Facts:
    number = known.chapter(code)
    facts = {"code": code, "name": known.name(code)}
    return facts | {"chapter": number, "chapter_name": known.title(number)}


def _block(known: _Classification, code: str, _: np.random.Generator) -> Facts | None:
    blocks = [a for a in known.icd.get_ancestors(code) if known.icd.is_block(a)]
    # A block that is a category as well would be no news.
    if not blocks or known.icd.is_category(blocks[0]):
        return None
    facts = {"code": code, "name": known.name(code)}
    return facts | {"block": blocks[0], "block_name": known.title(blocks[0])}


def _parent(known: _Classification, code: str, _: np.random.Generator) -> Facts | None:
    parent = known.icd.get_parent(code)
    if not known.icd.is_category_or_subcategory(parent):
        return None
    facts = {"code": code, "name": known.name(code)}
    return facts | {"parent": parent, "parent_name": known.name(parent)}


def _children(
    known: _Classification, code: str, _: np.random.Generator
) -> Facts | None:
    children = known.icd.get_children(code)
    if not 2 <= len(children) <= _LONGEST_LIST:
        return None
    items = [f"{child} ({known.name(child)})" for child in children]
    facts = {"code": code, "name": known.name(code), "number": str(len(children))}
    return facts | {"children": _listed(items)}


def _inclusions(
    known: _Classification, code: str, _: np.random.Generator
) -> Facts | None:
    terms = known.included(code)
    if not 2 <= len(terms) <= _LONGEST_LIST:
        return None
    return {"code": code, "name": known.name(code), "terms": _listed(terms)}


def _term(known: _Classification, code: str, rng: np.random.Generator) -> Facts | None:
    terms = [
        term
        for term in known.included(code)
        if known.terms[term.casefold()] == 1 and known.names[term.casefold()] == 0
    ]
    if not terms:
        return None
    term = str(rng.choice(terms))
    return {"code": code, "name": known.name(code), "term": term}


def _sibling(
    known: _Classification, code: str, rng: np.random.Generator
) -> Facts | None:
    siblings = known.siblings(code)
    if not siblings:
        return None
    other = str(rng.choice(siblings))
    facts = {"code": code, "name": known.name(code)}
    return facts | {"other": other, "other_name": known.name(other)}


def _either(
    known: _Classification, code: str, rng: np.random.Generator
) -> Facts | None:
    facts = _sibling(known, code, rng)
    if facts is None:
        return None
    pair = [code, facts["other"]]
    first, second = pair if rng.random() < 0.5 else pair[::-1]
    return facts | {"first": first, "second": second}


def _yes_meaning(
    known: _Classification, code: str, rng: np.random.Generator
) -> Facts | None:
    facts = _sibling(known, code, rng)
    if facts is None:
        return None
    true = rng.random() < 0.5
    claim = facts["name"] if true else facts["other_name"]
    return facts | {"claim": claim, "truth": "yes" if true else "no"}


def _yes_chapter(
    known: _Classification, code: str, rng: np.random.Generator
) -> Facts | None:
    true = rng.random() < 0.5
    own = known.chapter(code)
    others = [str(number) for number in range(1, 23) if str(number) != own]
    claim = known.title(own if true else str(rng.choice(others)))
    facts = {"code": code, "name": known.name(code), "claim": claim}
    return facts | {"truth": "yes" if true else "no"}


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _kinds(
    texts: dict[str, tuple[tuple[str, ...], tuple[str, ...]]],
    facts: dict[str, Callable[..., Facts | None]],
) -> tuple[_Kind, ...]:
    return tuple(_Kind(name, *texts[name], facts[name]) for name in texts)


_LONG_KINDS = _kinds(
    wording.LONG,
    {
        "meaning": _meaning,
        "code": _code,
        "chapter": _chapter,
        "block": _block,
        "parent": _parent,
        "children": _children,
        "inclusions": _inclusions,
        "term": _term,
        "difference": _sibling,
    },
)
_SHORT_KINDS = _kinds(
    wording.SHORT,
    {
        "yes_meaning": _yes_meaning,
        "yes_chapter": _yes_chapter,
        "bare_code": _code,
        "either_code": _either,
        "chapter_number": _chapter,
    },
)
