"""A trained agent as a selector: play it over any bundle, for any budget."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.navigator import Navigator, one_thread
from ogs_env.agents.selector import SELECTORS, Selector, make_selector, pool_rows
from ogs_env.bundle import Bundle
from ogs_env.data.texts import Texts
from ogs_env.envs.selection import SelectionEnv
from ogs_env.errors import InputError, unknown_name

# Streams that are played side by side: one call of the network for all of them.
_TABLES = 16


class AgentSelector:
    """Select with a trained Navigator.

    The pool is shuffled and cut into streams no longer than in training, each with
    its share of the budget, so the policy meets episodes of the length it knows and
    memory does not grow with the pool. It plays without chance. Where it passes so
    often that a stream's share is not spent, the candidates it came nearest to
    picking fill up. Streams are evenly mixed, though training deals blocks of
    sources: mixed streams are alike, so equal shares suit them better.

    Args:
        folder: Where `ogs train` saved the agent.

    Raises:
        InputError: If the folder holds no agent, or a damaged one.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.navigator = Navigator.load(self.folder)
        self._played: dict[str, Any] = self.navigator.description["environment"]
        for name in ("hand_size", "hands"):
            value = self._played.get(name)
            if not isinstance(value, int) or not 1 <= value <= 1_000_000:
                raise InputError(
                    f"{self.folder}: 'environment.{name}' is {value!r}, expected a "
                    "positive whole number; a selection needs an agent that was "
                    "trained in a SelectionEnv, such as OGS-Medical-v0"
                )

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Select exactly `budget` different pool rows.

        Args:
            bundle: Where the candidates come from; needs the agent's sketch space.
            budget: How many to select, 1 to the number of candidates.
            rng: Shuffles the pool.
            indices: The candidates' pool rows (n,); the whole pool when omitted.

        Returns:
            int64 (budget,), rows, most probable pick first; and float32 (budget,),
            the probability with which the policy picked each from its hand.

        Raises:
            InputError: If the bundle was sketched in another space, or the budget
                does not fit.
        """
        self._check(bundle)
        rows = pool_rows(bundle, budget, indices)
        capacity = self._played["hands"] * self._played["hand_size"]
        count = -(-len(rows) // capacity)
        streams = np.array_split(rng.permutation(rows), count)
        ends = np.cumsum([len(stream) for stream in streams]) * budget / len(rows)
        shares = np.diff(np.round(ends).astype(np.int64), prepend=0)
        tables = _Tables(self.navigator, self._played, bundle)
        parts = []
        for first in range(0, count, _TABLES):
            last = first + _TABLES
            here = zip(streams[first:last], shares[first:last], strict=True)
            dealt = [(stream, int(share)) for stream, share in here if share]
            with one_thread():
                parts += tables.play(dealt)
        chosen = np.concatenate([part[0] for part in parts])
        scores = np.concatenate([part[1] for part in parts])
        ranked = np.argsort(-scores, kind="stable")
        return chosen[ranked], np.exp(scores[ranked]).astype(np.float32)

    def _check(self, bundle: Bundle) -> None:
        space = self.navigator.description["space"]
        if bundle.space != space:
            raise InputError(
                f"{self.folder}: the agent was trained in sketch space '{space}', "
                f"bundle '{bundle.name}' is in '{bundle.space}'; sketch with the "
                "agent's proxy and projection, or train an agent on this bundle"
            )
        self.navigator.check_columns(bundle, self.folder)


class _Tables:
    """Environments kept for many streams; their shares differ by at most one."""

    def __init__(
        self, navigator: Navigator, played: dict[str, Any], bundle: Bundle
    ) -> None:
        self._navigator = navigator
        self._bundle = bundle
        self._hand_size = played["hand_size"]
        # A pool smaller than a stream has fewer hands.
        whole = -(-len(bundle.pool) // self._hand_size)
        self._hands = min(played["hands"], whole)
        self._kept: dict[tuple[int, int], SelectionEnv] = {}

    def play(
        self, dealt: list[tuple[NDArray[np.int64], int]]
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Play (stream, share) side by side.

        Returns:
            For each, the chosen rows (share,) and their log-probabilities.
        """
        tables = [self._table(n, share) for n, (_, share) in enumerate(dealt)]
        seen: list[dict[int, float]] = [{} for _ in dealt]
        views = [
            table.reset(options={"indices": stream})[0]
            for table, (stream, _) in zip(tables, dealt, strict=True)
        ]
        playing = list(range(len(dealt)))
        while playing:
            batch = {
                key: np.stack([views[n][key] for n in playing])
                for key in ("candidates", "context")
            }
            masks = np.stack([tables[n].action_masks() for n in playing])
            logs = self._navigator.log_probabilities(batch, masks)
            over = set()
            actions = self._navigator.choose(logs, batch).tolist()
            for n, log, mask, action in zip(playing, logs, masks, actions, strict=True):
                best = seen[n]
                for place in np.flatnonzero(mask[:-1]).tolist():
                    row = int(tables[n].table[place])
                    best[row] = max(best.get(row, -np.inf), float(log[place]))
                if action < self._hand_size:
                    best[int(tables[n].table[action])] = float(log[action])
                views[n], _, terminated, _, _ = tables[n].step(action)
                if terminated:
                    over.add(n)
            playing = [n for n in playing if n not in over]
        return [
            _filled(table.picked, best, share)
            for table, best, (_, share) in zip(tables, seen, dealt, strict=True)
        ]

    def _table(self, number: int, budget: int) -> SelectionEnv:
        if (number, budget) not in self._kept:
            self._kept[number, budget] = SelectionEnv(
                str(self._bundle.path),
                split="all",
                hand_size=self._hand_size,
                hands=self._hands,
                budget=budget,
            )
        return self._kept[number, budget]


def _filled(
    picked: list[int], seen: dict[int, float], share: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Fill a selection up to its share with the likeliest of what was passed."""
    taken = set(picked)
    left = sorted((row for row in seen if row not in taken), key=lambda r: -seen[r])
    rows = picked + left[: share - len(picked)]
    return np.array(rows, np.int64), np.array([seen[row] for row in rows])


def load_selector(name_or_folder: str | Path, texts: Texts | None = None) -> Selector:
    """Return the selector of a name, or of a folder that holds a trained agent.

    Args:
        name_or_folder: A baseline's name, or where `ogs train` saved an agent.
        texts: For baselines that read texts, as for `make_selector`.

    Raises:
        InputError: If it is neither, or the folder's agent is damaged.
    """
    name = str(name_or_folder)
    if name in SELECTORS:
        return make_selector(name, texts)
    if Path(name).is_dir():
        return AgentSelector(name)
    if len(Path(name).parts) > 1:
        raise InputError(
            f"{name}: no such folder; expected an agent made by `ogs train`, or one of "
            f"{', '.join(SELECTORS)}"
        )
    raise unknown_name("agent", name, SELECTORS)
