"""Settings from YAML files and options of `ogs train`."""

import pytest

from ogs_env.agents.training import ImitationSettings, TrainSettings
from ogs_env.errors import InputError
from ogs_env.experiments.settings import CONFIGS
from ogs_env.experiments.train import Options
from ogs_env.options import parse


def parsed(*options):
    return parse(Options, [str(option) for option in options]).training_settings()


def test_without_options_they_are_the_defaults():
    assert parsed() == TrainSettings()


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda f: f.stem)
def test_shipped_configs_are_read_by_name_and_by_path(file):
    assert parsed("--config", file.stem) == parsed("--config", file) != TrainSettings()


def test_options_override_the_config(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("width: 32\nlearning_rate: 1\nenv_kwargs: {budget: 9}\nsteps: 50\n")
    settings = parsed(
        "--config", file, "--learning_rate=0.5", "--bundle", "some/bundle"
    )
    assert (settings.width, settings.learning_rate) == (32, 0.5)
    assert settings.env == "OGS-Custom-v0"
    assert settings.env_kwargs == {"budget": 9, "bundle": "some/bundle"}


def test_hyphens_and_underscores_are_the_same():
    hyphens = parsed("--cost-limit=0.5", '--env-kwargs={"budget": 8}')
    assert hyphens == parsed("--cost_limit=0.5", '--env_kwargs={"budget": 8}')
    assert parsed("--cost-limit=None").cost_limit is None


def test_the_algorithm_chooses_the_settings():
    name = "navigator-imitation"
    imitation = parsed("--config", name, "--seed", 3, "--bundle", "mine")
    assert imitation == ImitationSettings(
        env_kwargs={"bundle": "mine"},
        seed=3,
        oracle_episodes=2400,
        evaluation_episodes=96,
    )
    assert parsed("--algorithm", "imitation") == ImitationSettings()
    assert parsed("--algorithm", "maskable-ppo").algorithm == "maskable-ppo"


def test_steps_alone_have_no_limit_of_time():
    assert parsed("--steps", 10).seconds is None
    assert parsed("--steps", 10, "--seconds", 5).seconds == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--width=wide",), "--width: 'wide', expected a whole number"),
        (("--steps=1.5",), "--steps: '1.5', expected a whole number or none"),
        (("--env-kwargs=[1]",), r"--env-kwargs: '\[1\]', expected a JSON object"),
        (("--seed=-1",), "seed is -1, expected at least 0"),
        (("--seed=5000000000",), "seed is 5000000000, expected at most 4294967295"),
        (("--batch-size=0",), "batch_size is 0, expected at least 2"),
        (("--evaluations=0",), "evaluations is 0, expected at least 1"),
        (("--learning-rate=-1",), "learning_rate is -1.0, expected a number of 0 or"),
        (("--gamma=1.5",), "gamma is 1.5, expected a number from 0 to 1"),
        (("--clip-range=-1",), "clip_range is -1.0, expected a number of 0 or more"),
        (("--algorithm=pro",), "unknown algorithm 'pro'; did you mean ppo"),
        (
            ("--algorithm=imitation", "--cost-limit=1"),
            "--cost-limit: algorithm 'imitation' does not use it; remove it, or set "
            "the algorithm to maskable-ppo or ppo",
        ),
        (("--oracle-episodes=9",), "--oracle-episodes: .*'ppo'.* to imitation"),
        (
            ("--config=navigator", "--algorithm=imitation"),
            r"navigator.yaml: seconds: algorithm 'imitation' does not use it",
        ),
        (("--config", "mine.yaml"), "mine.yaml: cannot be read .*expected a YAML file"),
        (("--config", "navigater"), "unknown config 'navigater'; did you mean navig"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        parsed(*options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("widht: 3", r"mine.yaml\) 'widht'; did you mean width"),
        ("width: true", "mine.yaml: width: True, expected a whole number"),
        ("[1, 2]", "mine.yaml: expected settings"),
        ("a: [", "mine.yaml: is no YAML file"),
    ],
)
def test_wrong_files_are_refused(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        parsed("--config", tmp_path / "mine.yaml")
