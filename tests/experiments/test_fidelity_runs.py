"""Runs of the study on a tiny model and a small "medical" domain, against plain ones.

The domain's texts are read from small files, as `OGS_DATA` allows.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from helpers.make_bundle import edit_manifest
from helpers.plain_training import mean_loss, plain_training, token_losses
from helpers.small_sources import write_sources
from helpers.tiny_model import make_tiny_model

from ogs_env.bundle import Bundle, load_bundle
from ogs_env.data.domains import DomainData, real_domain
from ogs_env.data.pairs import Pair, grammar_pairs, solution_pairs
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError
from ogs_env.experiments.fidelity.prose import prose
from ogs_env.experiments.fidelity.results import BASE, read_results, result_file
from ogs_env.experiments.fidelity.runs import Study
from ogs_env.experiments.fidelity.subsets import Subset
from ogs_env.experiments.fidelity.training import Recipe
from ogs_env.files import read_json
from ogs_env.lm.adapter import Proxy, attach_adapter
from ogs_env.lm.encoding import Encoded, encode
from ogs_env.lm.loading import load_model
from ogs_env.sketching.settings import SketchSettings
from ogs_env.sketching.sketcher import sketch

POOL, RETENTION, PROSE = 30, 3, 3
RECIPE = Recipe(epochs=2, learning_rate=1e-2, batch=4, layers=2)
SUBSET = Subset("random-0", [3, 17, 0, 29, 8, 11])


@dataclass(frozen=True)
class Medical:
    """A bundle of the small domain, and its data."""

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
        small = replace(
            data,
            dev=data.dev[:4],
            test=data.test[:5],
            anchor={name: own[:4] for name, own in data.anchor.items()},
            retention={name: own[:4] for name, own in data.retention.items()},
        )
        settings = SketchSettings(
            proxy=str(model), precision="float32", k=16, layers=1, rank=2
        )
        yield Medical(sketch(small, folder / "bundle", settings), small, str(model))


@pytest.fixture(scope="module")
def study(medical) -> Study:
    return Study(
        medical.bundle, medical.data, RECIPE, retention=RETENTION, paragraphs=PROSE
    )


def fresh_proxy(medical: Medical, seed: int = 0) -> Proxy:
    model, tokenizer = load_model(medical.model)
    return attach_adapter(model, tokenizer, rank=16, alpha=32, layers=2, seed=seed)


def encoded(tokenizer, samples: list[Sample]) -> list[Encoded]:
    return [encode(tokenizer, s.prompt, s.response, 256) for s in samples]


def plain_losses(proxy: Proxy, medical: Medical) -> dict[str, float]:
    """The mean loss of each set, text by text."""
    data, tokenizer = medical.data, proxy.tokenizer
    samples = {"test": data.test, "prose": prose(PROSE)}
    answers = dict(
        zip(
            medical.bundle.retention_answers.hex_ids(),
            medical.bundle.answer_tokens("retention_answers"),
            strict=True,
        )
    )
    losses = {}
    for name, retained in data.retention.items():
        samples[f"reference/{name}"] = retained[:RETENTION]
        own = []
        for sample in retained[:RETENTION]:
            encoding = encode(tokenizer, sample.prompt, sample.response, 256)
            prompt = encoding.input_ids[: encoding.response_start]
            whole = [*prompt, *answers[sample.id]]
            own.append(Encoded(whole, len(prompt), False))
        losses[f"own/{name}"] = mean_loss(proxy.model, own)
    for name, own in samples.items():
        losses[name] = mean_loss(proxy.model, encoded(tokenizer, own))
    return losses


def plain_pairs(proxy: Proxy, medical: Medical) -> dict[str, dict[str, float]]:
    """The model's preferences, from the probability of each whole text."""

    def log_probability(prompt: str | None, text: str) -> float:
        tokenizer = proxy.tokenizer
        if prompt is None:
            begin = [tokenizer.bos_token_id]
        else:
            encoding = encode(tokenizer, prompt, "x", 256)
            begin = encoding.input_ids[: encoding.response_start]
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        whole = Encoded([*begin, *ids], len(begin), False)
        return -float(token_losses(proxy.model, whole).sum().detach())

    def margin(pair: Pair) -> float:
        right, wrong = (
            log_probability(pair.prompt, pair.shared + end)
            for end in (pair.right, pair.wrong)
        )
        return right - wrong

    pairs = {
        "solutions": solution_pairs(medical.data.retention["maths"][:RETENTION]),
        "grammar": grammar_pairs(),
    }
    margins = {name: [margin(pair) for pair in own] for name, own in pairs.items()}
    return {
        name: {"accuracy": np.mean(np.array(own) > 0), "margin": np.mean(own)}
        for name, own in margins.items()
    }


