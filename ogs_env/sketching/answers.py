"""The model's own answers: what it says, untouched, to a capability's prompts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from tqdm import tqdm
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from ogs_env.data.records import Turn
from ogs_env.data.samples import Sample
from ogs_env.seeding import named_rng
from ogs_env.sketching.encoding import Encoded, encode_prompt, end_of_turn
from ogs_env.sketching.shards import save_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONGEST_ANSWER = 128
"""Most tokens of an own answer, the end token included; see `longest_answer`."""
BATCH_ROWS = 32


def longest_answer(max_tokens: int) -> int:
    """Return the most tokens of an own answer, the end token included.

    Args:
        max_tokens: Most tokens of prompt and answer together; half of them are the
            prompt's.
    """
    return min(LONGEST_ANSWER, max_tokens // 2)


def own_answers(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    samples: Sequence[Sample],
    build: Path,
    role: str,
    *,
    seed: int,
    max_tokens: int,
) -> list[list[int]]:
    """Sample one answer to each sample's prompt from a model, at temperature 1.

    An answer is a function of the model, the seed and the sample's id, up to rounding
    that depends on the batch. It ends with the model's end token, or after
    `longest_answer` tokens. Batches that are kept in `build` are not sampled again.

    Args:
        model: A causal LM of `transformers`, untouched or with a fresh adapter inside,
            which changes nothing.
        tokenizer: Its tokenizer.
        samples: What comes before their responses is answered.
        build: Folder where finished batches are kept.
        role: Names the batches' files and the progress bar.
        seed: Seeds all draws.
        max_tokens: Most tokens of a prompt and the longest answer together; longer
            prompts lose their beginning.

    Returns:
        The token ids of each answer, in order.
    """
    questions = [
        _fitted(encode_prompt(tokenizer, sample.turns), max_tokens)
        for sample in samples
    ]
    order = sorted(range(len(questions)), key=lambda row: len(questions[row]))
    answers: list[list[int]] = [[] for _ in questions]
    with tqdm(total=len(order), desc=f"{role}: own answers", unit="answer") as bar:
        for number, begin in enumerate(range(0, len(order), BATCH_ROWS)):
            rows = order[begin : begin + BATCH_ROWS]
            file = build / f"answers-{role}-{number:05d}.safetensors"
            if not file.exists():
                draws = [
                    _uniforms(seed, samples[row].id, longest_answer(max_tokens))
                    for row in rows
                ]
                asked = [questions[row] for row in rows]
                found = _sampled(model, tokenizer, asked, np.stack(draws))
                save_tensors(file, {"tokens": padded(found)})
            kept = load_file(file)["tokens"].tolist()
            for row, tokens in zip(rows, kept, strict=True):
                answers[row] = [token for token in tokens if token >= 0]
            bar.update(len(rows))
    return answers


def padded(answers: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return answers as int32 (n, longest), -1 after the end of each."""
    rows = [torch.tensor(answer, dtype=torch.int32) for answer in answers]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


def encode_answer(
    tokenizer: "PreTrainedTokenizerBase",
    turns: str | Sequence[Turn],
    answer: Sequence[int],
    max_tokens: int,
) -> Encoded:
    """Encode a prompt and the model's own answer to it.

    Args:
        tokenizer: The model's tokenizer.
        turns: What is answered, as of `encode`.
        answer: Token ids of the answer, as `own_answers` returns them.
        max_tokens: Most tokens of a prompt and the longest answer together.
    """
    whole = encode_prompt(tokenizer, turns)
    question = _fitted(whole, max_tokens)
    return Encoded([*question, *answer], len(question), len(question) < len(whole))


def _fitted(question: list[int], max_tokens: int) -> list[int]:
    """Cut a question's beginning so that the longest answer fits behind it."""
    return question[-(max_tokens - longest_answer(max_tokens)) :]


def _uniforms(seed: int, id_: str, count: int) -> np.ndarray:
    """Return a sample's draws from U(0, 1), one a token."""
    return named_rng(seed, "own answers", int(id_, 16)).random(count)


def _sampled(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[list[int]],
    uniforms: np.ndarray,
) -> list[list[int]]:
    """Sample an answer to each of a batch of questions.

    Args:
        model: As that of `own_answers`.
        tokenizer: Its tokenizer.
        questions: Token ids.
        uniforms: float64 (questions, tokens), the draws; as many as an answer has
            tokens at most.
    """
    longest = max(map(len, questions))
    ids = torch.full((len(questions), longest), tokenizer.pad_token_id or 0)
    mask = torch.zeros_like(ids)
    for row, question in enumerate(questions):
        ids[row, longest - len(question) :] = torch.tensor(question)
        mask[row, longest - len(question) :] = 1
    # What ends a turn in the chat format is what ends an answer.
    end = next(iter(end_of_turn(tokenizer)[-1:]), None)
    # Greedy over scores that the processor has drawn from: transformers' own sampling
    # draws from the global generator.
    with torch.no_grad(), _no_settings(model):
        out = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=uniforms.shape[1],
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id or 0,
            eos_token_id=end,
            logits_processor=LogitsProcessorList([_Draw(uniforms, longest)]),
        )
    answers = out[:, longest:].tolist()
    return [a[: a.index(end) + 1] if end in a else a for a in answers]


@contextmanager
def _no_settings(model: Any) -> Iterator[None]:
    """Leave out what a model's makers advise for generating, such as penalties.

    The answers would come from other probabilities than the model's.
    """
    advised = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = advised


class _Draw(LogitsProcessor):
    """Draws each row's next token from softmax(scores) by a given uniform number."""

    def __init__(self, uniforms: np.ndarray, prompt_tokens: int) -> None:
        self._uniforms, self._begin = torch.from_numpy(uniforms), prompt_tokens

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        uniform = self._uniforms[:, input_ids.shape[1] - self._begin].to(scores.device)
        below = scores.double().softmax(-1).cumsum(-1)
        # Rounding may leave the last sum below 1.
        drawn = (below < uniform[:, None] * below[:, -1:]).sum(-1)
        chosen = torch.full_like(scores, -torch.inf)
        return chosen.scatter_(1, drawn[:, None], 0.0)
