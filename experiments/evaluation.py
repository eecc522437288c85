"""Evaluate a causal LM: losses, answers to maths, and choices in minimal pairs."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from ogs_env.data.pairs import Pair
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError
from ogs_env.lm.encoding import (
    Encoded,
    collate,
    encode,
    encode_pair,
    encode_prompt,
    end_of_turn,
)
from ogs_env.lm.losses import response_losses
from ogs_env.lm.trunk import length_batches
from ogs_env.sketching.answers import encode_answer

BATCH_TOKENS = 2048
"""Tokens of an evaluation batch with padding, which bounds the memory of logits."""
NEW_TOKENS = 256
"""Maximum number of tokens of a generated answer."""
GENERATION_BATCH = 16
"""Batch size of generation."""

_ANSWER = re.compile(r"####\s*([-+]?[$]?\s*[-+]?[\d.,]*\d)")


@dataclass(frozen=True, slots=True)
class Losses:
    """Cross-entropy of the responses of some samples.

    Attributes:
        per_sample: Mean over samples of a sample's mean nats per response token, with
            equal weight for every sample. The main measure.
        per_token: Mean nats per response token, with more weight for long responses.
        samples: Number of samples.
        tokens: Number of response tokens.
        each: Each sample's mean nats per response token.
    """

    per_sample: float
    per_token: float
    samples: int
    tokens: int
    each: list[float]


def mean_losses(
    model: Any,
    tokenizer: Any,
    samples: Sequence[Sample],
    max_tokens: int = 256,
    name: str = "samples",
    answers: Sequence[Sequence[int]] | None = None,
) -> Losses:
    """Measure the loss of a model on the responses of some samples.

    Samples are batched by length to reduce padding; the result does not depend on the
    order of the samples or on the batches, except for rounding.

    Args:
        model: A causal LM of `transformers`, with or without an adapter.
        tokenizer: Its tokenizer.
        samples: At least one sample.
        max_tokens: Longer samples are truncated at the start of their prompt.
        name: Name of the samples, for the progress bar and the error line.
        answers: Token ids to measure in place of the samples' responses, as
            `own_answers` returns them.

    Raises:
        InputError: If there are no samples.
    """
    if not samples:
        raise InputError(f"{name}: no samples to evaluate on; give at least one")
    if answers is None:
        encoded = [encode(tokenizer, s.turns, s.response, max_tokens) for s in samples]
    else:
        encoded = [
            encode_answer(tokenizer, sample.turns, answer, max_tokens)
            for sample, answer in zip(samples, answers, strict=True)
        ]
    losses = _losses(model, tokenizer, encoded, name)
    tokens = np.array([item.response_tokens for item in encoded])
    return Losses(
        per_sample=float(losses.mean()),
        per_token=float(losses @ tokens / tokens.sum()),
        samples=len(samples),
        tokens=int(tokens.sum()),
        each=[round(loss, 6) for loss in losses.tolist()],
    )


def pair_preferences(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    max_tokens: int = 256,
    name: str = "pairs",
) -> dict[str, float]:
    """Measure how often a model prefers the right text of minimal pairs.

    Args:
        model: A causal LM of `transformers`, with or without an adapter.
        tokenizer: Its tokenizer.
        pairs: At least one pair.
        max_tokens: Longer texts are truncated at the start of their context.
        name: Name of the pairs, for the progress bar and the error line.

    Returns:
        `pairs`, the number of pairs, and the result of `preferences`.

    Raises:
        InputError: If there are no pairs.
    """
    if not pairs:
        raise InputError(f"{name}: no pairs to evaluate on; give at least one")
    sides = zip(*(encode_pair(tokenizer, p, max_tokens) for p in pairs), strict=True)
    encoded = [text for side in sides for text in side]
    tokens = np.array([text.response_tokens for text in encoded])
    right, wrong = np.split(_losses(model, tokenizer, encoded, name) * tokens, 2)
    return {"pairs": len(pairs), **preferences(right, wrong)}


def preferences(right: ArrayLike, wrong: ArrayLike) -> dict[str, float]:
    """Compare the probabilities of the right and the wrong texts of minimal pairs.

    Args:
        right: float64 (n,), -log P of the right texts after the common part, nats.
        wrong: The same of the wrong texts.

    Returns:
        `accuracy`, the share of pairs whose right text has the higher probability,
        and `margin`, the mean of log P(right) - log P(wrong), nats.
    """
    margins = np.subtract(wrong, right)
    return {
        "accuracy": float((margins > 0).mean()),
        "margin": float(margins.mean()),
    }


def _losses(
    model: Any, tokenizer: Any, encoded: Sequence[Encoded], name: str
) -> NDArray[np.float64]:
    """Return the loss (n,) of each sample, nats per response token."""
    losses = np.empty(len(encoded))
    bar = tqdm(total=len(encoded), desc=f"loss on {name}", unit="sample", leave=False)
    with _evaluating(model), bar:
        sizes = {row: len(item.tokens) for row, item in enumerate(encoded)}
        for rows in length_batches(sizes, list(sizes), BATCH_TOKENS):
            inputs = collate([encoded[row] for row in rows], tokenizer.pad_token_id)
            inputs = {key: value.to(model.device) for key, value in inputs.items()}
            losses[rows] = response_losses(model, inputs).cpu()
            bar.update(len(rows))
    return losses


def exact_match(
    model: Any, tokenizer: Any, samples: Sequence[Sample], name: str = "answers"
) -> float:
    """Return the share of samples whose generated answer is the right number.

    Answers are generated greedily with at most `NEW_TOKENS` tokens. An answer is right
    if the number after its last `####` equals that of the sample's response, as usual
    for GSM8K (Cobbe et al. 2021, arXiv 2110.14168).

    Args:
        model: A causal LM of `transformers`, with or without an adapter.
        tokenizer: Its tokenizer.
        samples: Samples whose responses end with `#### N`.
        name: Name of the samples, for the progress bar and the error line.

    Raises:
        InputError: If there are no samples, or a response has no `#### N`.
    """
    if not samples:
        raise InputError(f"{name}: no samples to answer; give at least one")
    for sample in samples:
        if extract_answer(sample.response) is None:
            raise InputError(
                f"{name}: the response of sample {sample.id} has no '#### N'; "
                "generate answers only to samples that have one"
            )
    answers = generate_answers(model, tokenizer, samples, name)
    right = sum(
        extract_answer(text) == extract_answer(sample.response)
        for text, sample in zip(answers, samples, strict=True)
    )
    return right / len(samples)


def generate_answers(
    model: Any,
    tokenizer: Any,
    samples: Sequence[Sample],
    name: str = "answers",
    new_tokens: int = NEW_TOKENS,
) -> list[str]:
    """Return greedily generated responses to the samples' prompts, in order.

    Args:
        model: A causal LM of `transformers`, with or without an adapter.
        tokenizer: Its tokenizer.
        samples: Samples with the prompts.
        name: Name of the samples, for the progress bar.
        new_tokens: Maximum number of tokens of an answer.
    """
    # Similar lengths are batched together, to reduce padding.
    order = sorted(range(len(samples)), key=lambda row: len(samples[row].prompt))
    answers = [""] * len(samples)
    bar = tqdm(total=len(order), desc=f"answers to {name}", unit="answer", leave=False)
    with _evaluating(model), bar:
        for start in range(0, len(order), GENERATION_BATCH):
            rows = order[start : start + GENERATION_BATCH]
            batch = [samples[row] for row in rows]
            for row, text in zip(
                rows, _answers(model, tokenizer, batch, new_tokens), strict=True
            ):
                answers[row] = text
            bar.update(len(rows))
    return answers


def extract_answer(text: str) -> str | None:
    """Return the number after the last `####` in plain digits, or None.

    Commas, dollar signs, a final full stop and redundant zeros are dropped:
    `#### $1,200.00` and `#### 1200` are the same answer.
    """
    numbers = _ANSWER.findall(text)
    if not numbers:
        return None
    digits = re.sub(r"[$,\s]", "", numbers[-1])
    try:
        number = Decimal(digits)
    except ArithmeticError:
        return None
    return format(number.normalize() + 0, "f")


def _answers(
    model: Any, tokenizer: Any, samples: Sequence[Sample], new_tokens: int
) -> list[str]:
    """Return generated responses of a batch."""
    prompts = [encode_prompt(tokenizer, sample.turns) for sample in samples]
    # Without responses, `collate` only adds padding.
    inputs = collate(
        [Encoded(prompt, len(prompt), cut=False) for prompt in prompts],
        tokenizer.pad_token_id,
    )
    length = inputs["input_ids"].shape[1]
    ends = {*end_of_turn(tokenizer)[-1:], tokenizer.eos_token_id}
    generated = model.generate(
        input_ids=inputs["input_ids"].to(model.device),
        attention_mask=inputs["attention_mask"].to(model.device),
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=sorted(ends - {None}) or None,
    )
    return tokenizer.batch_decode(generated[:, length:], skip_special_tokens=True)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Set a model to evaluation mode without gradients, and restore its mode."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)
