"""The live learner: a causal LM with LoRA that is fine-tuned during the episode.

Picked samples form batches, and a full batch makes one AdamW step on the mean loss over
its response tokens (no weight decay, gradients clipped at norm 1, a learning rate that
rises over three steps and is then constant). Losses come from real forward passes, and
gradients are those at the current weights, in the bundle's sketch space: before the
first step they equal the bundle's initial sketches, up to rounding.

Training is feasible on a processor because only a part of the model runs: the adapter
is on the last layers, the output of the frozen layers below is cached for each sample,
logits are computed only at response positions, and samples of similar length share a
pass. The cache is cleared on reset, so that an episode does not depend on earlier ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.data.texts import bundle_texts
from ogs_env.learners import Floats
from ogs_env.learners.live_samples import LiveSamples, check_manifest, load_proxy
from ogs_env.learners.live_settings import LiveSettings
from ogs_env.lm.adapter import draw_adapter
from ogs_env.lm.losses import has_plain_head
from ogs_env.lm.passes import add_gradients, measure, passes
from ogs_env.lm.training import AdapterTraining
from ogs_env.lm.trunk import TrunkStates
from ogs_env.sketching.batch_sketches import MeanGradients
from ogs_env.sketching.projection import CountSketch
from ogs_env.sketching.warmup import RISE


@dataclass(frozen=True)
class PoolGradients:
    """Gradients of pool samples at the model's current weights.

    Attributes:
        sketches: float32 (n, k).
        norms: float32 (n,), exact.
        losses: float32 (n,), nats per response token.
        domain_cosines: float32 (n,), exact, with the mean dev gradient.
        anchor_cosines: float32 (n, capabilities), exact, with each capability's mean
            anchor gradient.
    """

    sketches: Floats
    norms: Floats
    losses: Floats
    domain_cosines: Floats
    anchor_cosines: Floats


@dataclass(frozen=True)
class _Evaluation:
    """Losses and mean gradients: the domain first, then each capability.

    Attributes:
        losses: float32 (1 + capabilities,).
        means: The mean gradients.
        sketches: float32 (1 + capabilities, k), their sketches.
        answers: float32 (capabilities,), losses on own answers; empty without any.
    """

    losses: Floats
    means: MeanGradients
    sketches: Floats
    answers: Floats


class LiveLearner:
    """A causal LM with a LoRA adapter that is trained on the picked samples.

    Dev and anchor losses, and the mean gradients for cosines, are measured every
    `evaluate_every` picks and at `finish`; in between they are those of the last
    measurement. Gradients are those of the adapter's B, as in the bundle's initial
    sketches. On a CPU all results depend only on the picks.

    Args:
        bundle: A bundle made by `ogs sketch`; its manifest gives the model, the adapter
            and the projection.
        settings: The settings.

    Attributes:
        proxy: The model and its adapter, as trained so far.
        version: A counter that changes whenever the results of `pool_gradients` or
            the mean gradients may change.

    Raises:
        InputError: If the model or a text of the bundle is not available, or the
            bundle was not made from texts.
    """

    def __init__(self, bundle: Bundle, settings: LiveSettings | None = None) -> None:
        self.bundle = bundle
        self.settings = settings or LiveSettings()
        check_manifest(bundle)
        texts = bundle_texts(bundle, self.settings.texts)
        self.proxy = load_proxy(bundle, self.settings)
        self._projection = CountSketch(bundle.k, bundle.manifest["projection"]["seed"])
        tokenizer, most = self.proxy.tokenizer, self.settings.evaluation_samples
        self._samples = LiveSamples(bundle, texts, tokenizer, most)
        self._measured = TrunkStates(self.proxy, self._samples.measured)
        self._initial: _Evaluation | None = None
        self.version = 0
        self.reset()

    def reset(self, rng: np.random.Generator | None = None) -> None:
        """Return to the bundle's fresh adapter; `rng` is ignored."""
        draw_adapter(self.proxy, self.bundle.manifest["adapter"]["seed"])
        self._training = AdapterTraining(self.proxy)
        self._pool = TrunkStates(self.proxy, self._samples.pool)
        self._batch: list[int] = []
        self._picks = 0
        self._needs_evaluation = False
        self._gradients: dict[int, Floats] = {}
        # The untouched model is measured only once.
        self._initial = self._initial or self._evaluate()
        self._evaluation = self._initial
        self.version += 1

    def update(self, index: int) -> None:
        """Add pool row `index` to the batch and train on the batch if it is full.

        Every `evaluate_every` picks, the dev and anchor losses are then measured.
        """
        self._batch.append(int(index))
        self._picks += 1
        if len(self._batch) == self.settings.batch:
            self._train()
        if self._picks % self.settings.evaluate_every == 0:
            self._measure()

    def finish(self) -> None:
        """Train on an incomplete batch, and measure if weights have changed."""
        if self._batch:
            self._train()
        self._measure()

    def pool_gradients(self, indices: NDArray[np.integer]) -> PoolGradients:
        """Return losses and gradients of pool rows (n,) at the current weights."""
        rows = np.asarray(indices).tolist()
        new = [row for row in dict.fromkeys(rows) if row not in self._gradients]
        for batch in passes(self._pool, new):
            self._sketch(batch)
        k = self.bundle.k
        table = np.empty((len(rows), k + 3 + len(self.bundle.capabilities)), np.float32)
        for place, row in enumerate(rows):
            table[place] = self._gradients[row]
        return PoolGradients(
            table[:, :k],
            table[:, k],
            table[:, k + 1],
            table[:, k + 2],
            table[:, k + 3 :],
        )

    def anchor_cosine(self, index: int) -> Floats:
        """Return a pool row's cosine with each capability's mean anchor gradient.

        Returns:
            float32 (capabilities,); positive if a step on the sample reduces the
            anchor loss.
        """
        return self.pool_gradients(np.array([index])).anchor_cosines[0]

    def domain_loss(self) -> float:
        """Return the last measured mean loss of the dev samples."""
        return float(self._evaluation.losses[0])

    def anchor_losses(self) -> Floats:
        """Return the last measured mean anchor loss of each capability."""
        return self._evaluation.losses[1:]

    def answer_losses(self) -> Floats:
        """Return the last measured mean loss on own answers of each capability."""
        return self._evaluation.answers

    def domain_gradient(self) -> Floats:
        """Return the sketch of the last measured mean dev gradient, (k,)."""
        return self._evaluation.sketches[0]

    def anchor_gradients(self) -> Floats:
        """Return sketches of the last measured mean anchor gradients.

        Returns:
            float32 (capabilities, k).
        """
        return self._evaluation.sketches[1:]

    def test_loss(self) -> float:
        """Measure the mean loss of the test samples, which no reward uses."""
        return float(np.mean(measure(self._measured, self._samples.test)))

    def retention_loss(self) -> float:
        """Measure the mean loss of the retention samples, which no reward uses."""
        return float(np.mean(measure(self._measured, self._samples.retention)))

    def answers_loss(self) -> float:
        """Measure the mean loss of own answers to the retention's prompts.

        No reward uses it; 0 for a bundle without own answers.
        """
        rows = self._samples.retention_answers
        return float(np.mean(measure(self._measured, rows))) if rows else 0.0

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # The copied model has no cached result yet; test it while no hook is set.
        has_plain_head(self.proxy.model.get_base_model())

    def _train(self) -> None:
        rise = min(1.0, (self._training.steps + 1) / RISE)
        self._training.step(self._pool, self._batch, self.settings.learning_rate * rise)
        self._batch.clear()
        self._needs_evaluation = True
        self._gradients.clear()
        self.version += 1

    def _measure(self) -> None:
        if self._needs_evaluation:
            self._evaluation = self._evaluate()
            self._needs_evaluation = False
            self._gradients.clear()
            self.version += 1

    def _evaluate(self) -> _Evaluation:
        """Measure losses and the mean gradients of dev and anchor together."""
        layers: Mapping[str, Any] = self.proxy.b
        groups = len(self._samples.groups)
        means = {
            name: layer.weight.new_empty(groups, layer.weight.numel())
            for name, layer in layers.items()
        }
        losses = np.empty(groups, np.float32)
        for number, rows in enumerate(self._samples.groups):
            shares = dict.fromkeys(rows, 1 / len(rows))
            losses[number] = np.mean(add_gradients(self._measured, rows, shares))
            for name, layer in layers.items():
                means[name][number] = layer.weight.grad.flatten()
            self.proxy.model.zero_grad()
        sketches = torch.zeros(self.bundle.k, groups, device=self.proxy.device)
        for name, mean in means.items():
            self._projection.add(sketches, name, mean)
        answers = [
            np.mean(measure(self._measured, rows)) for rows in self._samples.answers
        ]
        return _Evaluation(
            losses,
            MeanGradients(means),
            sketches.T.cpu().numpy(),
            np.array(answers, np.float32),
        )

    def _sketch(self, rows: list[int]) -> None:
        """Compute and cache the gradients of pool rows in one pass."""
        means = self._evaluation.means
        mean_norms = means.norms()
        n, device = len(rows), self.proxy.device
        sketches = torch.zeros(self.bundle.k, n, device=device)
        squares = torch.zeros(n, device=device)
        dots = torch.zeros(n, len(mean_norms), device=device)

        def consume(name: str, values: torch.Tensor) -> None:
            flat = values.flatten(1)
            self._projection.add(sketches, name, flat)
            squares.add_(flat.square().sum(1))
            dots.add_(flat @ means.stacked[name].T)

        losses = self._pool.gradients(rows, self.proxy.b, consume)
        norms = squares.sqrt()
        cosines = dots / (norms[:, None] * mean_norms).clamp(min=1e-12)
        table = torch.column_stack([sketches.T, norms, losses, cosines]).cpu().numpy()
        self._gradients.update(zip(rows, table, strict=True))
