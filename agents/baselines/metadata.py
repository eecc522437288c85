"""Ranking by a number that comes with each sample.

The journal-impact method: the score of sample i is a field of its record, such as the
impact factor of the journal it was taken from; the highest are selected. Without a
field it is the one number that every bundle carries, response tokens: longest first
(Zhao, Andriushchenko, Croce, Flammarion 2024, "Long Is More for Alignment", arXiv
2402.04833).
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order, highest, pool_rows
from ogs_env.bundle import Bundle
from ogs_env.errors import InputError


class MetadataSelector:
    """Selects the highest values.

    Args:
        values: By sample id; by default response tokens.
    """

    def __init__(self, values: Mapping[str, float] | None = None) -> None:
        self._values = values
        self._scores: dict[Bundle, NDArray[np.float64]] = {}

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Return the rows of highest value, highest first.

        Raises:
            InputError: If a pool sample has no value, or the budget does not fit.
        """
        rows = pool_rows(bundle, budget, indices)
        if self._values is None:
            return highest(rows, bundle.pool.tokens[rows].astype(np.float32), budget)
        if bundle not in self._scores:
            self._scores[bundle] = _by_row(bundle, self._values)
        return highest(rows, self._scores[bundle][rows], budget)


def _by_row(bundle: Bundle, values: Mapping[str, float]) -> NDArray[np.float64]:
    ids = bundle.pool.hex_ids()
    lacking = [id_ for id_ in ids if not np.isfinite(values.get(id_, np.nan))]
    if lacking:
        raise InputError(
            f"metadata: {len(lacking)} of {len(ids)} pool samples of bundle "
            f"'{bundle.name}' have no finite value (the first is {lacking[0]}); give "
            "one for each"
        )
    return np.array([values[id_] for id_ in ids], np.float64)
