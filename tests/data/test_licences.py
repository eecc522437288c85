from pathlib import Path

import numpy as np
import pytest
from helpers.small_sources import WORDS, write_licences

from ogs_env.data.licences import licence_clauses
from ogs_env.errors import InputError

RNG = np.random.default_rng(4)


def clause(words: int) -> str:
    return " ".join(RNG.choice(WORDS, words))


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the package's licences by the test's own."""
    monkeypatch.setattr("sys.path", [str(tmp_path)])


def test_the_response_continues_the_prompts_clause(tmp_path: Path) -> None:
    text = clause(40)
    wrapped = text.replace(" ", "\n    ", 5)
    write_licences(tmp_path, {"own-1.0": ["Heading", wrapped, clause(20), clause(150)]})
    [sample] = licence_clauses()
    beginning = sample.prompt.removeprefix("Continue this clause of a licence: ")
    assert f"{beginning} {sample.response}" == text
    assert len(beginning.split()) == 15
    assert sample.fields == {"licence": "own-1.0"}


def test_near_duplicates_are_left_out(tmp_path: Path) -> None:
    first = clause(60).split()
    near = [word.upper() for word in first]
    near[30] = "otherwise,"  # five of 56 phrases differ
    half_new = [*first[:20], *clause(40).split()]  # 16 of 56 phrases are known
    texts = {
        "a": [" ".join(first)],
        "b": [" ".join(near)],
        "c": [" ".join(half_new)],
    }
    write_licences(tmp_path, texts)
    assert [s.fields["licence"] for s in licence_clauses()] == ["a", "c"]


def test_other_languages_and_bare_headers_are_left_out(tmp_path: Path) -> None:
    write_licences(tmp_path, {"de": [clause(50)]}, language="de")
    write_licences(tmp_path, {"bare": []})
    write_licences(tmp_path, {"en": [clause(50)]})
    assert [s.fields["licence"] for s in licence_clauses()] == ["en"]


def test_without_the_package() -> None:
    with pytest.raises(InputError, match="pip install --no-deps licensedcode-data"):
        licence_clauses()
