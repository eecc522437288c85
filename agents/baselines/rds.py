"""Select the nearest to the dev samples in the proxy's hidden states (RDS+).

A sample's representation is the mean of its tokens' last hidden states, with weight
t / (1 + ... + n) for token t of n (prompt and response), since in a causal LM later
tokens have more context. Selection is round-robin over dev samples: in each round every
dev sample adds the pool sample that is next in its order of cosines, unless it was
selected before (Ivison, Zhang, Brahman, Koh, Dasigi 2025, arXiv 2503.01807; the
weights: Muennighoff 2022, arXiv 2202.08904). So a pool sample is selected in the round
of its best rank with any dev sample. Within a round the paper follows the order of the
dev samples; here the highest cosine is first, so that a small selection does not depend
on that order. The score is the cosine with the dev sample that selected it, so scores
do not always decrease along the order.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from ogs_env.agents.baselines.reading import Reader, cached
from ogs_env.agents.selector import Order, pool_rows
from ogs_env.bundle import Bundle
from ogs_env.data.samples import Sample
from ogs_env.data.texts import Texts, bundle_texts


class RdsSelector:
    """Select round-robin over dev samples by cosine of hidden states.

    The first `select` from a bundle runs its proxy on the pool, which takes minutes on
    a CPU; the cosines are stored in the user's cache.

    Args:
        texts: Texts of the bundle's samples, see `ogs_env.data.texts.bundle_texts`; by
            default those of the domain with the bundle's name.
    """

    def __init__(self, texts: Texts | None = None) -> None:
        self._texts = texts
        self._cosines: dict[Bundle, NDArray[np.float32]] = {}

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return the rows in the order of the rounds."""
        rows = pool_rows(bundle, budget, indices)
        if bundle not in self._cosines:
            self._cosines[bundle] = _cosines(bundle, self._texts)
        places, scores = _round_robin(self._cosines[bundle][rows], budget)
        return rows[places], scores


def _round_robin(
    cosines: NDArray[np.float32], budget: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Select in rounds from cosines (n, dev).

    Returns:
        Places (budget,) in the order chosen, and the cosine of each with the dev sample
        that selected it.
    """
    ranks = np.empty(cosines.shape, np.int32)
    order = np.argsort(-cosines, axis=0, kind="stable")
    places = np.arange(len(cosines), dtype=np.int32)
    np.put_along_axis(ranks, order, places[:, None], axis=0)
    rounds = ranks.min(axis=1)
    nearest = np.where(ranks == rounds[:, None], cosines, -np.inf).max(axis=1)
    chosen = np.lexsort((-nearest, rounds))[:budget]
    return chosen, nearest[chosen]


def _cosines(bundle: Bundle, where: Texts | None) -> NDArray[np.float32]:
    """Return cosines (pool, dev) of the samples' representations, cached."""

    def compute() -> NDArray[np.float32]:
        texts = bundle_texts(bundle, where, ("pool", "dev"))
        pool, dev = (
            [texts[id_] for id_ in rows.hex_ids()] for rows in (bundle.pool, bundle.dev)
        )
        reader = Reader(bundle)
        queries: dict[int, torch.Tensor] = {}
        for rows, units in _means(reader, dev, "dev texts"):
            queries.update(zip(rows, units, strict=True))
        stacked = torch.stack([queries[row] for row in range(len(dev))])
        cosines = np.empty((len(pool), len(dev)), np.float32)
        for rows, units in _means(reader, pool, "pool texts"):
            cosines[rows] = (units @ stacked.T).cpu().numpy()
        return cosines

    return cached(bundle, "rds", ("pool", "dev"), compute)


@torch.no_grad()
def _means(
    reader: Reader, samples: Sequence[Sample], what: str
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Yield (positions of samples, their weighted mean states at unit length)."""
    for rows, batch in reader.passes(samples, what):
        inputs = {name: part for name, part in batch.items() if name != "labels"}
        states = reader.model.base_model(**inputs, use_cache=False)[0].float()
        weights = (batch["position_ids"] + 1) * batch["attention_mask"]
        yield rows, normalize((states * weights[:, :, None]).sum(dim=1))
