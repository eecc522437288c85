"""What a sample's tokens are, what is cut, and how a batch is laid out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import make_tiny_model
from transformers import AutoTokenizer

from ogs_env.sketching.encoding import IGNORED, Encoded, collate, encode


@pytest.fixture(scope="module")
def tokenizer(tiny_model_folder):
    return AutoTokenizer.from_pretrained(tiny_model_folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = make_tiny_model(tmp_path_factory.mktemp("plain"), chat=False)
    return AutoTokenizer.from_pretrained(folder)


def parts(tokenizer, encoded: Encoded) -> tuple[str, str]:
    start = encoded.response_start
    return (
        tokenizer.decode(encoded.input_ids[:start]),
        tokenizer.decode(encoded.input_ids[start:]),
    )


def test_a_chat_model_gets_its_chat_format(tokenizer):
    encoded = encode(tokenizer, "2+2?", "4", 96)
    assert parts(tokenizer, encoded) == ("<s>user: 2+2?</s><s>assistant: ", "4</s>")
    assert encoded.response_tokens == 2
    assert not encoded.cut


def test_a_plain_model_gets_a_line_break(plain):
    assert parts(plain, encode(plain, "2+2?", "4", 96)) == ("2+2?\n", "4</s>")


def test_a_model_without_end_token_gets_none(plain):
    plain = type(plain)(tokenizer_object=plain.backend_tokenizer)
    assert parts(plain, encode(plain, "2+2?", "4", 96)) == ("2+2?\n", "4")


def test_a_long_prompt_loses_its_beginning_and_keeps_the_chat_format(tokenizer):
    prompt = "A passage. " * 30 + "What follows?"
    encoded = encode(tokenizer, prompt, "nothing", 64)
    question, answer = parts(tokenizer, encoded)
    assert len(encoded.input_ids) == 64
    assert encoded.cut
    assert answer == "nothing</s>"
    assert question.startswith("<s>user: ")
    assert question.endswith("What follows?</s><s>assistant: ")


def test_a_long_response_loses_its_end(tokenizer):
    response = "".join(chr(ord("a") + i % 26) for i in range(500))
    encoded = encode(tokenizer, "why?", response, 64)
    question, answer = parts(tokenizer, encoded)
    assert encoded.cut
    assert answer == response[:48]
    assert encoded.response_tokens == 48
    # 16 tokens do not hold the chat format: what is nearest to the answer stays.
    assert question == "r: </s><s>assistant: "


TEXT = st.text(st.characters(codec="utf-8"), max_size=150)


@given(prompt=TEXT, response=TEXT.filter(str.strip), max_tokens=st.integers(16, 128))
@settings(max_examples=30, deadline=None)
@pytest.mark.parametrize("chat", [True, False])
def test_rules_hold_for_any_text(tokenizer, plain, chat, prompt, response, max_tokens):
    tokenizer = tokenizer if chat else plain
    encoded = encode(tokenizer, prompt, response, max_tokens)
    assert len(encoded.input_ids) <= max_tokens
    assert 0 < encoded.response_start < len(encoded.input_ids)
    answer = encoded.input_ids[encoded.response_start :]
    whole = tokenizer(response, add_special_tokens=False)["input_ids"]
    whole.append(tokenizer.eos_token_id)
    assert answer == whole[: max_tokens * 3 // 4]
    format_tokens = encode(tokenizer, "", "a", 128).response_start
    asked = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    fits = format_tokens + asked + len(answer) <= max_tokens
    assert encoded.cut == (len(whole) > len(answer) or not fits)


def test_the_end_token_stands_once(tokenizer):
    answer = encode(tokenizer, "2+2?", "4", 96)
    end = answer.input_ids[answer.response_start :].count(tokenizer.eos_token_id)
    assert end == 1


def test_a_batch_ends_together():
    batch = collate([Encoded([7, 8, 9, 1], 2, False), Encoded([5, 1], 1, False)], 3)
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert batch["input_ids"].tolist() == [[7, 8, 9, 1], [3, 3, 5, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]
    ignored = IGNORED
    assert batch["labels"].tolist() == [[ignored, ignored, 9, 1], [ignored] * 3 + [1]]
