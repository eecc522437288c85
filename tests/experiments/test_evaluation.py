import random

import pytest
import torch
from helpers.easy_samples import colours, sums
from helpers.tiny_model import make_tiny_model

from ogs_env.data.pairs import Pair, solution_pairs
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError
from ogs_env.experiments import evaluation
from ogs_env.experiments.evaluation import (
    exact_match,
    extract_answer,
    generate_answers,
    mean_losses,
    pair_preferences,
    preferences,
)
from ogs_env.lm.encoding import encode, encode_prompt
from ogs_env.lm.loading import load_model


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_model(str(make_tiny_model(tmp_path_factory.mktemp("model"))))


def one_by_one(model, tokenizer, samples):
    """Return mean losses by the plain definition: no batches, no padding."""
    means, total, tokens = [], 0.0, 0
    for sample in samples:
        item = encode(tokenizer, sample.prompt, sample.response, 256)
        ids = torch.tensor([item.input_ids])
        with torch.no_grad():
            likelihoods = model(ids).logits[0].log_softmax(-1)
        losses = [
            -likelihoods[position - 1, ids[0, position]].item()
            for position in range(item.response_start, ids.shape[1])
        ]
        means.append(sum(losses) / len(losses))
        total += sum(losses)
        tokens += len(losses)
    return sum(means) / len(means), total / tokens, tokens


@pytest.mark.parametrize("batch_tokens", [1, 100, 4096])
def test_losses_are_those_of_single_samples(loaded, monkeypatch, batch_tokens):
    monkeypatch.setattr(evaluation, "BATCH_TOKENS", batch_tokens)
    samples = colours(0, 13) + sums(5)
    losses = mean_losses(*loaded, samples)
    per_sample, per_token, tokens = one_by_one(*loaded, samples)
    assert losses.per_sample == pytest.approx(per_sample, rel=1e-5)
    assert losses.per_token == pytest.approx(per_token, rel=1e-5)
    assert (losses.samples, losses.tokens) == (18, tokens)
    # Short and long responses differ, or the two means would be the same test.
    assert abs(per_sample - per_token) > 1e-3


def test_losses_do_not_depend_on_the_order(loaded):
    samples = colours(0, 12)
    shuffled = random.Random(1).sample(samples, k=len(samples))
    assert mean_losses(*loaded, samples).per_sample == pytest.approx(
        mean_losses(*loaded, shuffled).per_sample, rel=1e-6
    )


GRAMMAR = [
    Pair(None, "", "The dogs bark.", "The dogs barks."),
    Pair(None, "", "A dog barks at night.", "A dog bark at night."),
    Pair(None, "", "She saw herself.", "She saw himself."),
]


def log_probability(model, tokenizer, prompt: str | None, text: str) -> float:
    """Return log P of a whole text after its prompt, token by token."""
    before = [0] if prompt is None else encode_prompt(tokenizer, prompt)
    ids = torch.tensor([before + tokenizer(text)["input_ids"]])
    with torch.no_grad():
        likelihoods = model(ids).logits[0].log_softmax(-1).double()
    return sum(
        likelihoods[position - 1, ids[0, position]].item()
        for position in range(len(before), ids.shape[1])
    )


@pytest.mark.parametrize("batch_tokens", [1, 100, 4096])
@pytest.mark.parametrize("ability", ["solutions", "grammar"])
def test_preferences_are_those_of_whole_texts(
    loaded, monkeypatch, batch_tokens, ability
):
    monkeypatch.setattr(evaluation, "BATCH_TOKENS", batch_tokens)
    pairs = solution_pairs(sums(30)[8:]) if ability == "solutions" else GRAMMAR
    margins = [
        log_probability(*loaded, pair.prompt, pair.shared + pair.right)
        - log_probability(*loaded, pair.prompt, pair.shared + pair.wrong)
        for pair in pairs
    ]
    measures = pair_preferences(*loaded, pairs)
    assert measures == {
        "pairs": len(pairs),
        "accuracy": sum(margin > 0 for margin in margins) / len(pairs),
        "margin": pytest.approx(sum(margins) / len(pairs), rel=1e-4),
    }
    assert 0 < measures["accuracy"] < 1


def test_preferences_by_hand():
    measures = preferences([1.0, 2.0, 3.0, 4.0], [2.0, 1.5, 3.0, 7.0])
    # The third pair is a tie: its right text is not the likelier one.
    assert measures == {"accuracy": 0.5, "margin": 0.875}


def test_evaluation_leaves_the_model_as_it_was(loaded):
    model, tokenizer = loaded
    model.train()
    mean_losses(model, tokenizer, colours(0, 2))
    assert model.training
    model.eval()
    mean_losses(model, tokenizer, colours(0, 2))
    assert not model.training


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("9 * 2 = <<9*2=18>>18 dollars.\n#### 18", "18"),
        ("#### 1,234,000", "1234000"),
        ("####$ 70", "70"),
        ("#### -$5.", "-5"),
        ("#### 2.50 dollars", "2.5"),
        ("#### 1\nno, #### 200", "200"),
        ("#### -0", "0"),
        ("#### 007", "7"),
        ("the answer is 18", None),
        ("#### eighteen", None),
        ("#### 1.2.3", None),
        ("", None),
    ],
)
def test_extract_answer(text, answer):
    assert extract_answer(text) == answer


def greedy(model, tokenizer, prompt, new_tokens):
    """Return a greedy answer, one token at a time, without cache or padding."""
    ids = encode_prompt(tokenizer, prompt)
    start = len(ids)
    while len(ids) < start + new_tokens and ids[-1] != tokenizer.eos_token_id:
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return tokenizer.decode(ids[start:], skip_special_tokens=True)


def test_generated_answers_are_those_of_single_prompts(loaded, monkeypatch):
    monkeypatch.setattr(evaluation, "GENERATION_BATCH", 3)
    samples = colours(0, 7)
    answers = generate_answers(*loaded, samples, new_tokens=20)
    assert answers == [greedy(*loaded, s.prompt, 20) for s in samples]
    assert len(set(answers)) > 1


def test_exact_match_counts_right_numbers(loaded, monkeypatch):
    answers = {"0 and 0?": "#### 0", "1 and 1?": "#### $2.00", "2 and 2?": "#### 5"}
    monkeypatch.setattr(
        evaluation,
        "_answers",
        lambda *args: [answers.get(s.prompt, "?") for s in args[2]],
    )
    assert exact_match(*loaded, sums(4)) == 0.5


def test_bad_input(loaded):
    with pytest.raises(InputError, match="retention: no samples to evaluate on"):
        mean_losses(*loaded, [], name="retention")
    with pytest.raises(InputError, match="grammar: no pairs to evaluate on"):
        pair_preferences(*loaded, [], name="grammar")
    with pytest.raises(InputError, match="no samples to answer"):
        exact_match(*loaded, [])
    sample = Sample("a", "no number")
    with pytest.raises(InputError, match=f"sample {sample.id} has no '#### N'"):
        exact_match(*loaded, [sample])
