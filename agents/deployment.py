"""Trained agents as selectors, for any bundle and any budget."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.navigator import Navigator, one_thread
from ogs_env.agents.selector import (
    SELECTORS,
    Order,
    Selector,
    best_places,
    make_selector,
    pool_rows,
)
from ogs_env.bundle import Bundle
from ogs_env.data.texts import Texts
from ogs_env.envs.observations import Candidates, candidates
from ogs_env.errors import InputError, unknown_name
from ogs_env.hub import is_hub_name

ROUNDS = 32
"""Number of rounds in which a budget is spent."""
# Larger pools are split into parts.
_WHOLE = 16_384
# Candidates of a part, at most: the time to compare them grows with their square.
_PART = 8192
# Candidates that are rated together: few, so that they stay in the processor's cache.
_RATED = 2048


class AgentSelector:
    """Select with a trained Navigator.

    In each of 32 rounds the Navigator rates all remaining candidates, in random slates
    of the size it was trained with; its context includes the picks of earlier rounds.
    The candidates with the highest ratings are picked. The rating is the probability
    of picking the candidate, given that its slate is not skipped.

    More than 16,384 candidates are shuffled and split into parts of about equal size,
    at most 8,192, each with its share of the budget. So memory hardly grows with the
    pool, and time grows in proportion.

    Args:
        folder: Folder of the agent, written by `ogs train`, or the name of a
            repository of the Hugging Face hub, as for `Navigator.from_pretrained`.

    Raises:
        InputError: If the folder holds no agent, or a damaged one, or the agent cannot
            be downloaded.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.navigator = Navigator.from_pretrained(folder)
        counts = self.navigator.description["environment"]
        for name in ("slate_size", "num_slates"):
            value = counts.get(name)
            if not isinstance(value, int) or not 1 <= value <= 1_000_000:
                raise InputError(
                    f"{self.folder}: 'environment.{name}' is {value!r}, expected a "
                    "positive integer; a selection needs an agent that was "
                    "trained in a SelectionEnv, such as OGS-Medical-v0"
                )
        self._slate_size, self._num_slates = counts["slate_size"], counts["num_slates"]

    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> Order:
        """Select exactly `budget` distinct pool rows.

        Args:
            bundle: The candidates' bundle, in the agent's sketch space.
            budget: Number of samples, 1 to the number of candidates.
            rng: Shuffles the candidates.
            indices: The candidates' pool rows (n,); the whole pool when omitted.

        Returns:
            int64 (budget,), rows, most probable pick first; and float32 (budget,),
            the probability of picking each from its slate.

        Raises:
            InputError: If the bundle is in another sketch space, or the budget does
                not fit.
        """
        self._check(bundle)
        rows = rng.permutation(pool_rows(bundle, budget, indices))
        count = 1 if len(rows) <= _WHOLE else -(-len(rows) // _PART)
        parts = np.array_split(rows, count)
        ends = np.cumsum([len(part) for part in parts]) * budget / len(rows)
        shares = np.diff(np.round(ends).astype(np.int64), prepend=0).tolist()
        parts = [part for part, share in zip(parts, shares, strict=True) if share]
        observed = candidates(bundle, "initial")
        with one_thread():
            orders = [
                self._choose(observed, part, *read, share, rng)
                for part, read, share in zip(
                    parts, observed.parts(parts), filter(None, shares), strict=True
                )
            ]
        chosen, scores = (np.concatenate(parts) for parts in zip(*orders, strict=True))
        ranked = np.argsort(-scores, kind="stable")
        return chosen[ranked], scores[ranked]

    def _choose(
        self,
        bundle_candidates: Candidates,
        rows: NDArray[np.int64],
        columns: NDArray[np.float32],
        units: NDArray[np.float32],
        budget: int,
        rng: np.random.Generator,
    ) -> Order:
        """Choose from pool rows (n,); return rows and probabilities (budget,).

        `columns` and `units` are those of the rows, see `Candidates.rows`.
        """
        # Observations have two more columns: the largest cosine with a picked sample,
        # and 1.
        observed = np.pad(columns, [(0, 0), (0, 2)])
        observed[:, -1] = 1
        picked, scores = np.empty(0, np.int64), np.empty(0, np.float32)
        left = np.arange(len(rows))
        for number in range(ROUNDS):
            count = round(budget * (number + 1) / ROUNDS) - len(picked)
            if not count:
                continue
            context = bundle_candidates.context(
                columns[picked],
                budget_left=1 - len(picked) / budget,
                # As in an episode in which the budget is spent evenly over the slates.
                slates_left=max(1 - number / ROUNDS - 1 / self._num_slates, 0),
                share=budget / len(rows),
            )
            left = rng.permutation(left)
            rated = self._rate(observed, left, context)
            best = best_places(rated, count)
            chosen = left[best]
            nearest = (units @ units[chosen].T).max(axis=1)
            if len(picked):
                nearest = np.maximum(nearest, observed[:, -2])
            observed[:, -2] = nearest
            picked, scores = np.append(picked, chosen), np.append(scores, rated[best])
            left = np.delete(left, best)
        return rows[picked], scores

    def _rate(
        self,
        observed: NDArray[np.float32],
        dealt: NDArray[np.int64],
        context: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Return the probability of picking each candidate (n,) in its slate.

        Args:
            observed: Observation rows of all candidates.
            dealt: Numbers of the candidates (n,), dealt to slates in this order.
            context: Context of all slates.
        """
        count = len(dealt)
        size = min(self._slate_size, count)
        # The last slate is filled up with candidates of the first.
        slates = np.resize(dealt, (-(-count // size), size))
        chunks = min(-(-count // _RATED), len(slates))
        rated = [
            self._rate_slates(observed[chunk], context)
            for chunk in np.array_split(slates, chunks)
        ]
        return np.concatenate(rated).ravel()[:count]

    def _rate_slates(
        self, slates: NDArray[np.float32], context: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return the probability of picking each candidate (slates, size)."""
        contexts = np.repeat(context[None], len(slates), axis=0)
        masks = np.ones((len(slates), slates.shape[1] + 1), np.bool_)
        masks[:, -1] = False  # no skip
        observation = {"candidates": slates, "context": contexts}
        logs = self.navigator.log_probabilities(observation, masks)
        return np.exp(logs[:, :-1])

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
    """Return the selector of a name or of a trained agent's folder.

    Args:
        name_or_folder: A baseline's name, or an agent's folder written by `ogs train`,
            or its name on the Hugging Face hub.
        texts: Texts for baselines that read them, as for `make_selector`.

    Raises:
        InputError: If it is neither, or the folder's agent is damaged.
    """
    name = str(name_or_folder)
    if name in SELECTORS:
        return make_selector(name, texts)
    if Path(name).is_dir() or is_hub_name(name_or_folder):
        return AgentSelector(name)
    if len(Path(name).parts) > 1:
        raise InputError(
            f"{name}: no such folder; expected an agent made by `ogs train`, or one of "
            f"{', '.join(SELECTORS)}"
        )
    raise unknown_name("agent", name, SELECTORS)
