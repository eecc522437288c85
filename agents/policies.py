"""Selectors as policies of `SelectionEnv`, to compare with trained agents.

`EqualQuota` and `Threshold` use one slate at a time, as an agent does; `Planned` uses
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
"""Name of the policy that picks every candidate with a high `greedy` score."""
STREAM = "/stream"
"""Suffix of the name of a selector that uses the whole stream."""


class EqualQuota:
    """Policy that lets a selector choose from each slate, with equal quotas.

    After a slate that ends with candidate c of the stream's n, floor(budget c / n) have
    been picked in total: a short last slate has a smaller quota.
    """

    def __init__(self, selector: Selector, rng: np.random.Generator) -> None:
        self._selector = selector
        self._rng = rng
        self._stream: NDArray[np.int64] | None = None
        self._slate_number = 0
        self._plan: list[int] = []

    def __call__(
        self,
        observation: dict[str, Any],
        info: dict[str, Any],
        env: gymnasium.Env[Any, Any],
    ) -> int:
        """Return the place of the next chosen candidate; a skip after the quota."""
        inner = selection_env(env)
        # Every reset creates a new stream object.
        if self._stream is not inner.stream or self._slate_number != inner.slate_number:
            self._stream, self._slate_number = inner.stream, inner.slate_number
            self._plan = self._choose(inner)
        return _place(inner, self._plan.pop(0)) if self._plan else inner.slate_size

    def _choose(self, env: SelectionEnv) -> list[int]:
        dealt = min((env.slate_number + 1) * env.slate_size, len(env.stream))
        count = env.budget * dealt // len(env.stream) - len(env.picked)
        if count < 1:
            return []
        on_slate = env.slate[env.slate >= 0]
        return self._selector.select(env.bundle, count, self._rng, on_slate)[0].tolist()


class Threshold:
    """Policy that picks candidates whose score is above a threshold.

    The threshold is the 1 - b / n quantile of the scores in the pool's train part,
    for a remaining budget of b picks and n remaining candidates, so slates with better
    candidates get more picks. The rest of the budget is spent on the last slate.
    """

    def __init__(self, selector: Selector, rng: np.random.Generator) -> None:
        self._selector = selector
        self._rng = rng
        self._scores = np.empty(0, np.float32)
        self._reference_scores = np.empty(0, np.float32)

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
        on_slate = np.flatnonzero(inner.slate >= 0)
        dealt = min((inner.slate_number + 1) * inner.slate_size, len(inner.stream))
        left = len(inner.stream) - dealt + len(on_slate)
        share = min((inner.budget - len(inner.picked)) / left, 1.0)
        threshold = np.quantile(self._reference_scores, 1 - share)
        scores = self._scores[inner.slate[on_slate]]
        is_last = inner.slate_number + 1 == inner.slates_in_stream
        if scores.max() < threshold and not is_last:
            return inner.slate_size
        return int(on_slate[scores.argmax()])

    def _score(self, env: SelectionEnv) -> None:
        size = len(env.bundle.pool)
        order, scores = self._selector.select(env.bundle, size, self._rng)
        self._scores = np.empty(size, np.float32)
        self._scores[order] = scores
        # A task sampled from the test part has no train candidates.
        train = env.bundle.split("train")
        self._reference_scores = self._scores[train] if len(train) else self._scores


class Planned:
    """Policy that picks what a selector chooses from the whole stream in advance."""

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
        """Return the place of a candidate in the plan, else a skip."""
        inner = selection_env(env)
        if self._stream is not inner.stream:
            self._stream = inner.stream
            self._plan, _ = self._selector.select(
                inner.bundle, inner.budget, self._rng, inner.stream
            )
        places = np.flatnonzero(np.isin(inner.slate, self._plan))
        return int(places[0]) if len(places) else inner.slate_size


class RandomClusters:
    """Policy that draws a cluster of `MixtureEnv` in proportion to its samples left."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def __call__(
        self,
        observation: dict[str, Any],
        info: dict[str, Any],
        env: gymnasium.Env[Any, Any],
    ) -> int:
        """Return the drawn cluster, which has samples left."""
        shares = observation["clusters"][:, 0].astype(np.float64)
        return int(self._rng.choice(len(shares), p=shares / shares.sum()))


def make_policy(
    name: str, env: gymnasium.Env[Any, Any], rng: np.random.Generator
) -> Policy:
    """Return the policy of a name for `env`.

    Args:
        name: A selector's name: it has equal quotas, or with the suffix `STREAM` it
            uses the whole stream. `random` and `all` do so in any case: one spends the
            budget evenly over the stream, the other at its start. `oracle` also uses
            the environment's reward. Or `THRESHOLD`. `MixtureEnv` has `random` only.
        env: Where the policy acts.
        rng: For selectors that draw.

    Raises:
        InputError: If there is no such policy.
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
