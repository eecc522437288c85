"""The tokens of samples and chats, how they are cut, and the layout of batches."""

import datetime
import tracemalloc

import pytest
import torch
from helpers.tiny_model import make_tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from ogs_env.data.pairs import Pair
from ogs_env.data.records import Turn
from ogs_env.errors import InputError
from ogs_env.lm.chat import reads_clock
from ogs_env.lm.encoding import (
    IGNORED,
    Encoded,
    collate,
    encode,
    encode_pair,
    encode_prompt,
    end_of_turn,
)
from ogs_env.lm.loading import load_model


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


def test_a_long_prompt_is_cut_at_its_beginning_within_the_chat_format(tokenizer):
    prompt = "A passage. " * 30 + "What follows?"
    encoded = encode(tokenizer, prompt, "nothing", 64)
    question, answer = parts(tokenizer, encoded)
    assert len(encoded.input_ids) == 64
    assert encoded.cut
    assert answer == "nothing</s>"
    assert question.startswith("<s>user: ")
    assert question.endswith("What follows?</s><s>assistant: ")


def test_a_long_response_is_cut_at_its_end(tokenizer):
    response = "".join(chr(ord("a") + i % 26) for i in range(500))
    encoded = encode(tokenizer, "why?", response, 64)
    question, answer = parts(tokenizer, encoded)
    assert encoded.cut
    assert answer == response[:48]
    assert encoded.response_tokens == 48
    # The chat format does not fit into 16 tokens; those next to the answer remain.
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
    prompt_tokens = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    fits = format_tokens + prompt_tokens + len(answer) <= max_tokens
    assert encoded.cut == (len(whole) > len(answer) or not fits)


def test_the_end_token_is_there_once(tokenizer):
    answer = encode(tokenizer, "2+2?", "4", 96)
    end = answer.input_ids[answer.response_start :].count(tokenizer.eos_token_id)
    assert end == 1


def test_a_sample_keeps_four_bytes_for_each_token():
    tracemalloc.start()
    kept = [Encoded([*range(1000, 2000)], 1, False) for _ in range(100)]
    bytes_each = tracemalloc.get_traced_memory()[0] / len(kept)
    tracemalloc.stop()
    assert 4000 < bytes_each < 5000
    assert kept[0].input_ids == [*range(1000, 2000)]


def test_a_batch_ends_together():
    batch = collate([Encoded([7, 8, 9, 1], 2, False), Encoded([5, 1], 1, False)], 3)
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert batch["input_ids"].tolist() == [[7, 8, 9, 1], [3, 3, 5, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]
    ignored = IGNORED
    assert batch["labels"].tolist() == [[ignored, ignored, 9, 1], [ignored] * 3 + [1]]


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Gemma's: begins with the begin token, strips contents, calls the assistant "model".
TRIMMED = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('No system turns') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate:\nuser, assistant') }}{% endif %}"
    "<start>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>model\n{% endif %}"
)
# Qwen 3's: a given answer follows an empty thinking block.
THINKING = CHATML.replace(
    "{{ m.content }}",
    "{% if loop.last and m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}",
)
# DeepSeek R1's: the generation prompt opens a thinking block, a given answer has none.
ASKS_FOR_THOUGHTS = CHATML.replace(
    "assistant\n{% endif", "assistant\n<think>\n{% endif"
)
# No token ends a turn.
WORDS = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
# Reads the date as Llama 3 and gpt-oss do.
CLOCK = (
    "\nToday is {% macro today() %}{% if strftime_now is defined %}"
    "{{ strftime_now('%d %b %Y') }}{% endif %}{% endmacro %}{{ today() }}.\n"
) + CHATML
CHAT = [
    Turn("system", "Be brief."),
    Turn("user", "2+2?"),
    Turn("assistant", "4"),
    Turn("user", "3+3?"),
]


