"""The proxy's own answers against a plain sampling loop, token by token."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.tiny_model import make_tiny_model

from ogs_env.data.records import Turn
from ogs_env.data.samples import Sample
from ogs_env.lm.adapter import Proxy, attach_adapter
from ogs_env.lm.encoding import encode_prompt
from ogs_env.lm.gradients import per_sample_gradients
from ogs_env.lm.loading import load_model
from ogs_env.sketching.answers import (
    LONGEST_ANSWER,
    encode_answer,
    longest_answer,
    padded,
)
from ogs_env.sketching.answers import own_answers as answers_of
from ogs_env.sketching.settings import SketchSettings

SETTINGS = SketchSettings(max_tokens=48, seed=3)
# Two batches; some prompts must be cut to leave room for an answer.
SAMPLES = [Sample(f"{'very ' * (i % 4)}why {i}?", f"{i}") for i in range(40)]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory) -> Proxy:
    """A tiny model that ends about every fifteenth token."""
    folder = make_tiny_model(tmp_path_factory.mktemp("model"))
    model, tokenizer = load_model(str(folder))
    head = model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    head.bias.data[tokenizer.eos_token_id] = 2.0
    return attach_adapter(model, tokenizer, rank=4, alpha=8, layers=2, seed=0)


def own_answers(proxy, samples, settings, folder, role) -> list[list[int]]:
    """Sample answers with the settings of `ogs sketch`."""
    model, most = proxy.model.get_base_model(), settings.max_tokens
    return answers_of(
        *(model, proxy.tokenizer, samples, folder, role),
        seed=settings.seed,
        max_tokens=most,
    )


@pytest.fixture(scope="module")
def folder(proxy, tmp_path_factory):
    """The build folder after sampling answers to `SAMPLES`."""
    folder = tmp_path_factory.mktemp("build")
    own_answers(proxy, SAMPLES, SETTINGS, folder, "anchor")
    return folder


@pytest.fixture(scope="module")
def answers(proxy, folder):
    return own_answers(proxy, SAMPLES, SETTINGS, folder, "anchor")


def prompt_tokens(proxy: Proxy, sample: Sample, max_tokens: int) -> list[int]:
    whole = encode_prompt(proxy.tokenizer, sample.turns)
    return whole[max(0, len(whole) - max_tokens // 2) :]


def plain_sampling(proxy: Proxy, sample: Sample) -> list[int]:
    """Sample an answer with a whole forward pass for each token."""
    prompt = prompt_tokens(proxy, sample, SETTINGS.max_tokens)
    draws = np.random.default_rng([SETTINGS.seed, 70, int(sample.id, 16)])
    answer: list[int] = []
    for draw in draws.random(SETTINGS.max_tokens // 2):
        with torch.no_grad():
            logits = proxy.model(torch.tensor([prompt + answer])).logits[0, -1]
        sums = np.cumsum(torch.softmax(logits.double(), 0).numpy())
        answer.append(next(token for token, sum_ in enumerate(sums) if sum_ >= draw))
        if answer[-1] == proxy.tokenizer.eos_token_id:
            break
    return answer


def test_answers_equal_those_of_a_plain_loop(proxy, answers):
    assert answers == [plain_sampling(proxy, sample) for sample in SAMPLES]


def test_answers_end_with_the_end_token_or_at_the_limit(proxy, answers):
    end = proxy.tokenizer.eos_token_id
    ended = [answer[-1] == end for answer in answers]
    assert 5 < sum(ended) < len(answers) - 5
    for answer, done in zip(answers, ended, strict=True):
        assert answer.count(end) == done
        assert done or len(answer) == 24


def test_the_longest_answer_is_half_of_all_tokens():
    assert longest_answer(48) == 24
    assert longest_answer(2 * LONGEST_ANSWER) == LONGEST_ANSWER
    assert longest_answer(1000) == LONGEST_ANSWER


def test_answers_depend_only_on_seed_and_sample(proxy, answers, tmp_path):
    torch.rand(3)  # the global generator must not matter
    resampled = own_answers(proxy, SAMPLES[::-2], SETTINGS, tmp_path, "retention")
    assert resampled == answers[::-2]
    other = replace(SETTINGS, seed=4)
    (tmp_path / "other").mkdir()
    resampled = own_answers(proxy, SAMPLES, other, tmp_path / "other", "anchor")
    assert all(a != b for a, b in zip(resampled, answers, strict=True))


def test_a_run_killed_between_batches_is_resumed(proxy, folder, answers, tmp_path):
    first, second = sorted(folder.iterdir())
    file = tmp_path / first.name
    file.write_bytes(first.read_bytes())
    modified = file.stat().st_mtime_ns
    assert own_answers(proxy, SAMPLES, SETTINGS, tmp_path, "anchor") == answers
    assert file.stat().st_mtime_ns == modified
    assert (tmp_path / second.name).read_bytes() == second.read_bytes()


def test_first_tokens_have_the_models_probabilities(proxy, tmp_path):
    count = 1600
    # The responses make the ids differ.
    samples = [Sample("why?", f"{i}") for i in range(count)]
    short = replace(SETTINGS, max_tokens=2)
    answers = own_answers(proxy, samples, short, tmp_path, "anchor")
    prompt = prompt_tokens(proxy, samples[0], 2)
    with torch.no_grad():
        logits = proxy.model(torch.tensor([prompt])).logits[0, -1]
    expected = count * torch.softmax(logits.double(), 0).numpy()
    counts = np.bincount([answer[0] for answer in answers], minlength=len(expected))
    common = expected >= 5
    assert common.sum() > 20
    # Rare tokens are counted together.
    expected = [*expected[common], expected[~common].sum()]
    counts = [*counts[common], counts[~common].sum()]
    chi_square = np.sum(np.square(np.subtract(counts, expected)) / expected)
    freedom = len(expected) - 1
    assert abs(chi_square - freedom) < 4 * np.sqrt(2 * freedom)


def test_the_expected_gradient_of_own_answers_is_zero(proxy, tmp_path):
    samples = [Sample("why?", f"{i}") for i in range(400)]
    answers = own_answers(proxy, samples, SETTINGS, tmp_path, "anchor")

    def spread(answers: list[list[int]]) -> float:
        """Return n |mean|^2 / mean of |.|^2 of the gradients of log P(answer).

        It is about 1 for an expectation of zero, and n for n equal gradients.
        """
        sums = {name: torch.zeros(1) for name in proxy.b}
        squares = 0.0
        for begin in range(0, len(answers), 50):
            part = answers[begin : begin + 50]
            encoded = [
                encode_answer(proxy.tokenizer, "why?", answer, SETTINGS.max_tokens)
                for answer in part
            ]
            tokens = torch.tensor([float(len(answer)) for answer in part])

            def add(name, values, tokens=tokens):
                nonlocal squares
                whole = values.flatten(1) * tokens[:, None]
                sums[name] = sums[name] + whole.sum(0)
                squares += whole.square().sum().item()

            per_sample_gradients(proxy.model, proxy.b, proxy.batch(encoded), add)
        return sum(s.square().sum().item() for s in sums.values()) / squares

    assert spread(answers) < 2
    assert spread([answers[0]] * 100) == pytest.approx(100, rel=1e-3)


def test_the_models_own_generation_config_is_ignored(proxy, answers, tmp_path):
    own_config = proxy.model.get_base_model().generation_config
    own_config.repetition_penalty = 3.0
    try:
        resampled = own_answers(proxy, SAMPLES[:4], SETTINGS, tmp_path, "anchor")
        assert proxy.model.get_base_model().generation_config is own_config
    finally:
        own_config.repetition_penalty = None
    assert resampled == answers[:4]


def test_an_encoded_answer_follows_its_prompt(proxy):
    tokenizer = proxy.tokenizer
    turns = [Turn("user", "2+2?"), Turn("assistant", "4"), Turn("user", "3+3?")]
    whole = encode_prompt(tokenizer, turns)
    answer = [5, 6, tokenizer.eos_token_id]
    encoded = encode_answer(tokenizer, turns, answer, 2 * len(whole))
    assert encoded.input_ids == [*whole, *answer]
    assert encoded.response_start == len(whole)
    assert not encoded.cut


@pytest.mark.parametrize("max_tokens", [16, 48, 256, 400])
def test_a_long_prompt_is_cut_at_its_beginning(proxy, max_tokens):
    tokenizer = proxy.tokenizer
    whole = encode_prompt(tokenizer, "A passage. " * 60)
    answer = list(range(2, 2 + longest_answer(max_tokens)))
    encoded = encode_answer(tokenizer, "A passage. " * 60, answer, max_tokens)
    assert len(encoded.input_ids) == max_tokens
    assert encoded.cut
    start = encoded.response_start
    assert encoded.input_ids[:start] == whole[-start:]
    assert encoded.input_ids[start:] == answer


def test_answers_are_padded_after_their_end():
    assert padded([[7, 8], [9]]).tolist() == [[7, 8], [9, -1]]
    assert padded([[7, 8], [9]]).dtype == torch.int32
