import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import datasets
import huggingface_hub
import pytest

from ogs_env.data import generated, icd10, record_files
from ogs_env.data.domains import medical_packages
from ogs_env.data.sources import COLLECTIONS, collection
from ogs_env.errors import InputError


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OGS_DATA", raising=False)


@pytest.fixture
def hub_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Use an endpoint that refuses connections, and an empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def one_line_error(name: str) -> str:
    with pytest.raises(InputError) as caught:
        collection(name).load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl"])
def test_data_folder_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    record = {"prompt": "Q", "response": "A", "source": "else", "decision": "yes"}
    line = json.dumps(record).encode()
    content = gzip.compress(line) if ending.endswith("gz") else line
    (tmp_path / f"pubmedqa{ending}").write_bytes(content)
    monkeypatch.setenv("OGS_DATA", str(tmp_path))
    (sample,) = collection("pubmedqa").load()
    assert (sample.source, sample.fields) == ("pubmedqa", {"decision": "yes"})


@pytest.mark.usefixtures("hub_off")
def test_without_hub_one_quick_line_says_what_to_do() -> None:
    start = time.monotonic()
    assert one_line_error("gsm8k_train") == (
        "gsm8k: not in OGS_DATA (unset) and the Hugging Face hub cannot be reached; "
        "put gsm8k_train.jsonl.gz into a folder and set OGS_DATA to it, or use "
        "gsm_symbolic from the package reasoning-gym"
    )
    assert time.monotonic() - start < 10


def test_offline_mode_reads_only_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setenv("OGS_DATA", str(tmp_path / "none"))
    start = time.monotonic()
    message = one_line_error("pubmedqa")
    assert f"OGS_DATA ({tmp_path / 'none'})" in message
    assert "did not serve qiaojin/PubMedQA" in message
    assert "put pubmedqa.jsonl.gz into a folder" in message
    assert time.monotonic() - start < 10


def test_collections_with_unknown_hub_columns_need_the_file() -> None:
    for name in ("medquad", "legalbench", "tatqa", "fibo"):
        assert f"put {name}.jsonl.gz into a folder" in one_line_error(name)


def test_hub_columns_become_prompt_response_and_decision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A dataset with the hub's columns replaces the hub.
    rows = datasets.Dataset.from_list(
        [
            {
                "pubid": 1,
                "question": "Does it?",
                "context": {"contexts": ["c"]},
                "long_answer": "It does.",
                "final_decision": "yes",
            }
        ]
    )
    requests: list[tuple[str, str, str]] = []

    def load(path: str, name: str, split: str) -> datasets.Dataset:
        requests.append((path, name, split))
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(record_files, "hub_answers", lambda: True)
    (sample,) = collection("pubmedqa").load()
    assert requests == [("qiaojin/PubMedQA", "pqa_labeled", "train")]
    assert (sample.prompt, sample.response) == ("Does it?", "It does.")
    assert (sample.source, sample.fields) == ("pubmedqa", {"decision": "yes"})
    rows = rows.remove_columns("final_decision")
    assert "has no column 'final_decision'" in one_line_error("pubmedqa")


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="did you mean medquad"):
        collection("medqad")


def test_every_source_states_licence_and_home() -> None:
    for one in COLLECTIONS.values():
        info = one.info()
        assert all(info[key] for key in ("name", "licence", "attribution"))
        assert info["url"].startswith("https://")


GENERATED = {
    "gsm_symbolic": generated.gsm_symbolic,
    "puzzles": generated.puzzles,
    "icd10cm": icd10.icd10cm,
    "icd10cm_short": icd10.icd10cm_short,
}


@pytest.mark.parametrize("name", GENERATED)
def test_generated_sources_are_deterministic_and_without_repeats(name: str) -> None:
    make = GENERATED[name]
    samples = make(200, 3)
    assert samples == make(200, 3)
    assert len({sample.prompt for sample in samples}) == 200
    assert {sample.source for sample in samples} == {name}
    # Neighbouring seeds must not share most items, as they do in reasoning-gym.
    shared = {sample.id for sample in samples} & {s.id for s in make(200, 4)}
    assert len(shared) < 20


def test_generated_domains_are_the_same_in_every_process() -> None:
    code = (
        "from ogs_env.data.domains import medical_packages\n"
        "data = medical_packages(3, 120)\n"
        "for s in data.pool + data.dev + data.anchor['maths']: print(s.id)"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        # Unlike this process, whose order of hashes is random.
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    here = medical_packages(3, 120)
    samples = here.pool + here.dev + here.anchor["maths"]
    assert other.stdout.split() == [sample.id for sample in samples]
