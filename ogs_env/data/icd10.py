"""Questions about ICD-10-CM, generated from the package simple-icd-10-cm.

Facts (code, description, parent, inclusion terms) come from the classification; only
the wording of questions and answers is added. Chapter 20, external causes such as
traffic accidents, is left out because it is not about medicine.
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

_EXCLUDED_CHAPTER = "20"
# Longer codes repeat those of six characters by encounter and side.
_LONGEST_CODE = 6
_LONGEST_LIST = 6
_RANGE = re.compile(r" \([A-Z0-9.-]+\)$")
# Inclusion terms that refer to other codes or introduce a list name no condition.
_REFERENCE = re.compile(r"[A-Z]\d\d|classif|\(|:$")

Facts = dict[str, str]


@dataclass(frozen=True)
class _Kind:
    """A kind of question: its wordings and the source of its facts.

    Attributes:
        name: Its name in the samples' field `kind`.
        questions: Wordings of the question, with placeholders.
        answers: Wordings of the answer, with placeholders.
        facts: Function of (classification, code, generator) that returns the values of
            the placeholders, or None if the code has no such fact.
    """

    name: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    facts: Callable[["_Classification", str, np.random.Generator], Facts | None]


@dataclass
class _Classification:
    """The classification, with cached indices of its descriptions.

    Attributes:
        icd: The package.
        codes: Codes that questions are about.
        words: Words of the descriptions, except first words.
        names: Number of codes by description, in lower case.
        terms: Number of codes by inclusion term, in lower case.
    """

    icd: ModuleType
    codes: list[str] = field(default_factory=list)
    words: set[str] = field(default_factory=set)
    names: Counter[str] = field(default_factory=Counter)
    terms: Counter[str] = field(default_factory=Counter)

    def title(self, item: str) -> str:
        """Return the description, without the code range of chapters and blocks."""
        return _RANGE.sub("", self.icd.get_description(item))

    def name(self, item: str) -> str:
        """Return the description as written within a sentence."""
        return self.within_sentence(self.title(item))

    def within_sentence(self, text: str) -> str:
        """Write the first word in lower case if the classification does so elsewhere.

        So "Anemia" becomes "anemia", but "Marfan syndrome" and "HIV" do not change.
        """
        first = text.split(maxsplit=1)[0].rstrip(",")
        lower = first[:1].lower() + first[1:]
        return text[:1].lower() + text[1:] if lower in self.words else text

    def chapter(self, code: str) -> str:
        """Return the number of the code's chapter."""
        return self.icd.get_ancestors(code)[-1]

    def unique(self, code: str) -> bool:
        """Whether no other code has this description."""
        return self.names[self.name(code).casefold()] == 1

    def included(self, code: str) -> list[str]:
        """Return the conditions that a code includes, from both inclusion lists."""
        icd = self.icd
        terms = (*icd.get_inclusion_term(code), *icd.get_includes(code))
        return [
            self.within_sentence(term) for term in terms if not _REFERENCE.search(term)
        ]

    def siblings(self, code: str) -> list[str]:
        """Return the parent's other codes that have another description."""
        others = self.icd.get_children(self.icd.get_parent(code))
        name = self.name(code)
        return [o for o in others if o != code and self.name(o) != name]


def info(name: str) -> dict[str, Any]:
    """Return name, licence, attribution and url for a manifest."""
    return source_info(name, LICENCE, ATTRIBUTION, URL)


def icd10cm(count: int, seed: int) -> list[Sample]:
    """Generate questions with full-sentence answers.

    Args:
        count: How many; each is about another code, and all questions differ.
        seed: The same seed gives the same samples.

    Returns:
        Samples with the fields `code` and `kind`.
    """
    return _make(NAME, _LONG_KINDS, count, named_rng(seed, NAME))


