"""The demo's bookkeeping; the demo itself is `make demo`."""

import pytest

from ogs_env.errors import InputError
from ogs_env.experiments.demo import report
from ogs_env.experiments.stages import Stages
from ogs_env.selection import Selection


def selection(sources):
    n = len(sources)
    return Selection(
        ids=[f"{i:016x}" for i in range(n)],
        indices=list(range(n)),
        scores=[0.0] * n,
        sources=sources,
        agent="agent",
        bundle="b",
        space="s",
        budget=n,
        split="all",
        seed=0,
    )


def losses(test, answers, retention):
    own = {"test": test, "answers": answers, "retention": retention}
    return {name: {"per_sample": loss} for name, loss in own.items()}


def test_the_table_shows_losses_sources_and_seconds():
    before, after = losses(3.0, 1.5, 2.0), losses(2.5, 1.75, 2.125)
    result = {"samples": 3, "before": before, "after": after}
    text = report(
        {"agent": result},
        {"agent": selection(["icd10cm", "puzzles", "icd10cm"])},
        {"train": 100.0, "sketch": 20.4},
    )
    assert "3.000 -> 2.500" in text
    assert "1.500 -> 1.750" in text
    assert "2.000 -> 2.125" in text
    assert "2 icd10cm, 1 puzzles" in text
    assert "train 100 s, sketch 20 s; total 120 s" in text


def test_a_stage_that_is_done_keeps_the_seconds_it_took(tmp_path):
    (tmp_path / "seconds.json").write_text('{"sketch": 500.0}')
    stages = Stages(tmp_path, 5)
    assert stages.do("sketch", "sketch again", lambda: 7) == 7
    assert stages.seconds == {"sketch": 500.0}
    stages.do("select", "select", lambda: None)
    assert Stages(tmp_path, 5).seconds.keys() == {"sketch", "select"}


def test_a_stage_that_fails_is_not_noted(tmp_path):
    stages = Stages(tmp_path, 5)
    with pytest.raises(InputError):
        stages.do("train", "train", lambda: (_ for _ in ()).throw(InputError("no")))
    assert not (tmp_path / "seconds.json").exists()