def with_template(plain, template, eos="</s>"):
    """Return a tokenizer with Qwen's and Gemma's control tokens and a template."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer, bos_token="<s>", eos_token=eos
    )
    marks = ["<|im_start|>", "<|im_end|>", "<start>", "<end>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.add_tokens(["\n\n", "<think>", "</think>"])  # as Gemma and Qwen have them
    tokenizer.chat_template = template
    return tokenizer


def written(tokenizer, turns, response, max_tokens=256) -> tuple[str, str]:
    return parts(tokenizer, encode(tokenizer, turns, response, max_tokens))


@pytest.mark.parametrize(
    ("template", "question", "answer"),
    [
        (CHATML, "<|im_start|>user\n Hi? <|im_end|>\n<|im_start|>assistant\n",
         " Yes.\n<|im_end|>"),
        (TRIMMED, "<s><start>user\nHi?<end>\n<start>model\n", "Yes.<end>"),
        (THINKING, "<|im_start|>user\n Hi? <|im_end|>\n<|im_start|>assistant\n"
         "<think>\n\n</think>\n\n", " Yes.\n<|im_end|>"),
        (ASKS_FOR_THOUGHTS, "<|im_start|>user\n Hi? <|im_end|>\n"
         "<|im_start|>assistant\n", " Yes.\n<|im_end|>"),
        (WORDS, "user:  Hi? \n\nassistant: ", " Yes.\n</s>"),
    ],
    ids=["chatml", "trimmed", "thinking", "asks-for-thoughts", "words"],
)  # fmt: skip
def test_a_sample_follows_the_template(plain, template, question, answer):
    tokenizer = with_template(plain, template)
    assert written(tokenizer, " Hi? ", " Yes.\n") == (question, answer)
    ids = encode_prompt(tokenizer, " Hi? ")
    assert tokenizer.decode(ids) == question


@pytest.mark.parametrize("template", [CHATML, TRIMMED, THINKING])
def test_a_sample_is_the_beginning_of_the_rendered_chat(plain, template):
    tokenizer = with_template(plain, template)
    turns = CHAT[1:]
    encoded = encode(tokenizer, turns, "6", 256)
    whole = tokenizer.apply_chat_template(
        [turn._asdict() for turn in [*turns, Turn("assistant", "6")]],
        tokenize=True,
        return_dict=False,
    )
    assert encoded.input_ids == whole[: len(encoded.input_ids)]
    assert tokenizer.decode(whole[len(encoded.input_ids) :]) == "\n"


def test_the_template_ends_a_turn_whatever_the_tokenizers_end_token(plain):
    tokenizer = with_template(plain, CHATML)
    [end] = end_of_turn(tokenizer)
    assert tokenizer.decode([end]) == "<|im_end|>"
    assert end != tokenizer.eos_token_id
    same = with_template(plain, CHATML, eos="<|im_end|>")
    assert written(same, "2+2?", "4") == written(tokenizer, "2+2?", "4")


def test_no_end_token_stands_between_prompt_and_response(plain):
    tokenizer = with_template(plain, None)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    try:
        assert tokenizer.decode(tokenizer("Hi?")["input_ids"]) == "<s>Hi?</s>"
        assert written(tokenizer, "Hi?", "Yes.") == ("<s>Hi?\n", "Yes.</s>")
        # An end token of the prompt's own text stays.
        assert written(tokenizer, "a</s>", "b") == ("<s>a</s>\n", "b</s>")
    finally:
        plain.backend_tokenizer.post_processor = None


def test_earlier_turns_reach_the_template_unchanged(plain):
    question, answer = written(with_template(plain, CHATML), CHAT, "6")
    assert question == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n"
        "<|im_start|>assistant\n4<|im_end|>\n<|im_start|>user\n3+3?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert answer == "6<|im_end|>"


def test_a_plain_model_reads_earlier_turns_with_their_roles(plain):
    question, answer = written(plain, CHAT, "6")
    assert question == "Be brief.\n\nUser: 2+2?\n\nAssistant: 4\n\nUser: 3+3?\n"
    assert answer == "6</s>"


def test_a_long_chat_is_cut_at_its_first_turns(plain):
    tokenizer = with_template(plain, CHATML)
    whole, _ = written(tokenizer, CHAT, "6")
    count = len(encode_prompt(tokenizer, CHAT)) + 2
    assert written(tokenizer, CHAT, "6", count)[0] == whole
    # A few tokens too many are cut from the first turn,
    encoded = encode(tokenizer, CHAT, "6", count - 4)
    assert encoded.cut
    assert parts(tokenizer, encoded)[0] == whole.replace("Be brief.", "rief.")
    # more are cut as whole turns with their answers,
    without_system = len(encode_prompt(tokenizer, CHAT[1:])) + 2
    for room in (without_system, without_system - 8):
        question, answer = written(tokenizer, CHAT, "6", room)
        remaining_turns = CHAT[1:] if room == without_system else CHAT[3:]
        assert question == tokenizer.decode(encode_prompt(tokenizer, remaining_turns))
    # and of the last turn the end remains.
    last = [*CHAT[:3], Turn("user", "A passage. " * 30 + "What follows?")]
    question, answer = written(tokenizer, last, "6", 64)
    assert question.startswith("<|im_start|>user\n")
    assert question.endswith("What follows?<|im_end|>\n<|im_start|>assistant\n")
    assert answer == "6<|im_end|>"


TURNS = st.lists(
    st.builds(Turn, st.sampled_from(["system", "user", "assistant"]), TEXT),
    min_size=1,
    max_size=6,
)


@given(turns=TURNS, response=TEXT.filter(str.strip), max_tokens=st.integers(16, 400))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("chat", [True, False])
def test_any_chat_fits_and_keeps_its_end(plain, chat, turns, response, max_tokens):
    tokenizer = with_template(plain, CHATML) if chat else plain
    encoded = encode(tokenizer, turns, response, max_tokens)
    assert len(encoded.input_ids) <= max_tokens
    assert 0 < encoded.response_start < len(encoded.input_ids)
    whole = encode_prompt(tokenizer, turns)
    answer = encode(tokenizer, "", response, 10_000)
    fits = answer.response_tokens <= max_tokens * 3 // 4
    fits = fits and len(whole) + answer.response_tokens <= max_tokens
    assert encoded.cut == (not fits)
    if fits:
        assert encoded.input_ids[: encoded.response_start] == whole
    ending = "\n<|im_start|>assistant\n" if chat else "\n"
    question = parts(tokenizer, encoded)[0]
    assert question.endswith(ending) or ending.endswith(question)


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (CHAT[:2], "No system turns"),
        (CHAT[2:], "Roles must alternate: user, assistant"),
    ],
)
def test_turns_that_the_template_refuses_give_one_error_line(plain, turns, reason):
    tokenizer = with_template(plain, TRIMMED)
    with pytest.raises(InputError) as caught:
        encode(tokenizer, turns, "6", 256)
    message = str(caught.value)
    assert f'sample "{turns[-1].content}": the chat template refuses' in message
    assert reason in message
    assert "\n" not in message


def test_a_template_with_a_clock_gives_the_same_text_every_day(plain, monkeypatch):
    texts = []
    for day in (3, 17):

        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz=None, day=day):
                return datetime.datetime(2031, 5, day)

        monkeypatch.setattr(chat_template_utils, "datetime", Clock)
        tokenizer = with_template(plain, CLOCK)
        theirs = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hi?"}], tokenize=False
        )
        assert theirs.startswith(f"\nToday is {day:02} May 2031.")
        texts.append(written(tokenizer, "Hi?", "Yes."))
    assert texts[0] == texts[1]
    assert texts[0][0].startswith("\nToday is 01 Jan 2026.")
    assert reads_clock(tokenizer)
    assert not reads_clock(plain)
    assert not reads_clock(with_template(plain, CHATML))


def test_a_model_without_padding_is_padded_with_masked_zeros():
    samples = [Encoded([7, 8, 9], 1, False), Encoded([5, 6], 1, False)]
    batch = collate(samples, None)
    assert batch["input_ids"].tolist() == [[7, 8, 9], [0, 5, 6]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]


@pytest.fixture(scope="module")
def merging():
    """A tokenizer with the tokens 12, 23 and "3.", as Gemma's has."""
    pieces = ["<s>", "</s>", *"0123456789. =\n", "12", "23", "3."]
    model = models.BPE(
        vocab={piece: i for i, piece in enumerate(pieces)},
        merges=[("1", "2"), ("2", "3"), ("3", ".")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model), bos_token="<s>", eos_token="</s>"
    )


