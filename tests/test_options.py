"""Options made from the fields of a dataclass."""

import importlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest

from ogs_env.cli import COMMANDS
from ogs_env.errors import InputError
from ogs_env.options import _texts, parse, settings_of


@dataclass(frozen=True)
class Training:
    """Settings of training.

    Attributes:
        learning_rate: Peak learning rate,
            in steps of nothing.
        limit: Largest cost; None: no limit.

    Raises:
        InputError: Never.
    """

    learning_rate: float = 1e-3
    limit: float | None = 2.0


@dataclass(frozen=True)
class Other:
    """Other settings.

    Attributes:
        limit: Not shown.
        env_kwargs: Arguments.
    """

    limit: int = 1
    env_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Options(Training):
    """Options of a command.

    Attributes:
        files: Files to read, 10% of all.
        out: Folder; by default the first file's.
        seeds: Seeds.
        kind: The kind.
        names: Names.
        list_: A flag.
        given: Settings.
    """

    files: tuple[Path, ...] = field(metadata={"positional": True, "metavar": "FILE"})
    out: Path | None = None
    seeds: tuple[int, ...] = (0, 1)
    kind: str = field(default="a", metadata={"choices": ("a", "b")})
    names: tuple[str, ...] = field(default=(), metadata={"known": ("x", "y")})
    list_: bool = False
    given: dict[str, Any] = field(
        default_factory=dict, metadata={"options_of": (Other,)}
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_described(command):
    options = importlib.import_module(COMMANDS[command][0]).Options
    assert {field.name for field in fields(options)} <= _texts(options).keys()


def test_values_have_the_types_of_the_fields():
    arguments = ["f", "g", "--out=o_p", "--seeds", "3", "--learning_rate=.5", "--list"]
    options = parse(Options, [*arguments, "--limit", "none", '--env_kwargs={"a_b": 1}'])
    assert options == Options(
        files=(Path("f"), Path("g")),
        out=Path("o_p"),
        seeds=(3,),
        learning_rate=0.5,
        limit=None,
        list_=True,
        given={"env_kwargs": {"a_b": 1}},
    )
    assert settings_of(Training, options) == Training(0.5, None)
    assert settings_of(Training, options, limit=1.0) == Training(0.5, 1.0)


def test_omitted_options_have_the_default():
    assert parse(Options, ["f"]) == Options(files=(Path("f"),))
    assert parse(Options, ["f", "--names"]).names == ()


def test_help_is_the_docstring_with_the_defaults(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse(Options, ["--help"], "ogs test", "Does it.")
    output = " ".join(capsys.readouterr().out.split())
    for text in (
        "Does it. options:",
        "Options of a command: FILE Files to read, 10% of all. --out PATH Folder; by "
        "default the first file's. --seeds N [N ...] Seeds. (default: 0 1) --kind "
        "{a,b} The kind. (default: a) --names [TEXT ...] Names: x, y. (default: none) "
        "--list A flag.",
        "Other settings: --env-kwargs JSON Arguments. (default: {})",
        "Settings of training: --learning-rate X Peak learning rate, in steps of "
        "nothing. (default: 0.001) --limit X Largest cost; None: no limit. (default: "
        "2.0)",
    ):
        assert text in output
    assert "Not shown" not in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "the following arguments are required: FILE; see `ogs test --help`"),
        ("f --seeds 1 x", "argument --seeds: 'x', expected a whole number; see"),
        ("f --limit=much", "argument --limit: 'much', expected a number or none; see"),
        ("f --env-kwargs=[1]", "argument --env-kwargs: '[1]', expected a JSON object"),
        ("f --kind c", "argument --kind: invalid choice: 'c'"),
        (
            "f --sedes 3",
            "unrecognized arguments: --sedes 3; did you mean --seeds?; see",
        ),
        ("f --xyz", "unrecognized arguments: --xyz; see `ogs test --help`"),
    ],
)
def test_a_bad_option_is_named(words, message):
    with pytest.raises(InputError) as error:
        parse(Options, words.split(), "ogs test")
    assert message in str(error.value)


def test_an_option_can_be_given_without_a_value():
    @dataclass(frozen=True)
    class Bare:
        """Options.

        Attributes:
            where: A place.
        """

        where: str | None = field(default=None, metadata={"bare": ""})

    values = [parse(Bare, words).where for words in ([], ["--where"], ["--where", "x"])]
    assert values == [None, "", "x"]
