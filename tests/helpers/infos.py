"""Parts of the environments' infos."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.rewards import NO_PICK


def terms_of(info: dict[str, Any]) -> dict[str, Any]:
    """Return the reward terms of an info by name."""
    return {name: info[name] for name in NO_PICK}


def rows_in(padded: NDArray[np.int64]) -> list[int]:
    """Return the pool rows in `info["picks"]` or `info["selection"]`, in order.

    The padding, -1, comes after all rows.
    """
    assert padded.dtype == np.int64
    values = padded.tolist()
    rows = [row for row in values if row >= 0]
    assert values == rows + [-1] * (len(values) - len(rows))
    return rows
