"""Minimal pairs of worked solutions and of BLiMP's sentences."""

import gzip
import json
import re
from pathlib import Path

import datasets
import huggingface_hub
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ogs_env.data import pairs as module
from ogs_env.data.pairs import Pair, grammar_file, grammar_pairs, solution_pairs
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError

SHOP = Sample(
    "How much?",
    "2 at $3 are <<2*3=6>>6.\nIn all it is $1,<<6+1200=1206>>206.\n#### 1206",
)


def test_the_last_number_of_a_solution_is_right_or_wrong():
    [pair] = solution_pairs([SHOP])
    assert pair.prompt == "How much?"
    assert pair.shared == "2 at $3 are 6.\nIn all it is $1,"
    assert pair.right == "206"
    assert pair.wrong != "206"


NUMBERS = st.from_regex(r"[0-9]{1,30}", fullmatch=True)
SOLUTIONS = st.builds(
    "{} {}{}\n#### {}".format,
    st.text(max_size=20).filter(lambda text: "####" not in text),
    NUMBERS,
    st.sampled_from(["", ".", " eggs <<1+1=2>>", "\n\n"]),
    NUMBERS,
)


@given(solution=SOLUTIONS, seed=st.integers(0, 2**32))
def test_the_wrong_number_has_the_right_ones_digits_and_another_value(solution, seed):
    [pair] = solution_pairs([Sample("?", solution)], seed)
    before, _, _ = re.sub("<<[^<>]*>>", "", solution).rpartition("####")
    whole = pair.shared + pair.right
    assert before.startswith(whole)
    assert not re.search("[0-9]", before[len(whole) :])
    assert pair.right.isdigit()
    assert len(pair.wrong) == len(pair.right)
    assert int(pair.wrong) != int(pair.right)
    assert pair.wrong[0] != "0" or len(pair.wrong) == 1


@given(number=st.sampled_from(["0", "5", "9"]))
def test_every_other_digit_can_be_the_wrong_one(number):
    samples = [Sample(f"{i}?", f"It is {number}.\n#### 1") for i in range(200)]
    wrong = {pair.wrong for pair in solution_pairs(samples)}
    assert wrong == set("0123456789") - {number}


def test_a_pair_depends_only_on_the_seed_and_its_sample():
    samples = [Sample(f"{i}?", f"It is {1000 + i}.\n#### {i}") for i in range(20)]
    pairs = solution_pairs(samples, 5)
    assert solution_pairs(samples[::-1], 5) == pairs[::-1]
    assert solution_pairs([samples[7]], 5) == [pairs[7]]
    assert solution_pairs(samples, 6) != pairs


@pytest.mark.parametrize(
    "solution", ["Blue.", "It is 4.", "It is blue.\n#### 4", "<<1+1=2>>Two.\n#### 2"]
)
def test_a_solution_without_a_number_and_its_line_is_left_out(solution):
    sample = Sample("?", solution)
    assert [pair.right for pair in solution_pairs([sample, SHOP])] == ["206"]


def write_blimp(folder: Path, records: list[dict[str, str]]) -> None:
    lines = "".join(f"{json.dumps(record)}\n" for record in records)
    (folder / "blimp_pairs.jsonl.gz").write_bytes(gzip.compress(lines.encode()))


def test_the_first_ten_of_each_paradigm_of_a_file(tmp_path, monkeypatch):
    records = [
        {"good": f"{kind} {i} is.", "bad": f"{kind} {i} are.", "paradigm": kind}
        for i in range(13)
        for kind in ("noun", "verb")
    ]
    write_blimp(tmp_path, [*records, {**records[0], "paradigm": "rare"}])
    monkeypatch.setenv("OGS_DATA", str(tmp_path))
    assert grammar_file() == tmp_path / "blimp_pairs.jsonl.gz"
    expected = [Pair(None, "", r["good"], r["bad"]) for r in records[:20]]
    assert grammar_pairs() == [*expected, Pair(None, "", "noun 0 is.", "noun 0 are.")]
    assert len(grammar_pairs(each=1)) == 3


def test_a_file_without_paradigms_is_refused(tmp_path, monkeypatch):
    write_blimp(tmp_path, [{"good": "It is.", "bad": "It are."}])
    monkeypatch.setenv("OGS_DATA", str(tmp_path))
    with pytest.raises(InputError, match="has no field 'paradigm'; expected BLiMP"):
        grammar_pairs()


@pytest.mark.parametrize("folder", [None, "empty"])
def test_without_file_and_hub_one_line_says_what_to_do(tmp_path, monkeypatch, folder):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    if folder is None:
        monkeypatch.delenv("OGS_DATA", raising=False)
    else:
        monkeypatch.setenv("OGS_DATA", str(tmp_path))
    assert grammar_file() is None
    with pytest.raises(InputError) as caught:
        grammar_pairs()
    where = "unset" if folder is None else tmp_path
    assert str(caught.value) == (
        f"blimp: not in OGS_DATA ({where}) and the Hugging Face hub cannot be reached; "
        "put blimp_pairs.jsonl.gz into a folder and set OGS_DATA to it"
    )


def test_a_hub_without_the_file_gives_one_error_line(monkeypatch, tmp_path):
    monkeypatch.delenv("OGS_DATA", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(InputError) as caught:
        grammar_pairs()
    assert "the Hugging Face hub did not serve nyu-mll/blimp (" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hub_columns_become_pairs(monkeypatch):
    # Datasets with the hub's columns replace the hub.
    requests = []

    def load(path: str, name: str, split: str) -> datasets.Dataset:
        requests.append((path, name, split))
        row = {"sentence_good": f"{name} is.", "sentence_bad": f"{name} are."}
        return datasets.Dataset.from_list([row] * 3)

    monkeypatch.delenv("OGS_DATA", raising=False)
    monkeypatch.setattr(module, "hub_answers", lambda: True)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda path: ["a", "b"])
    monkeypatch.setattr(datasets, "load_dataset", load)
    expected = [Pair(None, "", f"{name} is.", f"{name} are.") for name in "aaabbb"]
    assert grammar_pairs(each=3) == expected
    assert requests == [("nyu-mll/blimp", name, "train[:3]") for name in "ab"]
