"""A model with an adapter and texts, and passes over them."""

import contextlib
import dataclasses
import io
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ogs_env.bundle_files import MEASURED
from ogs_env.data import generated, icd10
from ogs_env.experiments.speed.settings import Settings
from ogs_env.lm.adapter import Proxy
from ogs_env.lm.encoding import encode
from ogs_env.lm.gradients import b_gradients
from ogs_env.lm.loading import DEFAULT_MODEL
from ogs_env.lm.losses import response_losses
from ogs_env.lm.trunk import TrunkStates
from ogs_env.sketching.batch_sketches import (
    MeanGradients,
    Row,
    batches,
    mean_gradients,
)
from ogs_env.sketching.projection import CountSketch
from ogs_env.sketching.settings import SketchSettings
from ogs_env.sketching.shards import write_shards
from ogs_env.sketching.sketcher import load_proxy

# Does one pass over all samples, and returns how many they are.
Pass = Callable[[], float]


@dataclass(frozen=True)
class Work:
    """What a pass is measured on.

    Attributes:
        proxy: The model with an adapter, whose gradients are sketched.
        rows: The samples, encoded; lengths are mixed.
        batches: Their row numbers in batches of similar length, as `ogs sketch` uses.
        means: Mean gradients, with which a sketching pass takes inner products.
    """

    proxy: Proxy
    rows: list[Row]
    batches: list[list[int]]
    means: MeanGradients

    @property
    def tokens(self) -> int:
        """Tokens of all samples, without padding."""
        return sum(len(row.encoded.tokens) for row in self.rows)

    @property
    def padding(self) -> float:
        """Share of the batches' places that is padding."""
        places = 0
        for part in self.batches:
            lengths = [len(self.rows[row].encoded.tokens) for row in part]
            places += len(part) * max(lengths)
        return 1 - self.tokens / places

    def padded(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the batches as tensors on the model's device."""
        for part in self.batches:
            yield self.proxy.batch([self.rows[row].encoded for row in part])

    def in_random_batches(self) -> "Work":
        """Return the same samples in batches of the same sizes, in random order."""
        order = np.random.default_rng(0).permutation(len(self.rows)).tolist()
        sizes = [len(part) for part in self.batches]
        parts = [[order.pop() for _ in range(size)] for size in sizes]
        return dataclasses.replace(self, batches=parts)


def make_work(settings: SketchSettings, precision: str, count: int) -> Work:
    """Load a model and texts that come with packages.

    A quarter each are maths with worked solutions, puzzles, and questions about
    ICD-10-CM with a sentence and with one word for an answer.

    Args:
        settings: Those of `ogs sketch`.
        precision: `"float32"` or `"bfloat16"`.
        count: Number of texts, a multiple of four.
    """
    proxy, _ = load_proxy(dataclasses.replace(settings, precision=precision))
    each = count // 4
    texts = [
        *generated.gsm_symbolic(each, 0),
        *generated.puzzles(each, 0),
        *icd10.icd10cm(each, 0),
        *icd10.icd10cm_short(each, 0),
    ]
    rows = [
        Row(
            text,
            encode(proxy.tokenizer, text.turns, text.response, settings.max_tokens),
            0,
            0,
        )
        for text in texts
    ]
    with without_messages():
        means = mean_gradients(proxy, {"dev": rows[:1], "anchor": rows[-1:]}, 1)
    return Work(proxy, rows, [part.tolist() for part in batches(rows)], means)


def sketch_settings(settings: Settings) -> SketchSettings:
    """Return the settings of `ogs sketch` with the model that is measured."""
    return SketchSettings(proxy=settings.model or DEFAULT_MODEL)


def sketching(work: Work, k: int, folder: Path | None = None) -> Pass:
    """Return a pass that writes the samples' sketches as `ogs sketch` does.

    Args:
        work: Model and samples.
        k: Dimensions of a sketch.
        folder: Where the files are written; by default they are removed.
    """
    projection = CountSketch(k, 0)
    rows = {**{role: [] for role in MEASURED}, "pool": work.rows}

    def run() -> float:
        with tempfile.TemporaryDirectory() as name:
            where = folder or Path(name)
            with without_messages():
                write_shards(work.proxy, rows, work.means, [], projection, where, where)
        return len(work.rows)

    return run


def gradients(work: Work) -> Pass:
    """Return a pass that computes the samples' gradients, without using them."""
    proxy = work.proxy

    def run() -> float:
        for batch in work.padded():
            b_gradients(proxy, batch, lambda *_: None)
        return len(work.rows)

    return run


def gradients_on_cached_trunk(work: Work) -> Pass:
    """Return the same for samples with cached states of the frozen layers."""
    proxy = work.proxy
    texts = TrunkStates(proxy, [row.encoded for row in work.rows])

    def run() -> float:
        for part in work.batches:
            texts.gradients(part, proxy.b, lambda *_: None)
        return len(work.rows)

    return run


def plain(work: Work) -> Pass:
    """Return the least work for exact gradients of the adapted layers.

    Forward through all layers, and through the output layer at the response's tokens;
    backward to the first adapted layer, with frozen weights and without adapter.
    """
    proxy = work.proxy
    causal = proxy.model.get_base_model()
    first = causal.base_model.layers[len(proxy.trunk)]

    def detached(
        _: Any, inputs: tuple[Any, ...], others: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        states, *more = inputs
        return (states.detach().requires_grad_(True), *more), others

    def run() -> float:
        handle = first.register_forward_pre_hook(detached, with_kwargs=True)
        try:
            with proxy.model.disable_adapter():
                for batch in work.padded():
                    response_losses(proxy.model, batch).sum().backward()
        finally:
            handle.remove()
        return len(work.rows)

    return run


def response_logits(work: Work) -> Pass:
    """Return forward and backward of the loss, with logits where they count."""
    model = work.proxy.model

    def run() -> float:
        for batch in work.padded():
            response_losses(model, batch).sum().backward()
        model.zero_grad(set_to_none=True)
        return len(work.rows)

    return run


def all_logits(work: Work) -> Pass:
    """Return forward and backward of the loss of transformers, with all logits."""
    model = work.proxy.model

    def run() -> float:
        for batch in work.padded():
            model(**batch, use_cache=False).loss.backward()
        model.zero_grad(set_to_none=True)
        return len(work.rows)

    return run


def operations(work: Work) -> float:
    """Return the multiplications and additions of the matrices in a plain pass.

    Two for each weight and token in the forward pass, and two more for the gradient
    by the token's state: of all decoder layers, of the adapted ones, and of the output
    layer at the response's tokens. Padding and attention are not counted.
    """
    causal = work.proxy.model.get_base_model()
    layers = causal.base_model.layers
    weights = [_weights(layer) for layer in layers]
    adapted = sum(weights[len(work.proxy.trunk) :])
    head = causal.get_output_embeddings().weight.numel()
    responses = sum(row.encoded.response_tokens for row in work.rows)
    return 2 * work.tokens * (sum(weights) + adapted) + 4 * responses * head


def _weights(layer: torch.nn.Module) -> int:
    """Return the number of weights of a decoder layer's matrices."""
    return sum(
        parameter.numel()
        for name, parameter in layer.named_parameters()
        if parameter.ndim == 2 and "lora_" not in name
    )


@contextlib.contextmanager
def without_messages() -> Iterator[None]:
    """Hide progress bars and warnings of libraries within the block."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield
