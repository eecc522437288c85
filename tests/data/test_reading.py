import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from helpers.hub_server import hub_environment, hub_server
from hypothesis import given
from hypothesis import strategies as st

from ogs_env.data.reading import ReadWarning, from_dataset, read_samples
from ogs_env.data.records import Turn
from ogs_env.data.samples import Sample, sample_id, write_samples
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
        ({"conversations": [{"from": "bot", "value": "Q"}]}, "a turn from 'bot'; expe"),
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
        ([1, 2], "expected a JSON object, found list"),
        ("text", "expected a JSON object, found str"),
        ({"messages": "Q"}, "should be a list of objects with 'role' and 'content'"),
        ({"messages": [{"role": "user"}]}, "should be a list of objects with 'role'"),
        (chat(("user", "Q")), "no turn with role 'assistant'"),
        (chat(("user", "Q"), ("assistant", " ")), "last assistant turn is empty"),
        ({"messages": [{"role": "assistant", "content": [1]}]},
         "content of message 1 should be text, found a list of int"),
        ({"messages": [{"role": "assistant", "content": [{"type": "image"}]}]},
         "last assistant turn is empty"),
        ({"messages": [{"role": "assistant", "tool_calls": [3]}]},
         "a call of a tool should be an object with 'function'"),
        ({"text": 3}, "field 'text' should be text, found int"),
        ({"text": " "}, "field 'text' is empty"),
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
        (b"[" * 100_000, ": is no JSON"),
        (b'[{"prompt": "Q"', ": is no JSON"),
        (b'\xef\xbb\xbf["\xff"]', ": not UTF-8"),
        (b"\n" + json.dumps(PAIR).encode() + b"\n\xff\xfe\n", ":3: not UTF-8 (byte 1"),
        (b"", ": has no records"),
        (b"\n \n", ": has no records"),
        (b"[]", ": has no records"),
        (gzip.compress(b"", mtime=0), ": has no records"),
        (
            gzip.compress(json.dumps(PAIR).encode(), mtime=0)[:-6],
            "truncated or corrupt gzip",
        ),
        (b"PAR1\x15\x04", "truncated or corrupt parquet"),
        (b"BZh91AY&SY", "truncated or corrupt bz2"),
        (b"\xfd7zXZ\x00nonsense" * 9, "truncated or corrupt xz"),
        (b"\x28\xb5\x2f\xfdnonsense" * 9, "truncated or corrupt zstd"),
        (b"\x1f\x8bnonsense" * 9, "truncated or corrupt gzip"),
        (b"PK\x03\x04", "is a zip file"),
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
    with pytest.warns(ReadWarning) as caught:
        samples = read_samples(path)
    assert [len(sample.response) for sample in samples] == [25, 20_000]
    assert str(caught[0].message) == (
        f"{path}: responses cut to their first 20,000 characters: 1 ({path}:2)"
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
    with pytest.raises(InputError, match=r"^dataset, row 1: field 'response' is empty"):
        from_dataset(rows)
    with pytest.raises(InputError, match=r"lacks the field 'x'.*--prompt-field"):
        from_dataset(rows, prompt_field="x")
    with pytest.raises(InputError, match=r"pass one, such as dataset\['train'\]"):
        from_dataset(datasets.DatasetDict(train=rows))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has no records"):
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


RECORDS = [{"prompt": f"Q{i}", "response": f"A{i}", "year": i} for i in range(5)]


def packed(records: list[dict[str, Any]], container: str) -> bytes:
    """Return records as the content of a file."""
    if container == "array":
        return json.dumps(records, indent=1).encode()
    if container == "parquet":
        file = io.BytesIO()
        datasets.Dataset.from_list(records).to_parquet(file)
        return file.getvalue()
    return "".join(f"{json.dumps(record)}\n" for record in records).encode()


def zstd(content: bytes) -> bytes:
    packed = pyarrow.compress(content, "zstd", asbytes=True)
    assert isinstance(packed, bytes)
    return packed


@pytest.mark.parametrize("container", ["lines", "array", "parquet"])
@pytest.mark.parametrize(
    "compress", [bytes, gzip.compress, bz2.compress, lzma.compress, zstd]
)
def test_containers_are_recognised_by_content(
    tmp_path: Path, container: str, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "pool.jsonl"  # the name does not matter
    path.write_bytes(compress(packed(RECORDS, container)))
    samples = read_samples(path)
    assert [(s.prompt, s.response) for s in samples] == [
        (record["prompt"], record["response"]) for record in RECORDS
    ]
    assert [sample.fields for sample in samples] == [{"year": i} for i in range(5)]
    assert [sample.row for sample in samples] == list(range(5))
    line = container == "lines"
    assert samples[3].place == (f"{path}:4" if line else f"{path}, row 3")
    assert {sample.source for sample in samples} == {"pool"}


@pytest.mark.parametrize(
    "name", ["pool.jsonl", "pool.json.gz", "pool.parquet", "pool.jsonl.zst", "pool"]
)
def test_the_source_is_the_name_without_endings(tmp_path: Path, name: str) -> None:
    assert read_samples(jsonl(tmp_path / name, PAIR))[0].source == "pool"


@pytest.mark.parametrize("container", ["array", "parquet"])
def test_containers_are_read_from_pipes(container: str) -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb") as file:
        file.write(packed(RECORDS, container))
    try:
        assert len(read_samples(f"/dev/fd/{read_end}")) == 5
    finally:
        os.close(read_end)


def test_parquet_fills_the_fields_of_other_formats_with_null(tmp_path: Path) -> None:
    path = tmp_path / "pool.parquet"
    other = chat(("user", "Q"), ("assistant", "A"))
    nothing = dict.fromkeys([*PAIR, *other])
    path.write_bytes(packed([nothing | PAIR, nothing | other], "parquet"))
    first, second = read_samples(path)
    assert (first.prompt, first.response) == (PAIR["prompt"], PAIR["response"])
    assert (second.prompt, second.response) == ("Q", "A")


def test_the_recognised_formats_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ogs_env")
    alpaca = {"instruction": "Q", "input": "I", "output": "A"}
    path = jsonl(tmp_path / "p.jsonl", alpaca, alpaca)
    read_samples(path)
    assert caplog.messages == [f"{path}: 2 records, read as alpaca"]
    caplog.clear()
    read_samples(jsonl(path, alpaca, PAIR, {"text": "T"}, alpaca))
    assert caplog.messages == [
        f"{path}: 4 records, read as alpaca (2), prompt-response (1), text (1)"
    ]


def test_a_format_overrules_what_a_record_looks_like(tmp_path: Path) -> None:
    record = {**PAIR, "text": "T", **chat(("user", "Q"), ("assistant", "A"))}
    path = jsonl(tmp_path / "p.jsonl", record)
    assert read_samples(path)[0].response == PAIR["response"]
    (text,) = read_samples(path, format="text")
    assert (text.prompt, text.response) == ("", "T")
    assert set(text.fields) == {"prompt", "response", "messages"}
    assert read_samples(path, format="messages")[0].prompt == "Q"
    message = error_of(path, format="alpaca")
    assert "lacks the field 'instruction'" in message
    assert "choose another format than --format alpaca" in message
    with pytest.raises(InputError, match=r"leave out --prompt-field"):
        read_samples(path, format="text", prompt_field="q")


def test_records_that_cannot_be_used_are_counted_by_reason(tmp_path: Path) -> None:
    bad = {"prompt": "Q"}
    lines = [PAIR, bad, bad, RECORDS[0], {"prompt": "Q", "response": ""}, bad, bad, 7]
    path = jsonl(tmp_path / "p.jsonl", *lines)
    with pytest.warns(ReadWarning) as caught:
        samples = read_samples(path, strict=False)
    assert [sample.row for sample in samples] == [0, 3]
    assert str(caught[0].message) == (
        f"{path}: left out 6 of 8 records: lacks the field 'response', 4 ({path}:2, 3, "
        f"6, ...); field 'response' is empty, there is nothing to learn, 1 ({path}:5); "
        f"expected a JSON object, found int, 1 ({path}:8); --strict stops at the first"
    )
    assert error_of(path).startswith(":2: lacks the field 'response'")
    # A file without any that can be used is an error in any case.
    assert "lacks the field 'response'" in error_of(jsonl(path, bad), strict=False)


def test_text_parts_are_joined_and_others_counted(tmp_path: Path) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    parts = [{"type": "text", "text": "one"}, image, {"type": "text", "text": "two"}]
    turns = [{"role": "user", "content": parts}, GPT]
    path = jsonl(tmp_path / "p.jsonl", {"messages": turns}, PAIR)
    with pytest.warns(ReadWarning, match=rf"no text are left out: 1 \({path}:1\)"):
        sample, _ = read_samples(path)
    assert (sample.prompt, sample.response) == ("one\ntwo", "A")


def test_calls_of_tools_are_written_as_json(tmp_path: Path) -> None:
    arguments = {"city": "Köln"}
    calls = [
        {"type": "function", "function": {"name": "weather", "arguments": given}}
        for given in (arguments, json.dumps(arguments))
    ]
    turns = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": calls[:1]},
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "content": "It rains.", "tool_calls": None},
    ]
    last = [USER, {"role": "assistant", "content": "So:", "tool_calls": calls[1:]}]
    tools = [{"type": "function", "function": {"name": "weather"}}]
    path = jsonl(
        tmp_path / "p.jsonl", {"messages": turns, "tools": tools}, {"messages": last}
    )
    first, second = read_samples(path)
    call = (
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
    )
    assert first.messages[1:] == (Turn("assistant", call), Turn("tool", "rain"))
    assert (first.response, first.fields) == ("It rains.", {"tools": tools})
    assert second.response == f"So:\n{call}"


