"""The texts of a bundle's samples, looked up by id."""

from pathlib import Path

import numpy as np
import pytest
from helpers.live_bundle import LiveFiles
from helpers.make_bundle import edit_manifest, make_bundle
from helpers.small_sources import write, write_sources

from ogs_env.bundle import Bundle, load_bundle
from ogs_env.bundle_files import ROLES
from ogs_env.data.domains import DomainData, real_domain
from ogs_env.data.reading import read_samples
from ogs_env.data.samples import Sample
from ogs_env.data.texts import bundle_texts, numbers
from ogs_env.errors import InputError


@pytest.fixture(scope="module")
def tiny(live_files: LiveFiles) -> Bundle:
    return load_bundle(live_files.bundle)


def by_id(data: DomainData) -> dict[str, Sample]:
    groups = [data.pool, data.dev, data.test]
    groups += [*data.anchor.values(), *data.retention.values()]
    return {sample.id: sample for group in groups for sample in group}


def test_files_give_every_sample(tiny: Bundle, live_files: LiveFiles) -> None:
    texts = bundle_texts(tiny, live_files.texts)
    assert texts == by_id(live_files.data)
    assert {texts[id_].source for id_ in tiny.anchor.hex_ids()} == {"sums", "names"}


def test_only_the_given_roles_are_required(tiny: Bundle, live_files: LiveFiles) -> None:
    pool = live_files.texts[:1]
    texts = bundle_texts(tiny, [Path(pool[0])], ("pool",))
    assert set(texts) == set(tiny.pool.hex_ids())
    message = rf"{pool[0]}: 9 of 9 dev samples of bundle 'tiny' are not among the texts"
    with pytest.raises(InputError, match=message):
        bundle_texts(tiny, pool, ("pool", "dev"))
    with pytest.raises(InputError, match="48 of 48 pool samples"):
        bundle_texts(tiny, live_files.texts[1:])


def test_samples_by_id_are_checked(tiny: Bundle, live_files: LiveFiles) -> None:
    texts = by_id(live_files.data)
    assert bundle_texts(tiny, texts) is texts
    missing_id = tiny.dev.hex_ids()[4]
    del texts[missing_id]
    with pytest.raises(
        InputError, match=rf"^texts: 1 of 9 dev .* first is {missing_id}"
    ):
        bundle_texts(tiny, texts)
    assert bundle_texts(tiny, texts, ("pool",)) is texts


def test_fields_of_other_names(tiny: Bundle, tmp_path: Path) -> None:
    lines = [{"q": f"what is {i}?", "a": f"it is {i}"} for i in range(3)]
    write(tmp_path / "pool.jsonl", lines)
    fields = {"prompt_field": "q", "response_field": "a"}
    texts = bundle_texts(tiny, [tmp_path / "pool.jsonl"], (), **fields)
    assert {sample.prompt for sample in texts.values()} == {s["q"] for s in lines}


def of_domain(folder: Path, seed: int, name: str | None) -> tuple[Bundle, DomainData]:
    """A bundle of random sketches with the ids of a small domain."""
    data = real_domain("medical", seed, pool_size=90)
    edit_manifest(make_bundle(folder, pool=90), request={"seed": seed}, name=name)
    bundle = load_bundle(folder)
    groups = [data.pool, data.dev, data.test]
    for own in (data.anchor, data.retention):
        groups.append([*own["maths"], *own["knowledge"]])
    for role, samples in zip(ROLES, groups, strict=True):
        ids = np.array([int(sample.id, 16) for sample in samples], np.uint64)
        getattr(bundle, role).ids = ids
    return bundle, data


def test_a_domain_is_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sources(tmp_path)
    monkeypatch.setenv("OGS_DATA", str(tmp_path))
    bundle, data = of_domain(tmp_path / "named", 7, "medical")
    assert bundle_texts(bundle) == by_id(data)
    other, _ = of_domain(tmp_path / "other", 7, "mine")
    assert bundle_texts(other, "medical") == by_id(data)
    other.manifest["request"]["seed"] = 8
    with pytest.raises(
        InputError, match=r"^domain medical: \d+ of 90 pool samples of bundle 'mine'"
    ):
        bundle_texts(other, "medical")


def test_a_name_that_is_no_domain(tiny: Bundle) -> None:
    with pytest.raises(
        InputError, match=r"bundle 'tiny' are not known; .*medical.*JSON lines.*--texts"
    ):
        bundle_texts(tiny)
    with pytest.raises(InputError, match="expected the name of a domain"):
        bundle_texts(tiny, "pool.jsonl")


@pytest.fixture
def ranked(tmp_path: Path) -> Path:
    """Four samples with a field 'impact', and a blank line."""
    lines = [
        f'{{"prompt": "{i}?", "response": "{i}", "impact": {impact}}}\n'
        for i, impact in enumerate(["3", "1.5", "-2", "0"])
    ]
    lines.insert(2, "\n")
    (tmp_path / "pool.jsonl").write_text("".join(lines))
    return tmp_path / "pool.jsonl"


def test_numbers_are_read(ranked: Path) -> None:
    texts = {sample.id: sample for sample in read_samples(ranked)}
    impacts = numbers(texts, "impact", texts)
    assert list(impacts.values()) == [3.0, 1.5, -2.0, 0.0]
    assert all(isinstance(value, float) for value in impacts.values())
    first = next(iter(texts))
    assert numbers(texts, "impact", [first]) == {first: 3.0}


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ('"impact": "high"', "field 'impact' is 'high'; expected a finite number"),
        ('"impact": true', "field 'impact' is True; expected a finite number"),
        ('"impact": null', "field 'impact' is None; expected a finite number"),
        ('"impact": NaN', "field 'impact' is nan; expected a finite number"),
        ('"impact": Infinity', "field 'impact' is inf; expected a finite number"),
        ('"impact": [1]', r"field 'impact' is \[1\]; expected a finite number"),
        ('"impcat": 2', "lacks the field 'impact'; further fields found: impcat"),
    ],
)
def test_the_error_names_the_line_without_a_number(
    ranked: Path, field: str, message: str
) -> None:
    line = f'{{"prompt": "9?", "response": "9", {field}}}\n'
    ranked.write_text(ranked.read_text() + line)
    texts = {sample.id: sample for sample in read_samples(ranked)}
    *good, bad = texts
    with pytest.raises(InputError, match=rf"^{ranked}:6: {message}$"):
        numbers(texts, "impact", [bad])
    assert len(numbers(texts, "impact", good)) == 4
