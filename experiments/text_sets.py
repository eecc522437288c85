"""Named sets of texts with cached trunk outputs, to measure a model repeatedly."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ogs_env.experiments.evaluation import preferences
from ogs_env.lm.adapter import Proxy
from ogs_env.lm.encoding import Encoded
from ogs_env.lm.passes import measure
from ogs_env.lm.trunk import TrunkStates


class TextSets:
    """Texts of a proxy by the name of their set.

    Args:
        proxy: A model with an adapter.
        sets: Encoded texts by name.

    Attributes:
        texts: All texts.
        rows: By name, the rows of a set in `texts`.
    """

    def __init__(self, proxy: Proxy, sets: Mapping[str, Sequence[Encoded]]) -> None:
        every = list(itertools.chain(*sets.values()))
        ends = np.cumsum([len(own) for own in sets.values()]).tolist()
        self.rows = {
            name: range(end - len(own), end)
            for (name, own), end in zip(sets.items(), ends, strict=True)
        }
        self.texts = TrunkStates(proxy, every)
        self._tokens = np.array([encoded.response_tokens for encoded in every])

    def losses(self, name: str) -> NDArray[np.float64]:
        """Return the loss of each text of a set (n,), nats per response token."""
        return np.array(measure(self.texts, self.rows[name]))

    def mean_loss(self, name: str) -> float:
        """Return the mean over a set's texts of their losses."""
        return float(np.mean(self.losses(name)))

    def negative_log_likelihoods(self, name: str) -> NDArray[np.float64]:
        """Return -log P of each response of a set (n,), nats."""
        likelihoods: NDArray[np.float64] = (
            self.losses(name) * self._tokens[self.rows[name]]
        )
        return likelihoods

    def preferences(self, right: str, wrong: str) -> dict[str, float]:
        """Compare two sets of the right and the wrong texts of minimal pairs.

        Returns:
            As `ogs_env.experiments.evaluation.preferences`.
        """
        return preferences(
            self.negative_log_likelihoods(right), self.negative_log_likelihoods(wrong)
        )