def pieces(tokenizer, encoded: Encoded) -> tuple[list[str], list[str]]:
    start = encoded.response_start
    ids = encoded.input_ids
    return (
        tokenizer.convert_ids_to_tokens(ids[:start]),
        tokenizer.convert_ids_to_tokens(ids[start:]),
    )


def test_the_loss_of_a_pair_is_taken_from_where_its_texts_differ(tokenizer):
    pair = Pair("2+2?", "It is ", "40", "44")
    right, wrong = encode_pair(tokenizer, pair, 96)
    question = "<s>user: 2+2?</s><s>assistant: It is 4"
    assert parts(tokenizer, right) == (question, "0")
    assert parts(tokenizer, wrong) == (question, "4")
    assert not right.cut
    assert not wrong.cut


def test_texts_without_a_prompt_follow_the_token_that_begins_a_text(plain):
    right, wrong = encode_pair(plain, Pair(None, "", "He is.", "He are."), 96)
    assert parts(plain, right) == ("<s>He ", "is.")
    assert parts(plain, wrong) == ("<s>He ", "are.")
    # GPT-2 has one token for begin and end.
    ends = type(plain)(tokenizer_object=plain.backend_tokenizer, eos_token="</s>")
    right, _ = encode_pair(ends, Pair(None, "", "He is.", "He are."), 96)
    assert parts(ends, right) == ("</s>He ", "is.")


