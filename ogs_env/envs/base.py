"""What the single environments share: rewards, infos and frames of an episode."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.envs import rendering
from ogs_env.envs.observations import sample_names
from ogs_env.envs.snapshots import MixtureHistory, SelectionHistory
from ogs_env.episode_rewards import AnyLearner, Information, Rewards
from ogs_env.learners import UNCHANGED, HeldOut
from ogs_env.rewards import COST, answers_of

# A name and a float32 array for each part.
Observation = dict[str, Any]

INVALID_ACTION_PENALTY = 0.02
"""Subtracted from the reward for an invalid action."""


class EpisodeEnv(gymnasium.Env[Observation, np.int64], Generic[AnyLearner]):
    """Base class of `SelectionEnv` and `MixtureEnv`.

    Args:
        bundle: Bundle of the samples.
        learner: The learner, which is trained on the picks.
        weights: The weight of every reward term.
        capacity: Most picks of an episode.
        most_picks: Most picks of a step.
        render_mode: One of `metadata["render_modes"]`, or None.

    Attributes:
        stream: int64 (n,), pool rows of the episode.
        picked: Pool rows picked so far, in order.
        cost_answers: The answers that `info["cost"]` is measured on: `"own"`, those of
            the untouched model, or `"reference"`.
        over: Whether the episode has ended, or none has begun.
    """

    metadata = {  # noqa: RUF012
        "render_modes": list(rendering.RENDER_MODES),
        "render_fps": 4,
    }

    _history: SelectionHistory | MixtureHistory | None

    def __init__(
        self,
        bundle: Bundle,
        learner: AnyLearner,
        weights: dict[str, float],
        capacity: int,
        most_picks: int,
        render_mode: str | None,
    ) -> None:
        self.bundle, self.learner = bundle, learner
        self.reward_weights, self.render_mode = weights, render_mode
        information = Information.if_weighted(weights, bundle.k, capacity)
        self._informed = information is not None
        self._rewards = Rewards(learner, information)
        self._held_out = HeldOut(learner)
        self._no_selection = np.full(capacity, -1, np.int64)
        self._no_picks = np.full(most_picks, -1, np.int64)
        self._names = sample_names(bundle)
        # Read-only for policies and wrappers.
        self.stream = np.empty(0, np.int64)
        self.picked: list[int] = []
        self.cost_answers = answers_of(bundle)
        self.over = True
        self._history = None

    def render(self) -> str | NDArray[np.uint8] | None:
        """Return a frame; None in mode "human", which prints its frames itself."""
        return rendering.render(self.render_mode, self._history)

    def sample_ids(self, rows: Iterable[int]) -> list[str]:
        """Return the ids of pool rows, such as those of `info["selection"]`.

        Args:
            rows: Row numbers; those of -1 are left out.

        Returns:
            16 hex digits for each row.
        """
        return [self._names[row] for row in rows if row >= 0]

    def _print_frame(self, history: SelectionHistory | MixtureHistory) -> None:
        """Print the recorded state in mode "human"."""
        if self.render_mode == "human":
            print(rendering.text(history.snapshot()))

    def _episode_info(
        self,
        mask: NDArray[np.int8],
        terms: Mapping[str, float],
        rows: Sequence[int],
        invalid: bool,
    ) -> dict[str, Any]:
        """Return the info of a reset or a step.

        Args:
            mask: int8 (actions,), the valid actions.
            terms: The reward terms.
            rows: Pool rows picked in the step.
            invalid: Whether the action was invalid.
        """
        scalars = {
            **terms,
            "cost": terms[COST[self.cost_answers]],
            "domain_loss": self.learner.domain_loss(),
            **(self._held_out.changes() if self.over else UNCHANGED),
        }
        # Some libraries, such as TorchRL, need values that have a dtype.
        return {
            "action_mask": mask,
            **{name: np.float64(value) for name, value in scalars.items()},
            "picks": _filled(self._no_picks, rows),
            "invalid_action": np.int64(invalid),
            "selection": _filled(self._no_selection, self.picked if self.over else ()),
        }


def _filled(empty: NDArray[np.int64], rows: Sequence[int]) -> NDArray[np.int64]:
    """Return a copy of an array that begins with the rows."""
    filled = empty.copy()
    if rows:
        filled[: len(rows)] = rows
    return filled
