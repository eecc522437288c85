from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.small_sources import write, write_sources

from ogs_env.data.domains import (
    PLANS,
    DomainData,
    domains,
    load_anchor,
    medical_packages,
    real_domain,
)
from ogs_env.data.samples import Sample, check_disjoint
from ogs_env.errors import InputError


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small files in which questions repeat, as in the real ones."""
    write_sources(tmp_path)
    monkeypatch.setenv("OGS_DATA", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def words(sample: Sample) -> str:
    return "".join(sample.prompt.casefold().split())


def roles(data: DomainData) -> dict[str, list[Sample]]:
    return {
        "pool": data.pool,
        "dev": data.dev,
        "test": data.test,
        "anchor": [s for own in data.anchor.values() for s in own],
        "retention": [s for own in data.retention.values() for s in own],
    }


def assert_no_prompt_in_two_roles(data: DomainData) -> None:
    check_disjoint(roles(data))
    prompts = {role: {words(s) for s in some} for role, some in roles(data).items()}
    names = list(prompts)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not prompts[one] & prompts[other], (one, other)


@pytest.mark.usefixtures("data_folder")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", PLANS)
def test_real_roles_share_no_question(name: str, seed: int) -> None:
    data = real_domain(name, seed, pool_size=300)
    assert_no_prompt_in_two_roles(data)
    assert len({sample.id for sample in data.pool}) == len(data.pool) == 300
    for role in (data.dev, data.test):
        assert Counter(s.source for s in role) == dict.fromkeys(PLANS[name].own, 32)
        assert len({words(sample) for sample in role}) == 64
    for part in (data.anchor, data.retention):
        assert {c: len(own) for c, own in part.items()} == {
            "maths": 128,
            "knowledge": 64,
        }
    assert {words(s)[:10] for s in data.retention["maths"]} == {"gsm8k_test"}
    assert {s.source for s in data.anchor["knowledge"]} == {"wordnet"}
    assert data.capabilities == ["maths", "knowledge"]


@pytest.mark.usefixtures("data_folder")
@pytest.mark.parametrize(
    ("name", "source", "part"), [("financial", "tatqa", 0), ("legal", "legalbench", -1)]
)
def test_held_out_tables_and_clauses_are_not_in_the_pool(
    name: str, source: str, part: int
) -> None:
    data = real_domain(name, 0, pool_size=300)
    contexts = {
        role: [s.prompt.split("\n")[part] for s in some if s.source == source]
        for role, some in roles(data).items()
    }
    assert len(set(contexts["dev"])) == len(set(contexts["test"])) == 32
    assert not set(contexts["pool"]) & {*contexts["dev"], *contexts["test"]}
    assert not set(contexts["dev"]) & set(contexts["test"])


@pytest.mark.usefixtures("data_folder")
@pytest.mark.parametrize("name", PLANS)
def test_real_pool_is_mixed_by_its_shares(name: str) -> None:
    data = real_domain(name, 0, pool_size=300)
    counts = Counter(sample.source for sample in data.pool)
    shares = PLANS[name].shares
    assert sum(shares.values()) == pytest.approx(1)
    assert sum(shares[own] for own in PLANS[name].own) == pytest.approx(0.5)
    for source, share in shares.items():
        assert abs(counts[source] - 300 * share) <= 1
    assert {info["name"]: info["pool"] for info in data.sources} == {
        **counts,
        "gsm8k": 0,
        "wordnet": 0,
    }
    assert all(info["licence"] and info["url"] for info in data.sources)
    answers = {s.response for s in data.pool if s.source == "pubmedqa_short"}
    assert answers == {"maybe"}
    # Sources are mixed over the whole pool.
    assert len({sample.source for sample in data.pool[:30]}) >= 4


@pytest.mark.usefixtures("data_folder")
@pytest.mark.parametrize(
    "make",
    [
        lambda seed: real_domain("legal", seed, 300),
        lambda seed: load_domain_small(seed),
    ],
)
def test_domains_depend_only_on_the_seed(make: Callable[[int], DomainData]) -> None:
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert roles(make(0)) == roles(make(0))
    for role, samples in roles(make(0)).items():
        assert samples != roles(make(1))[role]
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def load_domain_small(seed: int) -> DomainData:
    return medical_packages(seed, pool_size=120)


def test_package_roles_share_no_question_and_no_code() -> None:
    data = medical_packages(0, 400)
    assert_no_prompt_in_two_roles(data)
    counts = Counter(sample.source for sample in data.pool)
    assert counts == {"icd10cm": 220, "icd10cm_short": 80, "puzzles": 100}
    codes = {
        role: {s.fields["code"] for s in some if "code" in s.fields}
        for role, some in roles(data).items()
    }
    assert not codes["pool"] & (codes["dev"] | codes["test"])
    assert not codes["dev"] & codes["test"]
    assert {s.source for s in data.dev + data.test} == {"icd10cm"}
    sizes = {role: len(some) for role, some in roles(data).items()}
    assert list(sizes.values()) == [400, 64, 64, 128, 128]
    named = {info["name"] for info in data.sources}
    assert named == {s.source for some in roles(data).values() for s in some}


def test_the_domain_may_have_both_kinds_of_questions():
    data = medical_packages(
        2,
        40,
        shares={"icd10cm": 0.25, "icd10cm_short": 0.25, "puzzles": 0.5},
        own=("icd10cm", "icd10cm_short"),
        dev_size=6,
        test_size=8,
        anchor_size=4,
    )
    counts = Counter(sample.source for sample in data.pool)
    assert counts == {"icd10cm": 10, "icd10cm_short": 10, "puzzles": 20}
    for role, size in (data.dev, 3), (data.test, 4):
        counts = Counter(sample.source for sample in role)
        assert counts == {"icd10cm": size, "icd10cm_short": size}


def test_package_sizes_are_parameters() -> None:
    data = medical_packages(1, 30, dev_size=4, test_size=3, anchor_size=5)
    sizes = [len(some) for some in roles(data).values()]
    assert sizes == [30, 4, 3, 5, 5]


def test_a_source_too_small_for_the_pool(data_folder: Path) -> None:
    with pytest.raises(InputError, match="pubmedqa: 72 samples needed, 66 left"):
        real_domain("medical", 0, pool_size=480)
    with pytest.raises(InputError, match="pool_size 3: expected at least 6"):
        real_domain("medical", 0, pool_size=3)
    (data_folder / "pubmedqa.jsonl").write_text('{"prompt": "Q", "response": "A"}')
    with pytest.raises(InputError, match=r'pubmedqa: sample .*"Q".*yes, no or maybe'):
        real_domain("medical", 0, pool_size=300)


def test_domain_names_and_unknown_anchors() -> None:
    assert set(domains()) == {"medical", "legal", "financial", "medical-packages"}
    with pytest.raises(InputError, match="unknown anchor 'gsm8'; did you mean gsm8k"):
        load_anchor("gsm8")
    with pytest.raises(InputError, match=r"none\.jsonl: no such file"):
        load_anchor("none.jsonl")
    with pytest.raises(InputError, match="anchor: 0 samples; expected at least one"):
        load_anchor("gsm_symbolic", 0)


@pytest.mark.parametrize(("rows", "expected"), [(40, 10), (13, 6), (2, 1)])
def test_anchor_from_a_file(tmp_path: Path, rows: int, expected: int) -> None:
    path = tmp_path / "law.jsonl"
    write(path, [{"prompt": f"{i}?", "response": "yes"} for i in range(rows)])
    anchor, retention, info = load_anchor(path, 10, seed=0)
    assert len(anchor) == len(retention) == expected
    check_disjoint({"anchor": anchor, "retention": retention})
    assert {sample.source for sample in anchor} == {info["name"]} == {"law"}
    assert load_anchor(path, 10, seed=0)[0] == anchor


def test_an_anchor_of_texts_without_prompts(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    write(path, [{"text": f"note {i}"} for i in range(9)])
    anchor, retention, _ = load_anchor(path, 10, seed=0)
    assert len({sample.response for sample in [*anchor, *retention]}) == 8


def test_anchor_file_with_one_question(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"prompt": "Q", "response": r} for r in "xy"])
    with pytest.raises(InputError, match="has one question; give at least two"):
        load_anchor(tmp_path / "a.jsonl")


@pytest.mark.parametrize("name", ["gsm_symbolic", "gsm8k", "wordnet"])
@pytest.mark.usefixtures("data_folder")
def test_named_anchors(name: str) -> None:
    anchor, retention, info = load_anchor(name, 60, seed=0)
    assert len(anchor) == len(retention) == 60
    assert not {words(s) for s in anchor} & {words(s) for s in retention}
    assert info["licence"]
    assert {s.source for s in anchor + retention} == {info["name"]} == {name}
