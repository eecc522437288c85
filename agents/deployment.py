"""A trained agent as a selector, on any bundle and for any budget."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.navigator import Navigator, one_thread
from ogs_env.agents.selector import SELECTORS, Selector, make_selector, pool_rows
from ogs_env.bundle import Bundle
from ogs_env.data.texts import Texts
from ogs_env.envs.observations import Candidates, candidates
from ogs_env.errors import InputError, unknown_name

ROUNDS = 32
"""In which a budget is spent."""
# Candidates whose sketches are in memory at a time.
_PART = 16_384


class AgentSelector:
    """Select with a trained Navigator.

    In each of 32 rounds the Navigator rates all candidates that are left, in random
    hands of the size that it was trained with, and knowing what was picked in the
    rounds before. The best of all of them are picked. The rating is the log-odds of
    picking a candidate rather than passing.

    More than 16,384 candidates are shuffled and cut in parts of about equal size, each
    with its share of the budget, so memory does not grow with the pool.

    Args:
        folder: Where `ogs train` saved the agent.

    Raises:
        InputError: If the folder holds no agent, or a damaged one.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.navigator = Navigator.load(self.folder)
        counts = self.navigator.description["environment"]
        for name in ("hand_size", "hands"):
            value = counts.get(name)
            if not isinstance(value, int) or not 1 <= value <= 1_000_000:
                raise InputError(
                    f"{self.folder}: 'environment.{name}' is {value!r}, expected a "
                    "positive whole number; a selection needs an agent that was "
                    "trained in a SelectionEnv, such as OGS-Medical-v0"
                )
        self._hand_size, self._hands = counts["hand_size"], counts["hands"]

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
            rng: Shuffles the candidates.
            indices: The candidates' pool rows (n,); the whole pool when omitted.

        Returns:
            int64 (budget,), rows, most probable pick first; and float32 (budget,),
            the probability of picking each rather than passing.

        Raises:
            InputError: If the bundle was sketched in another space, or the budget
                does not fit.
        """
        self._check(bundle)
        rows = rng.permutation(pool_rows(bundle, budget, indices))
        parts = np.array_split(rows, -(-len(rows) // _PART))
        ends = np.cumsum([len(part) for part in parts]) * budget / len(rows)
        shares = np.diff(np.round(ends).astype(np.int64), prepend=0).tolist()
        seen = candidates(bundle, "start")
        with one_thread():
            found = [
                self._choose(seen, part, share, rng)
                for part, share in zip(parts, shares, strict=True)
                if share
            ]
        chosen, odds = (np.concatenate(own) for own in zip(*found, strict=True))
        ranked = np.argsort(-odds, kind="stable")
        return chosen[ranked], (1 / (1 + np.exp(-odds[ranked]))).astype(np.float32)

    def _choose(
        self,
        seen: Candidates,
        rows: NDArray[np.int64],
        budget: int,
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Choose from pool rows (n,); return rows and log-odds (budget,)."""
        columns, units = seen.rows(rows)
        # As observed: two columns more, the largest cosine with a picked sample, and 1.
        observed = np.pad(columns, [(0, 0), (0, 2)])
        observed[:, -1] = 1
        picked, odds = np.empty(0, np.int64), np.empty(0)
        left = np.arange(len(rows))
        for number in range(ROUNDS):
            count = round(budget * (number + 1) / ROUNDS) - len(picked)
            if not count:
                continue
            context = seen.context(
                columns[picked],
                budget_left=1 - len(picked) / budget,
                # As if a stream had been dealt in step with the budget.
                hands_left=max(1 - number / ROUNDS - 1 / self._hands, 0),
                share=budget / len(rows),
            )
            left = rng.permutation(left)
            rated = self._rate(observed[left], context)
            best = np.argsort(-rated, kind="stable")[:count]
            chosen = left[best]
            nearest = (units @ units[chosen].T).max(axis=1)
            if len(picked):
                nearest = np.maximum(nearest, observed[:, -2])
            observed[:, -2] = nearest
            picked, odds = np.append(picked, chosen), np.append(odds, rated[best])
            left = np.delete(left, best)
        return rows[picked], odds

    def _rate(
        self, observed: NDArray[np.float32], context: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Return the log-odds of picking each of the candidates (n,) in hands."""
        count = -(-len(observed) // self._hand_size)
        missing = count * self._hand_size - len(observed)
        hands = np.pad(observed, [(0, missing), (0, 0)])
        hands = hands.reshape(count, self._hand_size, -1)
        observation = {
            "candidates": hands,
            "context": np.repeat(context[None], count, axis=0),
        }
        masks = np.pad(hands[:, :, -1] > 0, [(0, 0), (0, 1)], constant_values=True)
        logs = self.navigator.log_probabilities(observation, masks)
        odds = (logs[:, :-1] - logs[:, -1:]).ravel()
        return odds[: len(observed)].astype(np.float64)

    def _check(self, bundle: Bundle) -> None:
        space = self.navigator.description["space"]
        if bundle.space != space:
            raise InputError(
                f"{self.folder}: the agent was trained in sketch space '{space}', "
                f"bundle '{bundle.name}' is in '{bundle.space}'; sketch with the "
                "agent's proxy and projection, or train an agent on this bundle"
            )
        self.navigator.check_columns(bundle, self.folder)


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
