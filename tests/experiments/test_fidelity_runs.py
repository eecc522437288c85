"""Runs of the study on a tiny model and a small "medical" domain, against plain ones.

The domain's texts are read from small files, as `OGS_DATA` allows.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from make_bundle import edit_manifest
from plain_training import mean_loss, plain_training
from small_sources import write_sources
from tiny_model import make_tiny_model

from ogs_env.bundle import Bundle, load_bundle
from ogs_env.data.domains import DomainData, load_anchor, real_domain
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError
from ogs_env.experiments.fidelity.prose import prose
from ogs_env.experiments.fidelity.results import BASE, read_results, result_file
from ogs_env.experiments.fidelity.runs import Study
from ogs_env.experiments.fidelity.subsets import Subset
from ogs_env.experiments.fidelity.training import Recipe
from ogs_env.files import read_json
from ogs_env.sketching.encoding import Encoded, encode
from ogs_env.sketching.proxy import attach_adapter, load_model
from ogs_env.sketching.settings import SketchSettings
from ogs_env.sketching.sketcher import sketch

POOL, RETENTION, PROSE = 30, 5, 3
RECIPE = Recipe(learning_rate=1e-2, batch=4, layers=2)
SUBSET = Subset("random-0", [3, 17, 0, 29, 8, 11])


@dataclass(frozen=True)
class Medical:
    """A bundle of the small domain, and what it was made of."""

    bundle: Bundle
    data: DomainData
    model: str


@pytest.fixture(scope="module")
def medical(tmp_path_factory) -> Iterator[Medical]:
    folder = tmp_path_factory.mktemp("medical")
    write_sources(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OGS_DATA", str(folder))
        model = make_tiny_model(folder / "model")
        data = real_domain("medical", 0, pool_size=POOL)
        # The study needs the pool's sketches alone; the rest is small.
        small = replace(
            data,
            dev=data.dev[:4],
            test=data.test[:3],
            anchor={name: own[:4] for name, own in data.anchor.items()},
            retention={name: own[:3] for name, own in data.retention.items()},
        )
        settings = SketchSettings(
            proxy=str(model), precision="float32", k=16, layers=1, rank=2
        )
        yield Medical(sketch(small, folder / "bundle", settings), data, str(model))


@pytest.fixture(scope="module")
def study(medical) -> Study:
    return Study(medical.bundle, RECIPE, retention=RETENTION, paragraphs=PROSE)


@pytest.fixture(scope="module")
def plain(medical) -> dict[str, list[Encoded]]:
    """The texts that losses are measured on, and the pool."""
    _, tokenizer = load_model(medical.model)

    def tokens(samples: list[Sample]) -> list[Encoded]:
        return [encode(tokenizer, s.prompt, s.response, 256) for s in samples]

    return {
        "pool": tokens(medical.data.pool),
        "test": tokens(medical.data.test),
        "retention": tokens(load_anchor("gsm8k", RETENTION)[1]),
        "prose": tokens(prose(PROSE)),
        "knowledge": tokens(medical.data.retention["knowledge"]),
    }


def losses_of(model, plain: dict[str, list[Encoded]]) -> dict[str, float]:
    return {n: mean_loss(model, own) for n, own in plain.items() if n != "pool"}


def test_the_first_losses_are_those_of_the_untouched_model(
    study, medical, plain, tmp_path
):
    study.run(SUBSET, 0, tmp_path / "list")  # which leaves a trained adapter
    study.base(tmp_path)
    base = read_json(tmp_path / BASE, "base")
    model, _ = load_model(medical.model)
    assert base["losses"] == pytest.approx(losses_of(model, plain), rel=1e-4)
    counts = {"pool": POOL, "test": 64, "retention": RETENTION, "prose": PROSE}
    assert base["samples"] == counts | {"knowledge": 64}
    assert base["proxy"]["id"] == medical.model
    assert base["recipe"] == {
        **{"epochs": 1, "learning_rate": 1e-2},
        **{"batch": 4, "layers": 2},
    }


def test_a_run_is_that_of_a_plain_loop(study, medical, plain, tmp_path):
    for seed in (0, 3):
        study.run(SUBSET, seed, tmp_path)
        result = read_json(result_file(tmp_path, SUBSET.name, seed), "result")
        model, tokenizer = load_model(medical.model)
        proxy = attach_adapter(model, tokenizer, rank=16, alpha=32, layers=2, seed=seed)
        before = losses_of(proxy.model, plain)
        plain_training(proxy, [plain["pool"][row] for row in SUBSET.rows], 4, 1e-2)
        after = losses_of(proxy.model, plain)
        assert result["losses"] == pytest.approx(after, rel=1e-3)
        assert after["test"] < 0.98 * before["test"]
        assert result["ids"] == [medical.data.pool[row].id for row in SUBSET.rows]
        assert (result["subset"], result["seed"]) == (SUBSET.name, seed)
        assert result["seconds"].keys() == {"training", "measuring"}
    found = read_results(tmp_path)
    assert [run["seed"] for run in found[SUBSET.name]] == [0, 3]
    assert {path.suffix for path in tmp_path.iterdir()} == {".json"}


def test_what_is_there_is_not_made_again(study, tmp_path):
    study.base(tmp_path)
    study.run(SUBSET, 0, tmp_path / "list")
    files = [tmp_path / BASE, result_file(tmp_path / "list", SUBSET.name, 0)]
    for file in files:
        content = json.loads(file.read_text())
        content["losses"]["test"] = 123.0  # no run ends there
        file.write_text(json.dumps(content))
    study.base(tmp_path)
    study.run(SUBSET, 0, tmp_path / "list")
    assert [read_json(f, "file")["losses"]["test"] for f in files] == [123.0, 123.0]


def test_what_the_first_losses_lack_is_added(study, tmp_path):
    study.base(tmp_path)
    whole = read_json(tmp_path / BASE, "base")
    older = {"test": 123.0, "retention": 1.0, "prose": 2.0}
    (tmp_path / BASE).write_text(json.dumps({"losses": older}))
    study.base(tmp_path)
    added = {"knowledge": pytest.approx(whole["losses"]["knowledge"], rel=1e-6)}
    assert read_json(tmp_path / BASE, "base")["losses"] == older | added


def test_a_result_of_other_samples_is_refused(study, tmp_path):
    study.run(SUBSET, 0, tmp_path)
    before = result_file(tmp_path, SUBSET.name, 0).read_bytes()
    with pytest.raises(InputError, match="was trained on other samples than random-0"):
        study.run(Subset(SUBSET.name, SUBSET.rows[::-1]), 0, tmp_path)
    assert result_file(tmp_path, SUBSET.name, 0).read_bytes() == before


HOLD = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_what_another_process_has_begun_is_left_alone(study, tmp_path):
    file = result_file(tmp_path, SUBSET.name, 0)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, f"{file}.lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout.readline() == "held\n"
        study.run(SUBSET, 0, tmp_path)
        assert not file.exists()
    finally:
        # As a run that is killed: its lock's file stays, the lock does not.
        other.kill()
        other.communicate()
    assert Path(f"{file}.lock").exists()
    study.run(SUBSET, 0, tmp_path)
    assert read_json(file, "result")["subset"] == SUBSET.name
    assert not Path(f"{file}.lock").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "words"}, "its texts are not known; expected the bundle of a domain"),
        ({"request": {"seed": 1}}, "was made of other texts than domain 'medical'"),
        ({"proxy": {"sha256": "0" * 64}}, "is another model than the bundle's"),
    ],
)
def test_a_bundle_of_something_else_is_refused(medical, tmp_path, change, message):
    folder = tmp_path / "bundle"
    folder.mkdir()
    for file in medical.bundle.path.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    manifest = medical.bundle.manifest
    merged = {
        name: manifest[name] | value if isinstance(value, dict) else value
        for name, value in change.items()
    }
    edit_manifest(folder, **merged)
    with pytest.raises(InputError, match=message):
        Study(load_bundle(folder), RECIPE)


def test_prose_is_whole_paragraphs_drawn_from_a_seed():
    found = prose(40)
    assert len({sample.response for sample in found}) == len(found) == 40
    for sample in found:
        assert 40 <= len(sample.response.split()) <= 120
        assert sample.response.endswith(".")
        assert "\n" not in sample.response
        assert sample.prompt.startswith("From the Python documentation,")
    assert prose(40) == found
    assert prose(12) == found[:12]
    assert prose(40, seed=1) != found
