"""Domains: build the pool, the domain set and the anchor set from sources."""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ogs_env.data import generated, icd10, licences, wordnet
from ogs_env.data.reading import read_samples
from ogs_env.data.record_files import is_file_or_dataset, stem
from ogs_env.data.samples import (
    Sample,
    beginning,
    check_disjoint,
    without_duplicates,
)
from ogs_env.data.sources import collection, source_info
from ogs_env.errors import InputError, unknown_name
from ogs_env.seeding import named_rng

PUBMEDQA_SHORT = "pubmedqa_short"
MATHS, KNOWLEDGE = "maths", "knowledge"
DEV_SIZE = TEST_SIZE = 64
ANCHOR_SIZE = RETENTION_SIZE = 128
KNOWLEDGE_SIZE = 64


@dataclass(frozen=True)
class Plan:
    """Sources of a domain of real texts.

    Attributes:
        own: The domain's two sources; dev and test have equal parts of each.
        shares: Each source's share of the pool.
    """

    own: tuple[str, str]
    shares: Mapping[str, float]


# Half of a pool is of its domain; the rest is of other domains or has one-word answers.
PLANS: dict[str, Plan] = {
    "medical": Plan(
        own=("medquad", "pubmedqa"),
        shares={
            "medquad": 0.35,
            "pubmedqa": 0.15,
            PUBMEDQA_SHORT: 0.12,
            "tatqa": 0.14,
            "legalbench": 0.12,
            "fibo": 0.12,
        },
    ),
    "legal": Plan(
        own=(licences.NAME, "legalbench"),
        shares={
            licences.NAME: 0.30,
            "legalbench": 0.20,
            PUBMEDQA_SHORT: 0.12,
            "medquad": 0.14,
            "tatqa": 0.12,
            "fibo": 0.12,
        },
    ),
    "financial": Plan(
        own=("tatqa", "fibo"),
        shares={
            "tatqa": 0.28,
            "fibo": 0.22,
            PUBMEDQA_SHORT: 0.12,
            "medquad": 0.14,
            "legalbench": 0.12,
            licences.NAME: 0.12,
        },
    ),
}
PACKAGE_SHARES = {"icd10cm": 0.55, "icd10cm_short": 0.20, "puzzles": 0.25}

ANCHORS = ("gsm8k", "gsm_symbolic", wordnet.NAME)


@dataclass(frozen=True)
class DomainData:
    """The samples of a domain by role; no two roles share a question.

    Attributes:
        name: The domain's name.
        pool: Candidates, in the domain and outside it, in random order.
        dev: Domain samples for rewards and observations.
        test: Domain samples for reports only.
        anchor: Samples of each capability to keep, for rewards and observations.
        retention: Samples of each capability, for reports only.
        capabilities: Names of the capabilities.
        sources: Name, licence, attribution and url of each source, and as `pool` the
            number of its samples in the pool.
        places: Number, from 0, of each pool sample's record in the user's file; empty
            if they are those of the samples.
    """

    name: str
    pool: list[Sample]
    dev: list[Sample]
    test: list[Sample]
    anchor: dict[str, list[Sample]]
    retention: dict[str, list[Sample]]
    capabilities: list[str]
    sources: list[dict[str, Any]]
    places: list[int] = field(default_factory=list)