def test_sharegpt_with_tools_and_a_system_field(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "Q"},
        {"from": "function_call", "value": "{}"},
        {"from": "observation", "value": "O"},
        {"from": "gpt", "value": "A"},
    ]
    path = jsonl(tmp_path / "p.jsonl", {"system": "S", "conversations": turns})
    (sample,) = read_samples(path)
    roles = [turn.role for turn in sample.messages]
    assert roles == ["system", "user", "assistant", "tool"]
    assert sample.fields == {}


def test_the_system_field_of_alpaca_is_a_turn(tmp_path: Path) -> None:
    record = {"instruction": "Q", "input": "I", "output": "A", "system": "S"}
    (sample,) = read_samples(jsonl(tmp_path / "p.jsonl", record))
    assert sample.messages == turns_of(("system", "S"), ("user", "Q\n\nI"))
    assert sample.prompt == "S\n\nQ\n\nI"


def test_any_field_or_none_is_the_source(tmp_path: Path) -> None:
    record = {**PAIR, "source": ["a list"], "journal": "NEJM", "volume": 7}
    path = jsonl(tmp_path / "p.jsonl", record)
    (sample,) = read_samples(path)
    assert (sample.source, sample.fields["source"]) == ("p", ["a list"])
    (sample,) = read_samples(path, source_field="journal")
    assert sample.source == "NEJM"
    assert "journal" not in sample.fields
    (sample,) = read_samples(path, source_field="volume")
    assert (sample.source, sample.fields["volume"]) == ("7", 7)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["prompt", "response", "messages", "role", "content", "type", "text",
             "conversations", "from", "value", "instruction", "input", "output",
             "completion", "tool_calls", "function", "name", "arguments", "system",
             "source", "id"]
        ),
        values,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


