"""Selectors: the protocol, the names, and helpers of the baselines."""

import importlib
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.errors import InputError, unknown_name

if TYPE_CHECKING:
    from ogs_env.data.texts import Texts

Order = tuple[NDArray[np.int64], NDArray[np.float32]]

_BASELINES = "ogs_env.agents.baselines"
SELECTORS: dict[str, str] = {
    "random": f"{_BASELINES}.random:RandomSelector",
    "length-matched": f"{_BASELINES}.length_matched:LengthMatchedSelector",
    "all": f"{_BASELINES}.everything:AllSelector",
    "loss": f"{_BASELINES}.loss:HighestLossSelector",
    "loss-low": f"{_BASELINES}.loss:LowestLossSelector",
    "less": f"{_BASELINES}.less:LessSelector",
    "orth": f"{_BASELINES}.orth:OrthSelector",
    "conflict": f"{_BASELINES}.conflict:ConflictSelector",
    "greedy": f"{_BASELINES}.greedy:GreedySelector",
    "oracle": f"{_BASELINES}.oracle:OracleSelector",
    "greats": f"{_BASELINES}.greats:GreatsSelector",
    "grad-match": f"{_BASELINES}.grad_match:GradMatchSelector",
    "pgm": f"{_BASELINES}.pgm:PgmSelector",
    "craig": f"{_BASELINES}.craig:CraigSelector",
    "information": f"{_BASELINES}.information:InformationSelector",
    "metadata": f"{_BASELINES}.metadata:MetadataSelector",
    "dsir": f"{_BASELINES}.dsir:DsirSelector",
    "rds": f"{_BASELINES}.rds:RdsSelector",
    "ifd": f"{_BASELINES}.ifd:IfdSelector",
}
READERS = {"dsir": ("pool", "dev"), "rds": ("pool", "dev"), "ifd": ("pool",)}
"""Selectors that read texts, each with the roles of the samples that it reads."""


class Selector(Protocol):
    """An object that selects samples from a bundle's pool."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Select `budget` samples.

        Args:
            bundle: The bundle to select from.
            budget: Number of samples, at most the number of rows.
            rng: For selectors that draw.
            indices: Pool rows to select from; all when omitted.

        Returns:
            int64 (budget,), distinct pool rows, best or first picked first; and
            float32 (budget,), the score of each, higher is better.

        Raises:
            InputError: If `budget` is less than 1 or more than the number of rows.
        """
        ...


def make_selector(name: str, texts: "Texts | None" = None) -> Selector:
    """Return the selector of a name in `SELECTORS`.

    Args:
        name: Name of the selector.
        texts: Texts of the bundle's samples for selectors in `READERS`, see
            `ogs_env.data.texts.bundle_texts`; by default those of the domain with the
            bundle's name.

    Raises:
        InputError: If there is no such selector.
    """
    if name not in SELECTORS:
        raise unknown_name("selector", name, SELECTORS)
    module, _, kind = SELECTORS[name].partition(":")
    selector_class = getattr(importlib.import_module(module), kind)
    arguments = [texts] if name in READERS else []
    selector: Selector = selector_class(*arguments)
    return selector


def pool_rows(
    bundle: Bundle, budget: int, indices: NDArray[np.integer] | None
) -> NDArray[np.int64]:
    """Return the rows to select from.

    Raises:
        InputError: If `budget` is less than 1 or more than the number of rows.
    """
    rows = np.arange(len(bundle.pool)) if indices is None else np.asarray(indices)
    if not 1 <= budget <= len(rows):
        raise InputError(f"budget: {budget}; expected 1 to the {len(rows)} candidates")
    return rows.astype(np.int64)


def highest(
    rows: NDArray[np.int64], scores: NDArray[np.floating], budget: int
) -> Order:
    """Return the `budget` rows of highest score, best first; ties in row order."""
    best = best_places(scores, budget)
    return rows[best], scores[best].astype(np.float32)


def best_places(scores: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """Return the places of the `count` highest scores, best first; ties in order."""
    falling = -scores
    # Only these are sorted: the best and those that tie with the last of them.
    last = np.partition(falling, count - 1)[count - 1]
    near = np.flatnonzero(~(falling > last))
    return near[np.argsort(falling[near], kind="stable")[:count]]