def real_domain(
    name: str, seed: int = 0, pool_size: int = 1280, *, test_size: int = TEST_SIZE
) -> DomainData:
    """Build a domain of real texts.

    The pool mixes the domain's sources with others (`PLANS`); dev and test have half
    of their samples from each source of the domain. The anchor has two capabilities:
    maths (GSM8K) and general knowledge (WordNet).

    Texts come from the folder `OGS_DATA`, the Hugging Face hub, the package
    licensedcode-data and an installed WordNet.

    Args:
        name: `"medical"`, `"legal"` or `"financial"`.
        seed: Chooses the samples.
        pool_size: Samples in the pool.
        test_size: Samples in test.

    Raises:
        InputError: If a source is not available or is smaller than its share.
    """
    plan = PLANS[name]
    rng = named_rng(seed, f"domain {name}")
    by_source = {source: load_source(source) for source in plan.shares}
    held_out, taken = {}, set[str]()
    for role, size in (("dev", DEV_SIZE), ("test", test_size)):
        held_out[role] = [
            sample
            for source in plan.own
            for sample in _draw(by_source[source], size // 2, taken, rng, distinct=True)
        ]
    pool = _mix(by_source, _counts(plan.shares, pool_size), taken, rng)
    anchors = {
        MATHS: load_anchor("gsm8k", ANCHOR_SIZE, seed),
        KNOWLEDGE: load_anchor(wordnet.NAME, KNOWLEDGE_SIZE, seed),
    }
    return _domain(name, pool, held_out, anchors, map(_info, plan.shares))


def medical_packages(
    seed: int = 0,
    pool_size: int = 1280,
    *,
    shares: Mapping[str, float] = PACKAGE_SHARES,
    own: Sequence[str] = (icd10.NAME,),
    dev_size: int = DEV_SIZE,
    test_size: int = TEST_SIZE,
    anchor_size: int = ANCHOR_SIZE,
) -> DomainData:
    """Build a Medical domain from installed packages, without any download.

    The pool mixes questions about ICD-10-CM with full and with one-word answers, and
    puzzles; dev and test are about ICD-10-CM codes that no pool question is about;
    anchor and retention are gsm_symbolic.

    Args:
        seed: Chooses the samples.
        pool_size: Samples in the pool.
        shares: Each source's share of the pool.
        own: The domain's sources, `"icd10cm"`, `"icd10cm_short"` or both; dev and test
            have equal parts of each.
        dev_size: Samples in dev.
        test_size: Samples in test.
        anchor_size: Samples in anchor, and in retention.
    """
    rng = named_rng(seed, "domain medical-packages")
    counts = _counts(shares, pool_size)
    held_out_size = dev_size + test_size
    # A held-out code excludes at most one sample of each source from the pool.
    makers = {icd10.NAME: icd10.icd10cm, icd10.SHORT_NAME: icd10.icd10cm_short}
    by_source = {
        name: make(counts[name] + held_out_size, seed) for name, make in makers.items()
    }
    by_source[generated.PUZZLES] = generated.puzzles(counts[generated.PUZZLES], seed)
    taken: set[str] = set()
    held_out = {
        role: [
            sample
            for name in own
            for sample in _draw(
                by_source[name], size // len(own), taken, rng, distinct=True
            )
        ]
        for role, size in (("dev", dev_size), ("test", test_size))
    }
    pool = _mix(by_source, counts, taken, rng)
    anchors = {MATHS: load_anchor(generated.GSM_SYMBOLIC, anchor_size, seed)}
    infos = [
        icd10.info(icd10.NAME),
        icd10.info(icd10.SHORT_NAME),
        generated.info(generated.PUZZLES),
    ]
    return _domain("medical-packages", pool, held_out, anchors, infos)


def domains() -> dict[str, Callable[..., DomainData]]:
    """Return by name the functions that build the domains, `f(seed, pool_size)`."""
    real = {name: functools.partial(real_domain, name) for name in PLANS}
    return {**real, "medical-packages": medical_packages}


def load_anchor(
    name_or_path: str | Path,
    count: int = ANCHOR_SIZE,
    seed: int = 0,
    **reading: Any,
) -> tuple[list[Sample], list[Sample], dict[str, Any]]:
    """Load anchor and retention samples of a capability to keep.

    Args:
        name_or_path: `"gsm8k"`, `"gsm_symbolic"`, `"wordnet"`, or a file or
            dataset as for `read_samples`.
        count: Samples in each part. A file with fewer than twice as many is halved.
        seed: Chooses the samples.
        **reading: How to read a file, as for `read_samples`.

    Returns:
        (anchor samples, retention samples, source entry for the manifest); the two
        parts share no question.

    Raises:
        InputError: If the name is unknown or the source too small.
    """
    if count < 1:
        raise InputError(f"anchor: {count} samples; expected at least one")
    rng = named_rng(seed, "anchor")
    name = str(name_or_path)
    if name == "gsm8k":
        taken: set[str] = set()
        train, test = collection("gsm8k_train"), collection("gsm8k_test")
        # Retention first: it comes from the test set, which training must not share.
        retention = _draw(test.load(), count, taken, rng, distinct=True)
        anchor = _draw(train.load(), count, taken, rng, distinct=True)
        return anchor, retention, train.info()
    if name == "gsm_symbolic":
        both = generated.gsm_symbolic(2 * count, seed)
        return both[:count], both[count:], generated.info(generated.GSM_SYMBOLIC)
    if name == wordnet.NAME:
        both = _draw(wordnet.wordnet(), 2 * count, set(), rng, distinct=True)
        return both[:count], both[count:], wordnet.info()
    own = stem(name)
    if not is_file_or_dataset(name):
        raise unknown_name("anchor", name, ANCHORS)
    samples = read_samples(name, source=own, **reading)
    distinct = _draw(samples, None, set(), rng, distinct=True)
    count = min(count, len(distinct) // 2)
    if count == 0:
        raise InputError(
            f"{name}: an anchor is split in two, but this has one question; give at "
            "least two"
        )
    info = source_info(own, "as the file's owner states", "", "")
    return distinct[:count], distinct[count : 2 * count], info


def load_source(source: str) -> list[Sample]:
    """Return all samples of a pool's source."""
    if source == licences.NAME:
        return licences.licence_clauses()
    if source == PUBMEDQA_SHORT:
        return _decisions(load_source("pubmedqa"))
    return without_duplicates(collection(source).load())


def _info(source: str) -> dict[str, Any]:
    """Return the manifest's entry of a pool's source."""
    if source == licences.NAME:
        return licences.info()
    if source == PUBMEDQA_SHORT:
        return collection("pubmedqa").info() | {"name": PUBMEDQA_SHORT}
    return collection(source).info()


def _decisions(samples: Sequence[Sample]) -> list[Sample]:
    """Replace PubMedQA answers by their decision: yes, no or maybe."""
    for sample in samples:
        if sample.fields.get("decision") not in ("yes", "no", "maybe"):
            raise InputError(
                f'pubmedqa: sample {sample.id} ("{beginning(sample.prompt)}") needs a '
                "field 'decision' of yes, no or maybe"
            )
    return [
        replace(sample, response=sample.fields["decision"], source=PUBMEDQA_SHORT)
        for sample in samples
    ]


def question_key(sample: Sample) -> str:
    """Return the question's key; samples with equal keys would leak between roles.

    It is the code for ICD-10-CM, the paragraph and table for TAT-QA, the clause for
    LegalBench, and else the prompt, or the response of a text without a prompt. Case
    and punctuation are ignored.
    """
    if sample.source in (icd10.NAME, icd10.SHORT_NAME):
        return f"{icd10.NAME} {sample.fields['code']}"
    text = sample.prompt or sample.response
    if sample.source == "tatqa":
        text = text.rpartition("\n")[0] or text
    if sample.source == "legalbench":
        text = text.rpartition("\n")[2]
    words = "".join(c if c.isalnum() else " " for c in text.casefold())
    # The prompt of a puzzle may have no letters or digits.
    return " ".join(words.split()) or text


def _draw(
    samples: Sequence[Sample],
    count: int | None,
    taken: set[str],
    rng: np.random.Generator,
    *,
    distinct: bool,
) -> list[Sample]:
    """Draw samples at random whose question is not in `taken`.

    Args:
        samples: The samples to draw from.
        count: How many; None for all.
        taken: Keys of the questions that are excluded.
        rng: The random generator.
        distinct: Draw each question only once and add it to `taken`.
    """
    drawn: list[Sample] = []
    for number in rng.permutation(len(samples)):
        if len(drawn) == count:
            break
        question = question_key(samples[number])
        if question not in taken:
            drawn.append(samples[number])
            if distinct:
                taken.add(question)
    if count is not None and len(drawn) < count:
        name = samples[0].source if samples else "the source"
        raise InputError(
            f"{name}: {count:,} samples needed, {len(drawn):,} left that no other role "
            "uses; choose a smaller pool or add samples"
        )
    return drawn


def _mix(
    by_source: Mapping[str, Sequence[Sample]],
    counts: Mapping[str, int],
    taken: set[str],
    rng: np.random.Generator,
) -> list[Sample]:
    """Draw each source's count for the pool, and shuffle."""
    pool = [
        sample
        for name, count in counts.items()
        for sample in _draw(by_source[name], count, taken, rng, distinct=False)
    ]
    return [pool[number] for number in rng.permutation(len(pool))]


def _counts(shares: Mapping[str, float], size: int) -> dict[str, int]:
    """Split `size` by shares into whole numbers that sum to it."""
    if size < len(shares):
        raise InputError(
            f"pool_size {size}: expected at least {len(shares)}, one for each source"
        )
    edges = np.rint(np.cumsum([0.0, *shares.values()]) * size).astype(int)
    return dict(zip(shares, np.diff(edges).tolist(), strict=True))


def _domain(
    name: str,
    pool: list[Sample],
    held_out: Mapping[str, list[Sample]],
    anchors: Mapping[str, tuple[list[Sample], list[Sample], dict[str, Any]]],
    infos: Iterable[dict[str, Any]],
) -> DomainData:
    """Build the data of a domain and check that its roles share no sample."""
    anchor = {capability: parts[0] for capability, parts in anchors.items()}
    retention = {capability: parts[1] for capability, parts in anchors.items()}
    check_disjoint(
        {
            "pool": pool,
            **held_out,
            "anchor": itertools.chain(*anchor.values()),
            "retention": itertools.chain(*retention.values()),
        }
    )
    in_pool = Counter(sample.source for sample in pool)
    every = [*infos, *(parts[2] for parts in anchors.values())]
    return DomainData(
        name=name,
        pool=pool,
        dev=held_out["dev"],
        test=held_out["test"],
        anchor=anchor,
        retention=retention,
        capabilities=list(anchors),
        sources=[info | {"pool": in_pool[info["name"]]} for info in every],
    )