def test_texts_that_merge_over_the_boundary_differ_before_it(merging):
    right, wrong = encode_pair(merging, Pair(None, "= 1", "2", "3"), 96)
    assert pieces(merging, right) == (["<s>", "=", " "], ["12"])
    assert pieces(merging, wrong) == (["<s>", "=", " "], ["1", "3"])
    # One text's tokens may be the beginning of the other's.
    right, wrong = encode_pair(merging, Pair(None, "= ", "2", "2."), 96)
    assert pieces(merging, right) == (["<s>", "=", " "], ["2"])
    assert pieces(merging, wrong) == (["<s>", "=", " "], ["2", "."])


DIGITS = st.text("0123456789. =", max_size=12)


@given(
    prompt=st.none() | DIGITS,
    shared=DIGITS,
    ends=st.lists(DIGITS.filter(len), min_size=2, max_size=2, unique=True),
    max_tokens=st.integers(8, 40),
)
@settings(max_examples=200, deadline=None)
def test_pairs_are_the_tokens_of_whole_texts(merging, prompt, shared, ends, max_tokens):
    pair = Pair(prompt, shared, *ends)
    before = [0] if prompt is None else merging(f"{prompt}\n")["input_ids"]
    texts = [merging(shared + end)["input_ids"] for end in ends]
    wholes = [[*before, *text] for text in texts]
    right, wrong = encode_pair(merging, pair, max_tokens)
    start = right.response_start
    assert start == wrong.response_start > 0
    assert right.input_ids[:start] == wrong.input_ids[:start]
    for encoded, whole in zip((right, wrong), wholes, strict=True):
        assert encoded.input_ids == whole[len(whole) - len(encoded.input_ids) :]
        assert encoded.response_tokens > 0
        assert encoded.cut == (len(encoded.input_ids) < len(whole))
    longest = max(right.response_tokens, wrong.response_tokens)
    assert start + longest <= max(max_tokens, 1 + longest)
    assert not right.cut or max(map(len, wholes)) > max_tokens
    # The loss begins at the first differing token, unless one text is the beginning of
    # the other.

    if right.input_ids[start] == wrong.input_ids[start]:
        assert 1 in (right.response_tokens, wrong.response_tokens)


def test_a_pairs_long_prompt_is_cut_at_its_beginning(tokenizer):
    pair = Pair("A passage. " * 30 + "What follows?", "It is ", "4", "57")
    for encoded, answer in zip(
        encode_pair(tokenizer, pair, 40), ("4", "57"), strict=True
    ):
        question, response = parts(tokenizer, encoded)
        assert question.endswith("follows?</s><s>assistant: It is ")
        assert encoded.response_start == 38
        assert response == answer
        assert encoded.cut


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_the_default_models_samples_are_those_of_the_shipped_bundles():
    _, tokenizer = load_model()
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    question = (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n Hi?\n<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    end = tokenizer.eos_token_id
    for response in ("Yes.", "  Yes.\n", "<|im_end|>", "\n\nÜ"):
        encoded = encode(tokenizer, " Hi?\n", response, 256)
        start = encoded.response_start
        bare = [tokenizer(t, add_special_tokens=False) for t in (question, response)]
        assert encoded.input_ids[:start] == bare[0]["input_ids"]
        assert encoded.input_ids[start:] == [*bare[1]["input_ids"], end]
