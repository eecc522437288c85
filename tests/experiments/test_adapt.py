"""The whole job on a tiny model."""

import argparse
import json
import shutil

import numpy as np
import pytest
from easy_samples import colours, sums
from tiny_model import make_tiny_model

from ogs_env.bundle import load_bundle
from ogs_env.data.samples import Sample, write_samples
from ogs_env.errors import InputError
from ogs_env.experiments.adapt import add_arguments, run
from ogs_env.selection import Selection

WORDS = ["tree", "river", "stone", "cloud", "bird"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, and a user's files: the domain is about colours."""
    folder = tmp_path_factory.mktemp("files")
    make_tiny_model(folder / "model")
    rng = np.random.default_rng(0)
    other = [
        Sample(f"Say {i} words.", " ".join(rng.choice(WORDS, i % 7 + 1)), "words")
        for i in range(60)
    ]
    pool = [*colours(0, 60), *other]
    write_samples(folder / "pool.jsonl", [pool[i] for i in rng.permutation(120)])
    write_samples(folder / "domain.jsonl", colours(100, 24))
    write_samples(folder / "anchor.jsonl", sums(24))
    return folder


def arguments(files, out, *options):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = [
        *(files / "pool.jsonl", "--domain", files / "domain.jsonl"),
        *("--anchor", files / "anchor.jsonl", "--out", out, "--budget", "12"),
        *("--proxy", files / "model", "--model", files / "model"),
        *("--train-steps", 3000, "--epochs", 1, *options),
    ]
    return parser.parse_args([str(value) for value in given])


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("adapt") / "run"
    compared = "--compare", "random", "less", "--draws", "2"
    run(arguments(files, out, "--environment-samples", 80, *compared))
    return out


def test_every_part_is_left_behind(finished):
    assert len(load_bundle(finished / "environment").pool) == 80
    pool = load_bundle(finished / "pool")
    assert len(pool.pool) == 120
    assert not pool.has_path
    compared = json.loads((finished / "comparison.json").read_text())
    assert {"navigator", "random", "less", "greedy"} <= compared.keys()
    assert not {"oracle", "dsir", "all", "metadata"} & compared.keys()
    best = max(compared, key=lambda name: compared[name]["mean"])
    names = {folder.name for folder in (finished / "selections").iterdir()}
    assert names == {best, "random-0", "random-1", "less"}
    for name in names:
        assert len(Selection.load(finished / "selections" / name)) == 12
    result = json.loads((finished / "result.json").read_text())
    assert {own["selection"] for own in result["results"]} == names
    assert [own["selector"] for own in result["results"]][1:3] == ["random"] * 2
    assert (finished / "tradeoff.png").stat().st_size > 10_000


def test_both_bundles_show_the_same(finished):
    environment, pool = (
        load_bundle(finished / name) for name in ("environment", "pool")
    )
    np.testing.assert_array_equal(environment.basis, pool.basis)
    np.testing.assert_array_equal(environment.scales, pool.scales)


def test_what_is_done_is_not_done_again(files, finished, capsys):
    before = {
        file: file.stat().st_mtime_ns
        for file in finished.rglob("*.safetensors")
        if "own_answers" not in file.parts
    }
    compared = "--compare", "random", "less", "--draws", "2"
    run(arguments(files, finished, "--environment-samples", 80, *compared))
    assert before == {file: file.stat().st_mtime_ns for file in before}
    assert "what selects from the pool: " in capsys.readouterr().err


def test_a_small_pool_is_its_own_environment(files, tmp_path, capsys):
    run(arguments(files, tmp_path / "run", "--agent", "less"))
    assert not (tmp_path / "run" / "pool").exists()
    names = [folder.name for folder in (tmp_path / "run" / "finetuned").iterdir()]
    assert sorted(names) == ["less", "own_answers"]
    assert "what selects from the pool: less" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--budget", "121"), "budget '121': is 121 samples; expected 1 to the 120"),
        (("--environment-samples", "20"), "samples: 20; expected 64 to the 120"),
        (("--environment-samples", "121"), "samples: 121; expected 64 to the 120"),
        (("--agent", "lesss"), "unknown agent 'lesss'; did you mean less"),
        (("--compare", "lesss"), "unknown selector to compare with 'lesss'; did you"),
        (("--compare", "oracle"), "unknown selector to compare with 'oracle'"),
        (("--draws", "0"), "--draws: 0; expected at least 1"),
        (("--epochs", "0"), "epochs: 0 is too small"),
    ],
)
def test_bad_options_are_told_before_anything_is_written(
    files, tmp_path, options, message
):
    with pytest.raises(InputError, match=message):
        run(arguments(files, tmp_path / "run", *options))
    assert not (tmp_path / "run").exists()


def test_a_folder_of_other_settings_is_refused(files, finished):
    with pytest.raises(InputError, match=r"other settings \(.*budget.*\); choose"):
        run(arguments(files, finished, "--budget", "13"))


def test_a_pool_too_small_is_told(files, tmp_path):
    shutil.copytree(files, tmp_path / "files")
    write_samples(tmp_path / "files" / "pool.jsonl", colours(0, 63))
    with pytest.raises(InputError, match="has 63 samples; expected at least 64"):
        run(arguments(tmp_path / "files", tmp_path / "run"))