def read_or_refuse(path: Path, strict: bool) -> list[Sample] | str:
    """Return the samples or the error line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReadWarning)
        try:
            return read_samples(path, strict=strict)
        except InputError as error:
            return str(error)


@given(st.lists(JSON, min_size=1, max_size=5), st.booleans())
def test_any_json_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], strict: bool
) -> None:
    path = jsonl(tmp_path_factory.mktemp("any") / "p.jsonl", *values)
    outcome = read_or_refuse(path, strict)
    if isinstance(outcome, str):
        assert outcome.startswith(str(path))
        assert "\n" not in outcome
        return
    assert all(sample.response.strip() for sample in outcome)
    written = path.with_name("again.jsonl")
    write_samples(written, outcome)
    assert read_samples(written) == outcome


@given(st.binary(max_size=200), st.sampled_from([b"", b"PAR1", b"\x1f\x8b", b"BZh9"]))
def test_any_bytes_are_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, magic: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "p.jsonl"
    path.write_bytes(magic + content)
    outcome = read_or_refuse(path, strict=False)
    assert isinstance(outcome, str)
    assert outcome.startswith(str(path))
    assert "\n" not in outcome


READ_FROM_HUB = """
import json, sys
from ogs_env.data.reading import read_samples
from ogs_env.errors import InputError
for name in sys.argv[1:]:
    try:
        samples = read_samples(name)
        print(json.dumps([samples[0].source, samples[-1].place, len(samples)]))
    except InputError as error:
        print(json.dumps(str(error)))
"""


def test_datasets_of_the_hub_are_read(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "datasets" / "owner" / "cases"
    repository.mkdir(parents=True)
    (repository / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n"
        "  - split: train\n    path: train.jsonl\n"
        "  - split: test\n    path: test.jsonl\n---\n"
    )
    (repository / "train.jsonl").write_bytes(packed(RECORDS, "lines"))
    (repository / "test.jsonl").write_bytes(packed(RECORDS[:2], "lines"))
    names = ["owner/cases", "owner/cases:main@test", "owner/cases@dev", "owner/none"]
    with hub_server(tmp_path / "hub") as url:
        environment = os.environ | hub_environment(url, tmp_path / "home")
        done = subprocess.run(
            [sys.executable, "-c", READ_FROM_HUB, *names],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    train, test, split, repository_error = map(json.loads, done.stdout.splitlines())
    assert train == ["cases", "owner/cases, row 4", 5]
    assert test == ["cases", "owner/cases:main@test, row 1", 2]
    assert split.startswith("owner/cases@dev: there is no such file, and as a dataset ")
    assert "dev" in split.partition("loaded: ")[2]
    assert repository_error.startswith("owner/none: there is no such file, and as a ")
