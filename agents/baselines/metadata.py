"""Select by a number in each sample's metadata.

The score of sample i is a field of its record, such as the impact factor of the journal
that it comes from; the highest are selected. The default is the number of response
tokens, which every bundle has: longest first (Zhao, Andriushchenko, Croce, Flammarion
2024, "Long Is More for Alignment", arXiv 2402.04833).
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Order, highest, pool_rows
from ogs_env.bundle import Bundle
from ogs_env.errors import InputError


class MetadataSelector:
    """Select the samples of highest value.

    Args:
        values: Value by sample id; by default the number of response tokens.
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
    """Return the value (pool,) of each pool sample."""
    ids = bundle.pool.hex_ids()
    missing = [id_ for id_ in ids if not np.isfinite(values.get(id_, np.nan))]
    if missing:
        raise InputError(
            f"metadata: {len(missing)} of {len(ids)} pool samples of bundle "
            f"'{bundle.name}' have no finite value (the first is {missing[0]}); give "
            "one for each"
        )
    return np.array([values[id_] for id_ in ids], np.float64)