def check_measures(measured, proxy: Proxy, medical: Medical) -> None:
    losses = plain_losses(proxy, medical)
    assert measured["losses"] == pytest.approx(losses, rel=1e-3)
    pairs = plain_pairs(proxy, medical)
    assert measured["pairs"].keys() == pairs.keys()
    for name, expected in pairs.items():
        assert measured["pairs"][name] == pytest.approx(expected, rel=1e-2, abs=2e-3)


def test_the_first_measures_are_those_of_the_untouched_model(study, medical, tmp_path):
    study.run(SUBSET, 0, tmp_path / "list")  # which leaves a trained adapter
    study.base(tmp_path)
    base = read_json(tmp_path / BASE, "base")
    check_measures(base, fresh_proxy(medical), medical)
    counts = {"pool": POOL, "test": 5, "prose": PROSE}
    for name in ("maths", "knowledge"):
        counts |= {f"reference/{name}": RETENTION, f"own/{name}": RETENTION}
    for side in ("right", "wrong"):
        # Ten of each of two paradigms.
        counts |= {f"{side}/solutions": RETENTION, f"{side}/grammar": 20}
    assert base["samples"] == counts
    assert base["proxy"]["id"] == medical.model


def test_a_run_is_that_of_a_plain_loop(study, medical, tmp_path):
    pool = encoded(fresh_proxy(medical).tokenizer, medical.data.pool)
    for seed in (0, 3):
        study.run(SUBSET, seed, tmp_path)
        result = read_json(result_file(tmp_path, SUBSET.name, seed), "result")
        proxy, rng = fresh_proxy(medical, seed), np.random.default_rng([seed, 50])
        before = plain_losses(proxy, medical)
        order = [*rng.permutation(SUBSET.rows), *rng.permutation(SUBSET.rows)]
        plain_training(proxy, [pool[row] for row in order], 4, 1e-2)
        check_measures(result, proxy, medical)
        assert result["losses"]["test"] < 0.98 * before["test"]
        assert result["ids"] == [medical.data.pool[row].id for row in SUBSET.rows]
        assert (result["subset"], result["seed"]) == (SUBSET.name, seed)
        assert result["recipe"] == {
            **{"epochs": 2, "learning_rate": 1e-2},
            **{"batch": 4, "layers": 2},
        }
        assert result["seconds"].keys() == {"training", "measuring"}
    results = read_results(tmp_path)
    assert [run["seed"] for run in results[SUBSET.name]] == [0, 3]
    assert {path.suffix for path in tmp_path.iterdir()} == {".json"}


def test_without_grammar_pairs_the_error_says_what_to_do(medical, monkeypatch):
    monkeypatch.setenv("OGS_DATA", "/nowhere")
    # No request leaves the machine: the hub's address leads to a closed port.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"blimp: .* set OGS_DATA to it") as caught:
        Study(medical.bundle, medical.data, RECIPE)
    assert "\n" not in str(caught.value)


def test_existing_results_are_not_computed_again(study, tmp_path):
    study.base(tmp_path)
    study.run(SUBSET, 0, tmp_path / "list")
    files = [tmp_path / BASE, result_file(tmp_path / "list", SUBSET.name, 0)]
    for file in files:
        content = json.loads(file.read_text())
        content["losses"]["test"] = 123.0  # no run has this loss
        file.write_text(json.dumps(content))
    study.base(tmp_path)
    study.run(SUBSET, 0, tmp_path / "list")
    assert [read_json(f, "file")["losses"]["test"] for f in files] == [123.0, 123.0]


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


def test_runs_of_another_process_are_skipped(study, tmp_path):
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
        # Like a killed run: the file of the lock remains, the lock is released.
        other.kill()
        other.communicate()
    assert Path(f"{file}.lock").exists()
    study.run(SUBSET, 0, tmp_path)
    assert read_json(file, "result")["subset"] == SUBSET.name
    assert not Path(f"{file}.lock").exists()


def test_texts_that_the_bundle_is_not_made_of_are_refused(medical):
    other = replace(medical.data, pool=medical.data.pool[::-1])
    with pytest.raises(InputError, match="was built from other texts than"):
        Study(medical.bundle, other, RECIPE)


def test_another_model_than_the_bundles_is_refused(medical, tmp_path):
    folder = shutil.copytree(medical.bundle.path, tmp_path / "bundle")
    proxy = medical.bundle.manifest["proxy"] | {"sha256": "0" * 64}
    edit_manifest(folder, proxy=proxy)
    with pytest.raises(InputError, match="is not the bundle's model"):
        Study(load_bundle(folder), medical.data, RECIPE)


def test_prose_is_whole_paragraphs_drawn_from_a_seed():
    samples = prose(40)
    assert len({sample.response for sample in samples}) == len(samples) == 40
    for sample in samples:
        assert 40 <= len(sample.response.split()) <= 120
        assert sample.response.endswith(".")
        assert "\n" not in sample.response
        assert sample.prompt.startswith("From the Python documentation,")
    assert prose(40) == samples
    assert prose(12) == samples[:12]
    assert prose(40, seed=1) != samples
