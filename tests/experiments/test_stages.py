"""The stages of a long command."""

import pytest

from ogs_env.errors import InputError
from ogs_env.experiments.stages import Stages


def test_a_finished_stage_keeps_its_duration(tmp_path):
    (tmp_path / "seconds.json").write_text('{"sketch": 500.0}')
    stages = Stages(tmp_path, 5)
    assert stages.do("sketch", "sketch again", lambda: 7) == 7
    assert stages.seconds == {"sketch": 500.0}
    stages.do("select", "select", lambda: None)
    assert Stages(tmp_path, 5).seconds.keys() == {"sketch", "select"}


def test_a_stage_that_fails_is_not_recorded(tmp_path):
    stages = Stages(tmp_path, 5)
    with pytest.raises(InputError):
        stages.do("train", "train", lambda: (_ for _ in ()).throw(InputError("no")))
    assert not (tmp_path / "seconds.json").exists()


@pytest.mark.parametrize("text", ["[]", '{"sketch": "long"}'])
def test_damaged_durations_are_one_clear_error(tmp_path, text):
    (tmp_path / "seconds.json").write_text(text)
    with pytest.raises(InputError, match=r"seconds.json: .*; delete it to measure"):
        Stages(tmp_path, 5)