def icd10cm_short(count: int, seed: int) -> list[Sample]:
    """Generate questions whose whole answer is a word, a number or a code.

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
        # Codes lack some facts, so take the first kind, in random order, for which the
        # code has them.
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
            f"{NAME}: needs the package simple-icd-10-cm; run `pip install "
            "simple-icd-10-cm`"
        ) from None
    icd = simple_icd_10_cm
    classification = _Classification(icd)
    # Some categories, such as C50, are a block as well, and are listed twice.
    items = [
        item
        for item in dict.fromkeys(icd.get_all_codes())
        if icd.is_category(item) or not icd.is_chapter_or_block(item)
    ]
    for item in items:
        description = icd.get_description(item)
        classification.words.update(description.replace(",", "").split()[1:])
    for item in items:
        classification.names[classification.name(item).casefold()] += 1
        terms = classification.included(item)
        classification.terms.update(term.casefold() for term in terms)
        excluded = classification.chapter(item) == _EXCLUDED_CHAPTER
        if len(item) <= _LONGEST_CODE and not excluded:
            classification.codes.append(item)
    return classification


def _meaning(
    classification: _Classification, code: str, _: np.random.Generator
) -> Facts:
    return {"code": code, "name": classification.name(code)}


def _code(
    classification: _Classification, code: str, _: np.random.Generator
) -> Facts | None:
    if not classification.unique(code):
        return None
    return {"code": code, "name": classification.name(code)}


def _chapter(
    classification: _Classification, code: str, _: np.random.Generator
) -> Facts:
    number = classification.chapter(code)
    facts = {"code": code, "name": classification.name(code)}
    return facts | {"chapter": number, "chapter_name": classification.title(number)}


def _block(
    classification: _Classification, code: str, _: np.random.Generator
) -> Facts | None:
    icd = classification.icd
    blocks = [item for item in icd.get_ancestors(code) if icd.is_block(item)]
    # A block that is also a category would repeat the code's own category.
    if not blocks or icd.is_category(blocks[0]):
        return None
    facts = {"code": code, "name": classification.name(code)}
    return facts | {"block": blocks[0], "block_name": classification.title(blocks[0])}


def _parent(
    classification: _Classification, code: str, _: np.random.Generator
) -> Facts | None:
    parent = classification.icd.get_parent(code)
    if not classification.icd.is_category_or_subcategory(parent):
        return None
    facts = {"code": code, "name": classification.name(code)}
    return facts | {"parent": parent, "parent_name": classification.name(parent)}


def _children(
    classification: _Classification, code: str, _: np.random.Generator
) -> Facts | None:
    children = classification.icd.get_children(code)
    if not 2 <= len(children) <= _LONGEST_LIST:
        return None
    items = [f"{child} ({classification.name(child)})" for child in children]
    facts = {
        "code": code,
        "name": classification.name(code),
        "number": str(len(children)),
    }
    return facts | {"children": _listed(items)}


def _inclusions(
    classification: _Classification, code: str, _: np.random.Generator
) -> Facts | None:
    terms = classification.included(code)
    if not 2 <= len(terms) <= _LONGEST_LIST:
        return None
    return {"code": code, "name": classification.name(code), "terms": _listed(terms)}


def _term(
    classification: _Classification, code: str, rng: np.random.Generator
) -> Facts | None:
    terms = [
        term
        for term in classification.included(code)
        if classification.terms[term.casefold()] == 1
        and classification.names[term.casefold()] == 0
    ]
    if not terms:
        return None
    term = str(rng.choice(terms))
    return {"code": code, "name": classification.name(code), "term": term}


def _sibling(
    classification: _Classification, code: str, rng: np.random.Generator
) -> Facts | None:
    siblings = classification.siblings(code)
    if not siblings:
        return None
    other = str(rng.choice(siblings))
    facts = {"code": code, "name": classification.name(code)}
    return facts | {"other": other, "other_name": classification.name(other)}


def _either(
    classification: _Classification, code: str, rng: np.random.Generator
) -> Facts | None:
    facts = _sibling(classification, code, rng)
    if facts is None:
        return None
    pair = [code, facts["other"]]
    first, second = pair if rng.random() < 0.5 else pair[::-1]
    return facts | {"first": first, "second": second}


def _yes_meaning(
    classification: _Classification, code: str, rng: np.random.Generator
) -> Facts | None:
    facts = _sibling(classification, code, rng)
    if facts is None:
        return None
    true = rng.random() < 0.5
    claim = facts["name"] if true else facts["other_name"]
    return facts | {"claim": claim, "truth": "yes" if true else "no"}


def _yes_chapter(
    classification: _Classification, code: str, rng: np.random.Generator
) -> Facts | None:
    true = rng.random() < 0.5
    own = classification.chapter(code)
    others = [str(number) for number in range(1, 23) if str(number) != own]
    claim = classification.title(own if true else str(rng.choice(others)))
    facts = {"code": code, "name": classification.name(code), "claim": claim}
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
