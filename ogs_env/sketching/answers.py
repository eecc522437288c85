"""Sample the untouched model's own answers to a capability's prompts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tqdm import tqdm
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from ogs_env.data.records import Turn
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError
from ogs_env.lm.encoding import Encoded, encode_prompt, end_of_turn
from ogs_env.seeding import named_rng
from ogs_env.sketching.shards import save_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONGEST_ANSWER = 128
"""Maximum number of tokens of an own answer, including the end token."""
BATCH_ROWS = 32


def longest_answer(max_tokens: int) -> int:
    """Return the maximum number of tokens of an own answer, including the end token.

    Args:
        max_tokens: Maximum number of tokens of prompt and answer together; half of
            them are reserved for the prompt.
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

    An answer depends on the model, the seed and the sample's id, up to rounding that
    depends on the batch. It ends with the model's end token, or after
    `longest_answer` tokens. Batches already saved in `build` are read, not sampled
    again.

    Args:
        model: A causal LM of `transformers`, untouched or with a fresh adapter, which
            does not change its output.
        tokenizer: Its tokenizer.
        samples: Their turns before the response are the prompts.
        build: Folder of finished batches.
        role: Names the batches' files and the progress bar.
        seed: Seed of the sampling.
        max_tokens: Maximum number of tokens of a prompt and the longest answer
            together; longer prompts are cut at their beginning.

    Returns:
        The token ids of each answer, in order.
    """
    prompts = [
        _cut_prompt(encode_prompt(tokenizer, sample.turns), max_tokens)
        for sample in samples
    ]
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    answers: list[list[int]] = [[] for _ in prompts]
    with tqdm(total=len(order), desc=f"{role}: own answers", unit="answer") as bar:
        for number, begin in enumerate(range(0, len(order), BATCH_ROWS)):
            rows = order[begin : begin + BATCH_ROWS]
            file = build / f"answers-{role}-{number:05d}.safetensors"
            if not file.exists():
                uniforms = [
                    _uniforms(seed, samples[row].id, longest_answer(max_tokens))
                    for row in rows
                ]
                batch = [prompts[row] for row in rows]
                sampled = _sample_batch(model, tokenizer, batch, np.stack(uniforms))
                save_tensors(file, {"tokens": padded(sampled)})
            try:
                saved = load_file(file)["tokens"].tolist()
            except (SafetensorError, KeyError) as error:
                raise InputError(
                    f"{file}: is damaged ({error}); delete it and run the command again"
                ) from None
            for row, tokens in zip(rows, saved, strict=True):
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
        turns: The prompt, as for `encode`.
        answer: Token ids of the answer, as `own_answers` returns them.
        max_tokens: Maximum number of tokens of a prompt and the longest answer
            together.
    """
    whole = encode_prompt(tokenizer, turns)
    prompt = _cut_prompt(whole, max_tokens)
    return Encoded([*prompt, *answer], len(prompt), len(prompt) < len(whole))


def _cut_prompt(prompt: list[int], max_tokens: int) -> list[int]:
    """Cut a prompt's beginning so that the longest answer fits after it."""
    return prompt[-(max_tokens - longest_answer(max_tokens)) :]


def _uniforms(seed: int, id_: str, count: int) -> np.ndarray:
    """Return a sample's draws from U(0, 1), one per token."""
    return named_rng(seed, "own answers", int(id_, 16)).random(count)


def _sample_batch(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[list[int]],
    uniforms: np.ndarray,
) -> list[list[int]]:
    """Sample an answer to each prompt of a batch.

    Args:
        model: As for `own_answers`.
        tokenizer: Its tokenizer.
        prompts: Token ids.
        uniforms: float64 (prompts, tokens), one draw for each token that an answer
            may have.
    """
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), tokenizer.pad_token_id or 0)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    # An answer ends with the token that ends a turn in the chat format.
    end = next(iter(end_of_turn(tokenizer)[-1:]), None)
    # The logits processor samples the token and greedy decoding takes it, because
    # the sampling of transformers uses the global generator.
    with torch.no_grad(), _plain_generation(model):
        out = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=uniforms.shape[1],
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id or 0,
            eos_token_id=end,
            logits_processor=LogitsProcessorList([_SampleToken(uniforms, longest)]),
        )
    answers = out[:, longest:].tolist()
    return [a[: a.index(end) + 1] if end in a else a for a in answers]


@contextmanager
def _plain_generation(model: Any) -> Iterator[None]:
    """Ignore a model's own generation config, such as its penalties.

    It would change the probabilities that answers are sampled from.
    """
    own_config = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own_config


class _SampleToken(LogitsProcessor):
    """Samples each row's next token from softmax(scores) with a given uniform draw."""

    def __init__(self, uniforms: np.ndarray, prompt_tokens: int) -> None:
        self._uniforms, self._begin = torch.from_numpy(uniforms), prompt_tokens

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        uniform = self._uniforms[:, input_ids.shape[1] - self._begin].to(scores.device)
        cumulative = scores.double().softmax(-1).cumsum(-1)
        # Rounding may leave the last sum below 1.
        tokens = (cumulative < uniform[:, None] * cumulative[:, -1:]).sum(-1)
        only_token = torch.full_like(scores, -torch.inf)
        return only_token.scatter_(1, tokens[:, None], 0.0)
