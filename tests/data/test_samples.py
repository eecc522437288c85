import gzip
import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ogs_env.data.records import Turn
from ogs_env.data.samples import (
    CutResponse,
    Sample,
    check_disjoint,
    from_dataset,
    read_samples,
    sample_id,
    without_duplicates,
    write_samples,
)
from ogs_env.errors import InputError

PAIR = {"prompt": "What is asthma?", "response": "A disease of the airways."}


def jsonl(path: Path, *records: Any) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def error_of(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_samples(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def test_id_is_the_documented_hash() -> None:
    expected = hashlib.sha256(b"a\x1fb").hexdigest()[:16]
    assert sample_id("a", "b") == Sample("a", "b", "any").id == expected


def test_ids_depend_on_where_prompt_ends() -> None:
    assert sample_id("ab", "c") != sample_id("a", "bc")


def test_reads_records_in_order_and_keeps_further_fields(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "pool.jsonl",
        {**PAIR, "year": 2020, "source": "nih"},
        {**PAIR, "response": "Another."},
    )
    first, second = read_samples(path)
    assert first == Sample(PAIR["prompt"], PAIR["response"], "nih")
    assert first.fields == {"year": 2020}
    assert second.source == "pool"
    assert read_samples(path, source="mine")[0].source == "mine"


def test_the_id_is_recomputed_and_another_id_becomes_a_field(tmp_path: Path) -> None:
    ours = sample_id(PAIR["prompt"], PAIR["response"])
    path = jsonl(tmp_path / "p.jsonl", {**PAIR, "id": ours}, {**PAIR, "id": 17})
    first, second = read_samples(path)
    assert first.fields == {}
    assert second.fields == {"original_id": 17}
    assert first.id == second.id == ours


def test_named_fields(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", {"question": "Q", "answer": "A"})
    (sample,) = read_samples(path, prompt_field="question", response_field="answer")
    assert (sample.prompt, sample.response, sample.fields) == ("Q", "A", {})


def test_blank_lines_byte_order_mark_and_empty_prompt(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    line = json.dumps({"prompt": "", "response": "é"}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + f"{line}\n\n   \r\n{line}".encode())
    assert [s.response for s in read_samples(path)] == ["é", "é"]


@pytest.mark.parametrize("name", ["pool.jsonl.gz", "pool.jsonl"])
def test_gzip_is_detected_by_content(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(json.dumps(PAIR).encode()))
    (sample,) = read_samples(path)
    assert sample.response == PAIR["response"]
    assert sample.source == "pool"


def chat(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


@pytest.mark.parametrize(
    ("turns", "prompt", "response"),
    [
        ([("user", "Q"), ("assistant", "A")], "Q", "A"),
        ([("assistant", "A")], "", "A"),
        ([("system", "S"), ("user", "Q"), ("assistant", "A")], "S\n\nQ", "A"),
        (
            [
                ("system", "S"),
                ("user", "Q"),
                ("assistant", "A"),
                ("user", "R"),
                ("assistant", "B"),
                ("user", "thanks"),
            ],
            "S\n\nUser: Q\n\nAssistant: A\n\nUser: R",
            "B",
        ),
    ],
)
def test_chats(
    tmp_path: Path, turns: list[tuple[str, str]], prompt: str, response: str
) -> None:
    (sample,) = read_samples(jsonl(tmp_path / "p.jsonl", chat(*turns)))
    assert (sample.prompt, sample.response, sample.fields) == (prompt, response, {})


USER, GPT = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        ({"instruction": "Q", "input": "", "output": "A"}, "Q"),
        ({"instruction": "Q", "input": None, "output": "A"}, "Q"),
        ({"instruction": "Q", "output": "A"}, "Q"),
        ({"instruction": "Q", "input": "I", "output": "A"}, "Q\n\nI"),
        ({"prompt": "Q", "completion": "A"}, "Q"),
        ({"prompt": [USER], "completion": [GPT]}, "Q"),
        ({"conversations": [USER, GPT]}, "Q"),
        (
            {"conversations": [{"from": "system", "value": "S"},
             {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
            "S\n\nQ",
        ),
    ],
)  # fmt: skip
def test_known_formats(tmp_path: Path, record: dict[str, Any], prompt: str) -> None:
    (sample,) = read_samples(jsonl(tmp_path / "p.jsonl", record))
    assert (sample.prompt, sample.response, sample.fields) == (prompt, "A", {})


def test_input_belongs_to_a_named_instruction(tmp_path: Path) -> None:
    lines = [{"instruction": "Q", "input": i, "answer": "A"} for i in ("1", "2", "")]
    file = jsonl(tmp_path / "p.jsonl", *lines)
    fields = {"prompt_field": "instruction", "response_field": "answer"}
    samples = read_samples(file, **fields)
    assert [sample.prompt for sample in samples] == ["Q\n\n1", "Q\n\n2", "Q"]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": [USER], "completion": "A"}, "field 'completion' should be a list"),
        ({"prompt": "Q", "completion": [GPT]}, "'completion' should be text, found l"),
        ({"prompt": ["Q"], "completion": [GPT]}, "field 'prompt, completion' should"),
        ({"instruction": "Q", "input": 3, "output": "A"}, "'input' should be text"),
        ({"conversations": [{"from": "tool", "value": "Q"}]}, "a turn from 'tool'; ex"),
        ({"conversations": [{"from": ["gpt"], "value": "Q"}]}, "a turn from ['gpt']"),
        ({"question": "Q", "response": "A"}, "lacks the field 'prompt'; fields found: "
         "question, response; name the right one with --prompt-field"),
        ({"prompt": "Q", "answer": "A"}, "lacks the field 'response'; fields found: "
         "prompt, answer; name the right one with --response-field"),
        ({}, "lacks the field 'prompt'; fields found: none"),
        ({"prompt": 7, "response": "A"}, "field 'prompt' should be text, found int"),
        ({"prompt": "Q", "response": None}, "'response' should be text, found null"),
        ({"prompt": "Q", "response": ""}, "field 'response' is empty"),
        ({"prompt": "Q", "response": " \n\t"}, "field 'response' is empty"),
        ({"prompt": "Q", "response": "\ud83d"}, "half a surrogate pair"),
        ({**PAIR, "source": 3}, "field 'source' should be text, found int"),
        ([1, 2], "expected a JSON object, found list"),
        ("text", "expected a JSON object, found str"),
        ({"messages": "Q"}, "should be a list of objects with 'role' and 'content'"),
        ({"messages": [{"role": "user"}]}, "should be a list of objects with 'role'"),
        (chat(("user", "Q")), "no turn with role 'assistant'"),
        (chat(("user", "Q"), ("assistant", " ")), "last assistant turn is empty"),
        ({"messages": [{"role": "assistant", "content": [1]}]},
         "content of message 1 should be text, found list"),
    ],
)  # fmt: skip
def test_bad_record_names_file_line_and_field(
    tmp_path: Path, record: Any, expected: str
) -> None:
    message = error_of(jsonl(tmp_path / "pool.jsonl", PAIR, record))
    assert message.startswith(":2: ")
    assert expected in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"prompt": "Q", "resp\n', ":1: is no JSON"),
        (b"[" * 100_000, ":1: is no JSON"),
        (b"\n" + json.dumps(PAIR).encode() + b"\n\xff\xfe\n", ":3: not UTF-8 (byte 1"),
        (b"", ": an empty pool"),
        (b"\n \n", ": an empty pool"),
        (gzip.compress(b"", mtime=0), ": an empty pool"),
        (
            gzip.compress(json.dumps(PAIR).encode(), mtime=0)[:-6],
            "truncated or corrupt gzip",
        ),
        (b"PAR1\x15\x04", ": is a parquet file; expected JSON lines"),
        (b"BZh91AY&SY", ": is a bz2 file; expected JSON lines"),
        (b"\x1f\x8bnonsense" * 9, "truncated or corrupt gzip after line 0"),
    ],
)
def test_bad_file(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_bytes(content)
    assert expected in error_of(path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_pipe_is_read(pack: Callable[[bytes], bytes]) -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb") as file:
        file.write(pack(json.dumps(PAIR).encode() + b"\n"))
    try:
        (sample,) = read_samples(f"/dev/fd/{read_end}")
    finally:
        os.close(read_end)
    assert (sample.prompt, sample.response) == (PAIR["prompt"], PAIR["response"])


def test_corrupt_middle_of_gzip(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl.gz"
    whole = bytearray(
        gzip.compress(b"".join(b"%d\n" % (i * 7919) for i in range(9999)), mtime=0)
    )
    whole[len(whole) // 2] ^= 0xFF
    path.write_bytes(whole)
    with pytest.raises(InputError):
        read_samples(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "no such file" in error_of(tmp_path / "none.jsonl")
    assert "is a folder" in error_of(tmp_path)


def test_long_response_is_cut_with_a_warning(tmp_path: Path) -> None:
    long = {"prompt": "Q", "response": "x" * 100_000}
    path = jsonl(tmp_path / "pool.jsonl", PAIR, long)
    with pytest.warns(CutResponse) as caught:
        samples = read_samples(path)
    assert [len(sample.response) for sample in samples] == [25, 20_000]
    assert str(caught[0].message) == (
        f"{path}:2: response of 100,000 characters cut to its first 20,000"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_samples(path, max_response_characters=100_000)) == 2


def test_dataset_rows_follow_the_same_rules() -> None:
    rows = datasets.Dataset.from_list(
        [{"q": "Q", "a": "A", "year": 1}, {"q": "R", "a": "B", "year": 2}]
    )
    samples = from_dataset(rows, prompt_field="q", response_field="a", source="s")
    assert samples == [Sample("Q", "A", "s"), Sample("R", "B", "s")]
    assert samples[1].fields == {"year": 2}
    chats = datasets.Dataset.from_list([chat(("user", "Q"), ("assistant", "A"))])
    assert from_dataset(chats)[0].prompt == "Q"


def test_dataset_errors_name_the_row() -> None:
    rows = datasets.Dataset.from_dict({"prompt": ["Q", "R"], "response": ["A", " "]})
    with pytest.raises(InputError, match=r"^row 1: field 'response' is empty"):
        from_dataset(rows)
    with pytest.raises(InputError, match=r"lacks the field 'x'.*--prompt-field"):
        from_dataset(rows, prompt_field="x")
    with pytest.raises(InputError, match=r"pass one, such as dataset\['train'\]"):
        from_dataset(datasets.DatasetDict(train=rows))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="empty pool"):
        from_dataset(rows.select([]))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
responses = texts.filter(lambda text: bool(text.strip()))


@given(st.lists(st.tuples(texts, responses, responses), min_size=1, max_size=8))
def test_writing_and_reading_gives_the_same(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[str, str, str]]
) -> None:
    path = tmp_path_factory.mktemp("written") / "pool.jsonl"
    samples = [Sample(*part, {"year": i}) for i, part in enumerate(parts)]
    write_samples(path, samples)
    back = read_samples(path)
    assert back == samples
    assert [s.fields for s in back] == [s.fields for s in samples]
    assert json.loads(path.read_bytes().split(b"\n")[0])["id"] == samples[0].id
    assert [file.name for file in path.parent.iterdir()] == ["pool.jsonl"]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("cd"))))
def test_without_duplicates_keeps_the_first(pairs: list[tuple[str, str]]) -> None:
    samples = [Sample(*pair, str(number)) for number, pair in enumerate(pairs)]
    unique, places = without_duplicates(samples)
    oracle: list[Sample] = []
    for sample in samples:
        if sample.id not in [other.id for other in oracle]:
            oracle.append(sample)
    assert unique == oracle
    assert [samples[place] for place in places] == unique
    assert places == [samples.index(sample) for sample in unique]


def test_check_disjoint_names_sample_and_roles() -> None:
    shared = Sample("Janet's ducks lay 16 eggs per day,\nshe eats three.", "9")
    other = Sample("Q", "A")
    check_disjoint({"pool": [other, other], "test": [shared]})
    with pytest.raises(InputError) as caught:
        check_disjoint({"pool": [other, shared], "dev": [], "test": [shared]})
    assert str(caught.value) == (
        f"the same sample (id {shared.id}, \"Janet's ducks lay 16 eggs per day, she "
        'e...") is in both pool and test; remove it from one'
    )


def turns_of(*turns: tuple[str, str]) -> tuple[Turn, ...]:
    return tuple(Turn(*turn) for turn in turns)


def test_a_chat_keeps_its_turns(tmp_path: Path) -> None:
    before = [("system", "S"), ("user", "Q"), ("assistant", "A"), ("user", "R")]
    record = chat(*before, ("assistant", "B"), ("user", "thanks"))
    (sample,) = read_samples(jsonl(tmp_path / "p.jsonl", record))
    assert sample.messages == sample.turns == turns_of(*before)
    assert sample.response == "B"


def test_a_single_question_is_the_same_as_a_pair(tmp_path: Path) -> None:
    record = chat(("user", "Q"), ("assistant", "A"))
    (sample,) = read_samples(jsonl(tmp_path / "p.jsonl", record))
    assert sample == Sample("Q", "A", "p")
    assert sample.id == sample_id("Q", "A")
    assert sample.turns == turns_of(("user", "Q"))


def test_chats_of_the_same_text_have_different_ids(tmp_path: Path) -> None:
    answer = ("assistant", "A")
    path = jsonl(
        tmp_path / "p.jsonl",
        chat(("user", "S\n\nQ"), answer),
        chat(("system", "S"), ("user", "Q"), answer),
        chat(("system", "S\n\nQ"), answer),
        chat(("system", "S"), ("system", "Q"), answer),
    )
    samples = read_samples(path)
    assert {sample.prompt for sample in samples} == {"S\n\nQ"}
    assert len({sample.id for sample in samples}) == 4


TURNS = st.lists(
    st.builds(
        Turn, st.sampled_from(["system", "user", "assistant"]), st.text(max_size=9)
    ),
    max_size=4,
)


@given(st.lists(st.tuples(TURNS, st.text(min_size=1).filter(str.strip)), min_size=1))
def test_chats_are_written_and_read_back(
    tmp_path_factory: pytest.TempPathFactory, chats: list[tuple[list[Turn], str]]
) -> None:
    folder = tmp_path_factory.mktemp("chats")
    records = [
        chat(*turns, ("assistant", response), ("user", "thanks"))
        for turns, response in chats
    ]
    samples = read_samples(jsonl(folder / "p.jsonl", *records))
    write_samples(folder / "again.jsonl", samples)
    reread = read_samples(folder / "again.jsonl")
    assert reread == samples
    assert [sample.id for sample in reread] == [sample.id for sample in samples]
    assert [sample.fields for sample in reread] == [{}] * len(samples)


def test_messages_that_disagree_remain_a_field(tmp_path: Path) -> None:
    other = chat(("system", "S"), ("user", "other"), ("assistant", "A"))
    path = jsonl(
        tmp_path / "p.jsonl", {**PAIR, **other}, {**PAIR, "messages": "two of them"}
    )
    first, second = read_samples(path)
    assert first.messages == second.messages == ()
    assert first.fields == other
    assert second.fields == {"messages": "two of them"}
    write_samples(tmp_path / "again.jsonl", [first])
    assert read_samples(tmp_path / "again.jsonl")[0].fields == other
