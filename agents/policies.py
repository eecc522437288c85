"""Selectors as policies of `SelectionEnv`, for comparison with trained agents.

`EqualQuota` and `Threshold` see one slate at a time, as an agent does; `Planned` sees
the whole stream before its first pick.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.selector import Selector, make_selector
from ogs_env.envs.mixture import MixtureEnv
from ogs_env.envs.selection import SelectionEnv
from ogs_env.errors import InputError

# From (observation, info, env) to an action.
Policy = Callable[[dict[str, Any], dict[str, Any], gymnasium.Env[Any, Any]], int]

THRESHOLD = "greedy-threshold"
"""The policy that picks what `greedy` scores high enough, from any slate."""
STREAM = "/stream"
"""What a selector's name ends in where it sees the whole stream."""


class EqualQuota:
    """Plays a selector slate by hand, with the same quota of picks from every slate.

    After a slate that ends with candidate c of the stream's n, floor(budget c / n) are
    picked in all: a short last slate has a smaller quota.
    """

    def __init__(self, selector: Selector, rng: np.random.Generator) -> None:
        self._selector = selector
        self._rng = rng
        self._stream: NDArray[np.int64] | None = None
        self._hand = 0
        self._plan: list[int] = []

    def __call__(
        self,
        observation: dict[str, Any],
        info: dict[str, Any],
        env: gymnasium.Env[Any, Any],
    ) -> int:
        """Return the place of the slate's next choice; a skip once the quota is met."""
        inner = selection_env(env)
        # Every reset makes a new stream.
        if self._stream is not inner.stream or self._hand != inner.slate_number:
            self._stream, self._hand = inner.stream, inner.slate_number
            self._plan = self._choose(inner)
        return _place(inner, self._plan.pop(0)) if self._plan else inner.slate_size

    def _choose(self, env: SelectionEnv) -> list[int]:
        dealt = min((env.slate_number + 1) * env.slate_size, len(env.stream))
        count = env.budget * dealt // len(env.stream) - len(env.picked)
        if count < 1:
            return []
        on_table = env.slate[env.slate >= 0]
        return self._selector.select(env.bundle, count, self._rng, on_table)[0].tolist()


class Threshold:
    """Plays a selector's scores with a threshold instead of quotas.

    A candidate is picked if its score is in the top share of the pool's train part
    that the budget left is of the candidates left, so a rich slate gives more picks
    than a poor one. The last slate gives what is left of the budget.
    """

    def __init__(self, selector: Selector, rng: np.random.Generator) -> None:
        self._selector = selector
        self._rng = rng
        self._scores = np.empty(0, np.float32)
        self._usual = np.empty(0, np.float32)

    def __call__(
        self,
        observation: dict[str, Any],
        info: dict[str, Any],
        env: gymnasium.Env[Any, Any],
    ) -> int:
        """Return the place of the best candidate above the threshold, else a skip."""
        inner = selection_env(env)
        if not len(self._scores):
            self._score(inner)
        on_table = np.flatnonzero(inner.slate >= 0)
        dealt = min((inner.slate_number + 1) * inner.slate_size, len(inner.stream))
        left = len(inner.stream) - dealt + len(on_table)
        share = min((inner.budget - len(inner.picked)) / left, 1.0)
        threshold = np.quantile(self._usual, 1 - share)
        scores = self._scores[inner.slate[on_table]]
        is_last = inner.slate_number + 1 == inner.slates_in_stream
        if scores.max() < threshold and not is_last:
            return inner.slate_size
        return int(on_table[scores.argmax()])

    def _score(self, env: SelectionEnv) -> None:
        size = len(env.bundle.pool)
        order, scores = self._selector.select(env.bundle, size, self._rng)
        self._scores = np.empty(size, np.float32)
        self._scores[order] = scores
        # A domain drawn from test candidates has no others.
        usual = env.bundle.split("train")
        self._usual = self._scores[usual] if len(usual) else self._scores


class Planned:
    """Plays what a selector chooses from the whole stream: foresight of the slates."""

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
        """Return the place of a candidate that is in the plan, else a skip."""
        inner = selection_env(env)
        if self._stream is not inner.stream:
            self._stream = inner.stream
            self._plan, _ = self._selector.select(
                inner.bundle, inner.budget, self._rng, inner.stream
            )
        wanted = np.flatnonzero(np.isin(inner.slate, self._plan))
        return int(wanted[0]) if len(wanted) else inner.slate_size


class RandomClusters:
    """Draws a cluster of `MixtureEnv`, in proportion to the samples it has left."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def __call__(
        self,
        observation: dict[str, Any],
        info: dict[str, Any],
        env: gymnasium.Env[Any, Any],
    ) -> int:
        """Return a cluster that has samples left."""
        shares = observation["clusters"][:, 0].astype(np.float64)
        return int(self._rng.choice(len(shares), p=shares / shares.sum()))


def make_policy(
    name: str, env: gymnasium.Env[Any, Any], rng: np.random.Generator
) -> Policy:
    """Return a policy that plays a named selector in `env`.

    A selector has equal quotas, or sees the whole stream if its name is followed by
    `STREAM`; `THRESHOLD` is a name of its own. `random` spends its budget evenly over
    the stream and `all` at its beginning; `oracle` knows the stream and the
    environment's reward. `MixtureEnv` knows `random` alone.
    """
    if name == "random" and isinstance(env.unwrapped, MixtureEnv):
        return RandomClusters(rng)
    selector = name.removesuffix(STREAM)
    if selector == "oracle":
        from ogs_env.agents.baselines.oracle import OracleSelector

        return Planned(OracleSelector(selection_env(env).reward_weights), rng)
    if name == THRESHOLD:
        return Threshold(make_selector("greedy"), rng)
    if selector in ("random", "all") or name.endswith(STREAM):
        return Planned(make_selector(selector), rng)
    return EqualQuota(make_selector(name), rng)


def selection_env(env: gymnasium.Env[Any, Any]) -> SelectionEnv:
    """Return the SelectionEnv inside wrappers."""
    inner = env.unwrapped
    if not isinstance(inner, SelectionEnv):
        raise InputError(f"{env}: expected a SelectionEnv, such as OGS-Medical-v0")
    return inner


def _place(env: SelectionEnv, row: int) -> int:
    return int(np.flatnonzero(env.slate == row)[0])
