from pathlib import Path

import pytest
from helpers.small_sources import write_wordnet

from ogs_env.data import wordnet as module
from ogs_env.data.wordnet import wordnet
from ogs_env.errors import InputError

PLAIN = "an island of the northern sea"


@pytest.fixture(autouse=True)
def no_installed_wordnet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "PLACES", (str(tmp_path / "usual"),))
    monkeypatch.delenv("WNHOME", raising=False)
    monkeypatch.setenv("OGS_DATA", str(tmp_path))


def prompts() -> list[str]:
    return [sample.prompt for sample in wordnet()]


def test_questions_are_about_names_and_glosses_are_the_answers(tmp_path: Path) -> None:
    write_wordnet(
        tmp_path / "wordnet",
        [
            (["Verne", "Jules Verne"], "writer of tales of the sea (1828-1905)"),
            (["Thule"], f'{PLAIN}; "he sailed to Thule"'),
        ],
    )
    samples = [(s.prompt, s.response, s.source) for s in wordnet()]
    assert samples == [
        (
            "Who or what is Jules Verne?",
            "Writer of tales of the sea (1828-1905).",
            "wordnet",
        ),
        ("Who or what is Thule?", "An island of the northern sea.", "wordnet"),
    ]


def test_names_of_several_and_short_glosses_are_left_out(tmp_path: Path) -> None:
    instances = [(["Paris"], PLAIN), (["Paris"], "prince of an old city"), (["B"], "c")]
    write_wordnet(tmp_path / "wordnet", instances)
    assert wordnet() == []


@pytest.mark.parametrize(
    ("gloss", "included"),
    [
        ("French physician who described a disease of the eye", False),
        ("United States jurist who was a judge for years", False),
        ("Scottish economist who wrote about free trade", False),
        ("a river in the county that flows south", True),
        ("an awkward outlaw of the old tales told", True),
    ],
)
def test_glosses_about_a_domain_are_left_out(
    tmp_path: Path, gloss: str, included: bool
) -> None:
    write_wordnet(tmp_path / "wordnet", [(["Name"], gloss)])
    assert bool(wordnet()) == included


def test_wordnet_is_found_in_its_usual_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"no data\.noun in .*usual; install WordNet"):
        wordnet()
    write_wordnet(tmp_path / "usual", [(["Usual"], PLAIN)])
    assert prompts() == ["Who or what is Usual?"]
    write_wordnet(tmp_path / "home" / "dict", [(["Home"], PLAIN)])
    monkeypatch.setenv("WNHOME", str(tmp_path / "home"))
    assert prompts() == ["Who or what is Home?"]
