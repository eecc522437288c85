"""Snapshots of episodes, which frames are drawn from, and histories that take them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.envs.observations import sample_names
from ogs_env.learners import Learner


def short(name: str, width: int) -> str:
    """Return a name in one line of at most `width` characters."""
    name = " ".join(name.split()) or "?"
    return name if len(name) <= width else name[: width - 1] + "…"


@dataclass(frozen=True)
class Snapshot:
    """State of an episode that frames of every environment show.

    Attributes:
        bundle: Name of the bundle.
        capabilities: Names of its capabilities.
        own_answers: Whether a capability's loss is that of the model's own answers
            (the term `forgetting`) or of reference answers (`anchor_gain`).
        budget: Units of the budget: picks or batches.
        losses: float32 (n, 1 + capabilities), nats per token: the loss of the domain
            and of each capability, at the start and after each unit of the budget.
        episode_return: Sum of the rewards.
        over: Whether the episode has ended.
        last_step: The last step's action and reward, in one line.
    """

    bundle: str
    capabilities: tuple[str, ...]
    own_answers: bool
    budget: int
    losses: NDArray[np.float32]
    episode_return: float
    over: bool
    last_step: str

    @property
    def spent(self) -> int:
        """Units of the budget spent."""
        return len(self.losses) - 1

    def _title(self, progress: str) -> str:
        over = ", episode over" if self.over else ""
        return f"{short(self.bundle, 20)}: {progress}{over}"


@dataclass(frozen=True)
class Sample:
    """A candidate as last observed on its slate.

    Attributes:
        name: Its id, 16 hex digits.
        source: Number of its source.
        slate_number: Number of the slate, from 0.
        place: Place on the slate.
        features: float32 (6,), columns d to d + 5 of its observation row: domain
            cosine, anchor cosine, norm, loss, tokens, largest cosine with a pick.
    """

    name: str
    source: int
    slate_number: int
    place: int
    features: NDArray[np.float32]


@dataclass(frozen=True)
class SelectionSnapshot(Snapshot):
    """State of a `SelectionEnv`.

    Attributes:
        sources: Names of the bundle's sources.
        slate_number: Number of the slate, from 0.
        slate: Candidates as dealt (slate_size,); None where none was.
        available: bool (slate_size,), whether the candidate can be picked.
        picks: Picked candidates in order.
        last_terms: Reward terms of the last pick.
        stream_sources: Source number (n,) of each candidate of the episode.
        stream_cosines: float32 (n, 2), their domain and anchor cosines.
    """

    sources: tuple[str, ...]
    slate_number: int
    slate: tuple[Sample | None, ...]
    available: NDArray[np.bool_]
    picks: tuple[Sample, ...]
    last_terms: dict[str, float]
    stream_sources: NDArray[np.integer]
    stream_cosines: NDArray[np.float32]

    @property
    def title(self) -> str:
        """Bundle, progress and return in one line."""
        slates = -(-len(self.stream_sources) // len(self.slate))
        return self._title(
            f"slate {self.slate_number + 1} of {slates}, {self.spent} of {self.budget} "
            f"picked, return {self.episode_return:+.2f}"
        )


@dataclass(frozen=True)
class MixtureSnapshot(Snapshot):
    """State of a `MixtureEnv`.

    Attributes:
        cost: Sum of the costs.
        batch: Samples of a full batch.
        left: int64 (clusters,), samples left.
        drawn: int64 (clusters,), samples drawn.
        features: float32 (clusters, 6), columns 0 to 5 of the observation's clusters.
        cosines: float64 (clusters,), mean domain cosine of all the pool's samples.
        last_cluster: The last action; None before the first step.
    """

    cost: float
    batch: int
    left: NDArray[np.int64]
    drawn: NDArray[np.int64]
    features: NDArray[np.float32]
    cosines: NDArray[np.float64]
    last_cluster: int | None

    @property
    def title(self) -> str:
        """Bundle, progress, return and cost in one line."""
        return self._title(
            f"batch {self.spent} of {self.budget}, "
            f"return {self.episode_return:+.2f}, cost {self.cost:.2f}"
        )


class _History:
    """Losses, rewards and the last step of an episode."""

    def __init__(self, bundle: Bundle, learner: Learner, budget: int) -> None:
        self._bundle, self._learner, self._budget = bundle, learner, budget
        self._losses: list[NDArray[np.float32]] = []
        self._rewards: list[float] = []
        self._over = False
        self._last_step = "last step: none yet"

    def _add_losses(self, spent: int) -> None:
        """Record the current losses, after `spent` units of the budget."""
        learner = self._learner
        own = self._bundle.has_answers
        anchors = learner.answer_losses() if own else learner.anchor_losses()
        losses = np.array([learner.domain_loss(), *anchors], np.float32)
        self._losses[spent:] = [losses]

    def _add_reward(self, event: str, reward: float, over: bool) -> None:
        self._rewards.append(reward)
        self._over = over
        self._last_step = f"last step: {event} ({reward:+.2f})"

    def _shared(self) -> dict[str, Any]:
        """Return the fields of `Snapshot`."""
        return {
            "bundle": self._bundle.name,
            "capabilities": tuple(self._bundle.capabilities),
            "own_answers": self._bundle.has_answers,
            "budget": self._budget,
            "losses": np.stack(self._losses),
            "episode_return": sum(self._rewards),
            "over": self._over,
            "last_step": self._last_step,
        }


class SelectionHistory(_History):
    """Record of an episode of `SelectionEnv`.

    Args:
        bundle: Bundle of the candidates.
        learner: Learner of the episode, just reset.
        budget: Picks of a full episode.
        stream: Pool rows of the episode (n,).
    """

    def __init__(
        self, bundle: Bundle, learner: Learner, budget: int, stream: NDArray[np.int64]
    ) -> None:
        super().__init__(bundle, learner, budget)
        self._names = sample_names(bundle)
        self._sources = bundle.pool.sources[stream]
        anchors = bundle.anchor_cosines(stream).min(axis=1)
        self._cosines = np.column_stack([bundle.domain_cosines(stream), anchors])
        self._slate_number = -1
        self._slate: list[Sample | None] = []
        self._picks: list[Sample] = []
        self._last_terms: dict[str, float] = {}

    def add_step(
        self,
        action: int,
        place: int,
        terms: dict[str, float],
        reward: float,
        over: bool,
    ) -> None:
        """Record a step that picked at `place`, or skipped."""
        if place == len(self._slate):
            event = "skipped"
        else:
            event, sample = f"picked place {place}", self._slate[place]
            if action != place:
                event += f", because {action} is empty"
            assert sample is not None
            self._picks.append(sample)
            self._last_terms = terms
        self._add_reward(event, reward, over)

    def add_state(
        self, number: int, slate: NDArray[np.int64], rows: NDArray[np.float32]
    ) -> None:
        """Record the state after a reset or a step.

        Args:
            number: Number of the slate, from 0.
            slate: Pool rows (slate_size,), -1 where a place is empty.
            rows: The observation's candidates (slate_size, d + 7).
        """
        if number != self._slate_number:
            self._slate_number, self._slate = number, [None] * len(slate)
        self._available = slate >= 0
        features, sources = rows[:, -7:-1].copy(), self._bundle.pool.sources
        # A picked candidate keeps the features that it was picked with.
        for place in np.flatnonzero(self._available).tolist():
            row = slate.item(place)
            self._slate[place] = Sample(
                self._names[row], int(sources[row]), number, place, features[place]
            )
        self._add_losses(len(self._picks))

    def snapshot(self) -> SelectionSnapshot:
        """Return the recorded state."""
        return SelectionSnapshot(
            **self._shared(),
            sources=tuple(self._bundle.sources),
            slate_number=self._slate_number,
            slate=tuple(self._slate),
            available=self._available,
            picks=tuple(self._picks),
            last_terms=self._last_terms,
            stream_sources=self._sources,
            stream_cosines=self._cosines,
        )


class MixtureHistory(_History):
    """Record of an episode of `MixtureEnv`.

    Args:
        bundle: Bundle of the samples.
        learner: Learner of the episode, just reset.
        steps: Batches of a full episode.
        batch: Samples of a full batch.
        labels: Cluster of every row of the pool (pool,).
    """

    def __init__(
        self,
        bundle: Bundle,
        learner: Learner,
        steps: int,
        batch: int,
        labels: NDArray[np.int64],
    ) -> None:
        super().__init__(bundle, learner, steps)
        self._batch = batch
        cosines = bundle.domain_cosines(np.arange(len(labels)))
        self._cosines = np.bincount(labels, cosines) / np.bincount(labels)
        self._costs: list[float] = []
        self._last_cluster: int | None = None

    def add_step(
        self, action: int, cluster: int, cost: float, reward: float, over: bool
    ) -> None:
        """Record a step that drew from `cluster`."""
        event = f"cluster {cluster}"
        if action != cluster:
            event += f", because {action} is empty"
        self._last_cluster = cluster
        self._costs.append(cost)
        self._add_reward(event, reward, over)

    def add_state(
        self,
        batches: int,
        left: NDArray[np.int64],
        drawn: NDArray[np.int64],
        rows: NDArray[np.float32],
    ) -> None:
        """Record the state after a reset or a step.

        Args:
            batches: Batches drawn.
            left: Samples left (clusters,).
            drawn: Samples drawn (clusters,).
            rows: The observation's clusters (clusters, 6 + d).
        """
        self._left, self._drawn = left.copy(), drawn.copy()
        self._features = rows[:, :6].copy()
        self._add_losses(batches)

    def snapshot(self) -> MixtureSnapshot:
        """Return the recorded state."""
        return MixtureSnapshot(
            **self._shared(),
            cost=sum(self._costs),
            batch=self._batch,
            left=self._left,
            drawn=self._drawn,
            features=self._features,
            cosines=self._cosines,
            last_cluster=self._last_cluster,
        )
