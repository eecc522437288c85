import re
from collections import defaultdict

import pytest
import simple_icd_10_cm as icd

from ogs_env.data.icd10 import icd10cm, icd10cm_short
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError

CODE = r"[A-Z]\d[\dA-Z](?:\.[\dA-Z]{1,4})?"


@pytest.fixture(scope="module")
def long() -> list[Sample]:
    return icd10cm(3000, 0)


@pytest.fixture(scope="module")
def short() -> list[Sample]:
    return icd10cm_short(1500, 0)


def title(item: str) -> str:
    return re.sub(r" \([A-Z0-9.-]+\)$", "", icd.get_description(item)).casefold()


def by_kind(samples: list[Sample]) -> dict[str, list[tuple[str, str, str]]]:
    """Return (code, prompt, response) of each kind, in lower case."""
    kinds: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for one in samples:
        texts = (one.prompt.casefold(), one.response.casefold())
        kinds[one.fields["kind"]].append((one.fields["code"], *texts))
    return kinds


def all_descriptions() -> dict[str, set[str]]:
    holders: dict[str, set[str]] = defaultdict(set)
    for item in icd.get_all_codes():
        if icd.is_category(item) or not icd.is_chapter_or_block(item):
            holders[title(item)].add(item)
    return holders


def test_each_code_once_and_no_external_causes(long: list[Sample]) -> None:
    codes = [sample.fields["code"] for sample in long]
    assert len(set(codes)) == len(codes)
    assert all(icd.get_ancestors(code)[-1] != "20" for code in codes)


def test_names_and_codes_are_those_of_the_classification(long: list[Sample]) -> None:
    kinds = by_kind(long)
    assert len(kinds) == 9
    holders = all_descriptions()
    for code, prompt, response in kinds["meaning"]:
        assert code.casefold() in prompt
        assert title(code) in response
    for code, prompt, response in kinds["code"]:
        assert title(code) in prompt
        assert code.casefold() in response
        assert holders[title(code)] == {code}
    for code, _, response in kinds["chapter"]:
        chapter = icd.get_ancestors(code)[-1]
        assert title(chapter) in response
        assert re.search(rf"\b{chapter}\b", response)
    for code, _, response in kinds["block"]:
        blocks = [a for a in icd.get_ancestors(code) if icd.is_block(a)]
        assert blocks[0].casefold() in response
        assert title(blocks[0]) in response
    for code, _, response in kinds["parent"]:
        assert icd.get_parent(code).casefold() in response
        assert title(icd.get_parent(code)) in response


def test_lists_and_terms_are_those_of_the_classification(long: list[Sample]) -> None:
    kinds = by_kind(long)
    for code, _, response in kinds["children"]:
        for child in icd.get_children(code):
            assert f"{child.casefold()} ({title(child)})" in response
    for code, _, response in kinds["inclusions"]:
        terms = [*icd.get_inclusion_term(code), *icd.get_includes(code)]
        assert sum(term.casefold() in response for term in terms) >= 2
    for code, prompt, response in kinds["term"]:
        terms = [*icd.get_inclusion_term(code), *icd.get_includes(code)]
        assert any(term.casefold() in prompt for term in terms)
        assert code.casefold() in response
        assert title(code) in response
    for code, _, response in kinds["difference"]:
        codes = {c for c in re.findall(CODE, response.upper()) if icd.is_valid_item(c)}
        assert code in codes
        assert all(title(c) in response for c in codes - {icd.get_parent(code)})


def test_short_answers_are_right_and_nothing_else(short: list[Sample]) -> None:
    kinds = by_kind(short)
    assert len(kinds) == 5
    assert max(len(sample.response.split()) for sample in short) == 1
    for code, prompt, response in kinds["yes_meaning"]:
        assert (title(code) in prompt) >= (response == "yes")
        names = [title(c) for c in icd.get_children(icd.get_parent(code))]
        # The claim is the longest sibling's name in the prompt.
        claimed = max((name for name in names if name in prompt), key=len)
        assert response == ("yes" if claimed == title(code) else "no")
    for code, prompt, response in kinds["yes_chapter"]:
        claimed = title(icd.get_ancestors(code)[-1])
        assert response == ("yes" if f"'{claimed}'" in prompt else "no")
    for code, prompt, response in kinds["bare_code"]:
        assert title(code) in prompt
        assert response == code.casefold()
    for code, prompt, response in kinds["either_code"]:
        assert response == code.casefold()
        assert title(code) in prompt
        assert f"{response} or " in prompt or f" or {response}" in prompt
    for code, _, response in kinds["chapter_number"]:
        assert response == icd.get_ancestors(code)[-1]


def test_yes_and_no_are_balanced(short: list[Sample]) -> None:
    answers = [sample.response for sample in short]
    share = answers.count("yes") / (answers.count("yes") + answers.count("no"))
    assert 0.4 < share < 0.6
    first = [
        f"{sample.response} or " in sample.prompt
        for sample in short
        if sample.fields["kind"] == "either_code"
    ]
    assert 0.4 < sum(first) / len(first) < 0.6


def test_wordings_vary(long: list[Sample], short: list[Sample]) -> None:
    def frames(samples: list[Sample], part: str) -> set[str]:
        """Return the texts without codes and the code's own description."""
        wordings = set()
        for sample in samples:
            if sample.fields["kind"] in ("meaning", "code", "chapter", "bare_code"):
                code = sample.fields["code"]
                text = getattr(sample, part).casefold()
                text = text.replace(title(code), "N").replace(code.casefold(), "C")
                wordings.add(re.sub(r"chapter.*", "", text))
        return wordings

    assert len(frames(long, "prompt")) >= 18
    assert len(frames(long, "response")) >= 13
    assert len(frames(short, "prompt")) >= 4


def test_names_read_as_in_a_sentence(long: list[Sample]) -> None:
    texts = " ".join(f"{s.prompt} {s.response}" for s in long)
    assert " for other " in texts
    assert " for Other " not in texts
    assert "crohn" not in texts
    assert all(s.response[0].isupper() or s.response[0].isdigit() for s in long)


def test_more_than_there_are_codes() -> None:
    with pytest.raises(InputError, match=r"100,000 samples asked for, one for each of"):
        icd10cm(100_000, 0)
