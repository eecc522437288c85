"""Selectors: anything that turns a bundle and a budget into an ordered selection.

A selector also plays episodes of `SelectionEnv`, for comparison with trained agents:
`EqualQuota` asks it for the best candidate on the table, `Planned` for its choice
from the whole stream, which is hindsight.
"""

import importlib
from collections.abc import Callable
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.envs.selection import SelectionEnv
from ogs_env.errors import InputError, unknown_name

# From (observation, info, env) to an action.
Policy = Callable[[dict[str, Any], dict[str, Any], gymnasium.Env[Any, Any]], int]
Order = tuple[NDArray[np.int64], NDArray[np.float32]]

_BASELINES = "ogs_env.agents.baselines"
SELECTORS: dict[str, str] = {
    "random": f"{_BASELINES}.random:RandomSelector",
    "domain-cosine": f"{_BASELINES}.domain_cosine:DomainCosineSelector",
    "orth": f"{_BASELINES}.orth:OrthSelector",
    "conflict": f"{_BASELINES}.conflict:ConflictSelector",
    "greedy": f"{_BASELINES}.greedy:GreedySelector",
    "oracle": f"{_BASELINES}.oracle:OracleSelector",
}
# Drawn over, or with hindsight about, the whole stream; the others hand by hand.
_PLANNED = ("random", "oracle")


class Selector(Protocol):
    """What selects samples from a bundle's pool."""

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Select `budget` samples.

        Args:
            bundle: Whose pool is selected from.
            budget: How many, at most the rows there are.
            rng: For selectors that draw.
            indices: Pool rows to select from; all when omitted.

        Returns:
            int64 (budget,), different pool rows, the most wanted or first picked
            first; and float32 (budget,), the selector's score of each, higher is
            better.

        Raises:
            InputError: If `budget` is less than 1 or more than the rows there are.
        """
        ...


def make_selector(name: str) -> Selector:
    """Return the selector of a name in `SELECTORS`."""
    if name not in SELECTORS:
        raise unknown_name("selector", name, SELECTORS)
    module, _, kind = SELECTORS[name].partition(":")
    selector: Selector = getattr(importlib.import_module(module), kind)()
    return selector


def pool_rows(
    bundle: Bundle, budget: int, indices: NDArray[np.integer] | None
) -> NDArray[np.int64]:
    """Return the rows to select from, and check that they hold the budget."""
    rows = np.arange(len(bundle.pool)) if indices is None else np.asarray(indices)
    if not 1 <= budget <= len(rows):
        raise InputError(
            f"budget: {budget}; expected 1 to the {len(rows)} samples there are"
        )
    return rows.astype(np.int64)


def highest(
    rows: NDArray[np.int64], scores: NDArray[np.floating], budget: int
) -> Order:
    """Return the `budget` rows of highest score, best first, earlier row on a tie."""
    best = np.argsort(-scores, kind="stable")[:budget]
    return rows[best], scores[best].astype(np.float32)


class EqualQuota:
    """Plays a selector hand by hand, with the same quota of picks from every hand.

    After hand h of n, floor(budget h / n) candidates are picked in all.
    """

    def __init__(self, selector: Selector, rng: np.random.Generator) -> None:
        self._selector = selector
        self._rng = rng

    def __call__(
        self,
        observation: dict[str, Any],
        info: dict[str, Any],
        env: gymnasium.Env[Any, Any],
    ) -> int:
        """Return the place of the best candidate, or a pass once the quota is met."""
        inner = selection_env(env)
        quota = inner.budget * (inner.hand + 1) // inner.hands_in_stream
        on_table = inner.table[inner.table >= 0]
        if len(inner.picked) >= quota or len(on_table) == 0:
            return inner.hand_size
        order, _ = self._selector.select(inner.bundle, 1, self._rng, on_table)
        return int(np.flatnonzero(inner.table == order[0])[0])


class Planned:
    """Plays what a selector chooses from the whole stream: hindsight."""

    def __init__(self, selector: Selector, rng: np.random.Generator) -> None:
        self._selector = selector
        self._rng = rng
        self._stream: NDArray[np.int64] | None = None
        self._plan = np.empty(0, np.int64)

    def __call__(
        self,
        observation: dict[str, Any],
        info: dict[str, Any],
        env: gymnasium.Env[Any, Any],
    ) -> int:
        """Return the place of a candidate that is in the plan, else a pass."""
        inner = selection_env(env)
        if self._stream is not inner.stream:  # every reset makes a new one
            self._stream = inner.stream
            self._plan, _ = self._selector.select(
                inner.bundle, inner.budget, self._rng, inner.stream
            )
        wanted = np.flatnonzero(np.isin(inner.table, self._plan))
        return int(wanted[0]) if len(wanted) else inner.hand_size


def make_policy(
    name: str, env: gymnasium.Env[Any, Any], rng: np.random.Generator
) -> Policy:
    """Return a policy that plays a named selector in `env`.

    The random selector spends its budget evenly over the stream; the oracle knows
    the stream and the environment's reward; the others have equal quotas.
    """
    if name == "oracle":
        from ogs_env.agents.baselines.oracle import OracleSelector

        return Planned(OracleSelector(selection_env(env).reward_weights), rng)
    kind = Planned if name in _PLANNED else EqualQuota
    return kind(make_selector(name), rng)


def episode_return(env: gymnasium.Env[Any, Any], policy: Policy, seed: int) -> float:
    """Play one episode and return the sum of its rewards.

    Args:
        env: A `SelectionEnv`, wrapped or not.
        policy: Any callable from (observation, info, env) to an action.
        seed: Seed of the episode's stream.
    """
    observation, info = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        action = policy(observation, info, env)
        observation, reward, terminated, truncated, info = env.step(action)
        total += float(reward)
        over = terminated or truncated
    return total


def selection_env(env: gymnasium.Env[Any, Any]) -> SelectionEnv:
    """Return the SelectionEnv inside wrappers."""
    inner = env.unwrapped
    if not isinstance(inner, SelectionEnv):
        raise InputError(f"{env}: expected a SelectionEnv, such as OGS-Medical-v0")
    return inner
