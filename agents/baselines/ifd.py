"""Select by instruction-following difficulty (IFD).

IFD_i = s(response | prompt) / s(response), s the proxy's mean cross-entropy over the
response's tokens (Li et al. 2024, arXiv 2308.12032). The highest are selected: there
the prompt helps the model least. At 1 or above it does not help at all; the paper drops
these samples as mismatched prompts and responses. Here they come last, lowest first,
with the score -IFD.

The paper warms the model up first; here it is the untouched proxy. s(response | prompt)
is the bundle's loss, measured by `ogs sketch`. (The shipped bundles' losses were
computed in bfloat16; on 99 samples of Medical the median difference from float32 is
0.4 %, and the ranks of the difficulties agree, Spearman 0.999.) For s(response) the
sample is encoded in the same chat format with an empty prompt, so that both losses are
of the same tokens.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ogs_env.agents.baselines.reading import Reader, cached
from ogs_env.agents.selector import Order, highest, pool_rows
from ogs_env.bundle import Bundle
from ogs_env.data.texts import Texts, bundle_texts
from ogs_env.lm.losses import response_losses


class IfdSelector:
    """Select the samples of highest instruction-following difficulty below 1.

    The first `select` from a bundle runs its proxy on the pool's responses, which takes
    minutes on a CPU; the losses are stored in the user's cache.

    Args:
        texts: Texts of the bundle's samples, see `ogs_env.data.texts.bundle_texts`; by
            default those of the domain with the bundle's name.
    """

    def __init__(self, texts: Texts | None = None) -> None:
        self._texts = texts
        self._scores: dict[Bundle, NDArray[np.float32]] = {}

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return the rows of highest IFD below 1, highest first, then the others."""
        rows = pool_rows(bundle, budget, indices)
        if bundle not in self._scores:
            alone = np.maximum(_losses_alone(bundle, self._texts), 1e-12)
            difficulty = bundle.pool.losses / alone
            scores = np.where(difficulty < 1, difficulty, -difficulty)
            self._scores[bundle] = scores
        return highest(rows, self._scores[bundle][rows], budget)


def _losses_alone(bundle: Bundle, where: Texts | None) -> NDArray[np.float32]:
    """Return the loss (pool,) of each response without its prompt."""

    @torch.no_grad()
    def compute() -> NDArray[np.float32]:
        texts = bundle_texts(bundle, where, ("pool",))
        alone = [
            replace(texts[id_], prompt="", messages=()) for id_ in bundle.pool.hex_ids()
        ]
        reader = Reader(bundle)
        losses = np.empty(len(alone), np.float32)
        for rows, batch in reader.passes(alone, "responses alone"):
            losses[rows] = response_losses(reader.model, batch).cpu().numpy()
        return losses

    return cached(bundle, "ifd", ("pool",), compute)
