"""Subsets of a pool to fine-tune the real model on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.baselines.oracle import OracleSelector
from ogs_env.agents.deployment import load_selector
from ogs_env.bundle import Bundle
from ogs_env.envs.observations import candidates
from ogs_env.episode_rewards import Rewards
from ogs_env.experiments.benchmark.command import AGENTS
from ogs_env.experiments.fidelity.results import read_results, rows_of
from ogs_env.learners.surrogate import SurrogateLearner
from ogs_env.seeding import named_rng

STREAM = 384
"""Number of candidates from which the best and the worst are picked."""
AT_THE_START = ("start_domain_cosine", "start_anchor_cosine")
_CONCENTRATION = 0.4  # of the Dirichlet distribution of a mixture's shares


@dataclass(frozen=True)
class Subset:
    """Samples to fine-tune on.

    Attributes:
        name: Kind and number, such as `random-3`.
        rows: Pool rows in the order picked.
    """

    name: str
    rows: list[int]


def development(bundle: Bundle, size: int = 48) -> list[Subset]:
    """Return the subsets for choosing settings; none depends on the settings."""
    draw = _Sampler(bundle, size, seed=1)
    return [
        *draw.random(6),
        *draw.sources(2),
        *draw.mixtures(10),
        *draw.extremes(AT_THE_START),
    ]


def held_out(bundle: Bundle, size: int = 48) -> list[Subset]:
    """Return the subsets for evaluating the chosen settings."""
    draw = _Sampler(bundle, size, seed=2)
    return [
        *draw.random(8),
        *draw.sources(1),
        *draw.mixtures(12),
        *draw.extremes(("domain_gain", "anchor_gain", "orthogonality", *AT_THE_START)),
    ]


def of_results(bundle: Bundle, folder: Path) -> dict[str, Subset]:
    """Return the subsets with results in a folder, by name."""
    if not any(folder.glob("*--s*.json")):
        return {}
    return {
        name: Subset(name, rows_of(bundle, runs[0]["ids"]))
        for name, runs in read_results(folder).items()
    }


def tenth(bundle: Bundle) -> list[Subset]:
    """Return subsets of a tenth of the pool, the recipe of users.

    `reward-i` is picked greedily by the default reward from half of the pool, and
    `random-i` is a random subset of the same candidates. The Navigator is the shipped
    one of the bundle's domain, or Medical's if there is none.
    """
    draw = _Sampler(bundle, len(bundle.pool) // 10, seed=4)
    trained = AGENTS / "navigator" / bundle.name / "seed-0"
    rules = {name: name for name in ("less", "greedy", "grad-match", "oracle")}
    if trained.is_dir():
        rules["navigator"] = str(trained)
    return [
        *draw.random(5),
        *draw.selected(rules),
        *draw.sources(1),
        *draw.mixtures(4),
        *draw.rewarded(5),
    ]


def quick(bundle: Bundle, size: int = 16) -> list[Subset]:
    """Return a few small subsets, for a version of the study that takes minutes."""
    draw = _Sampler(bundle, size, seed=3)
    return [*draw.random(2), *draw.sources(1)]


class _Sampler:
    """Draws subsets; each kind and number has its own random generator."""

    def __init__(self, bundle: Bundle, size: int, seed: int) -> None:
        self.bundle = bundle
        self.size = size
        self.seed = seed

    def _rng(self, kind: int, number: int) -> np.random.Generator:
        return named_rng(self.seed, "subsets", kind, number)

    def _shuffled(self, number: int) -> NDArray[np.int64]:
        """Return the pool's rows in random order; the first ones are the candidates."""
        return self._rng(0, number).permutation(len(self.bundle.pool))

    def random(self, count: int) -> Iterator[Subset]:
        """Draw from the whole pool."""
        for number in range(count):
            rows = self._shuffled(number)[: self.size]
            yield Subset(f"random-{number}", rows.tolist())

    def sources(self, count: int) -> Iterator[Subset]:
        """Draw within each source that has enough samples."""
        of = self.bundle.pool.sources
        for source, name in enumerate(self.bundle.sources):
            rows = np.flatnonzero(of == source)
            if len(rows) < self.size:
                continue
            for number in range(count):
                rng = self._rng(1 + source, number)
                chosen = rng.permutation(rows)[: self.size]
                yield Subset(f"source-{name}-{number}", chosen.tolist())

    def mixtures(self, count: int) -> Iterator[Subset]:
        """Draw with a random share of every source."""
        of = self.bundle.pool.sources
        present = np.unique(of)
        for number in range(count):
            rng = self._rng(100, number)
            shares = rng.dirichlet([_CONCENTRATION] * len(present))
            weight = np.zeros(len(self.bundle.sources))
            weight[present] = shares / np.bincount(of)[present]
            probabilities = weight[of] / weight[of].sum()
            # A small source may have fewer samples than its share: all are drawn.
            enough = np.count_nonzero(probabilities) >= self.size
            probabilities = probabilities if enough else probabilities + 1e-9
            rows = rng.choice(
                len(of), self.size, replace=False, p=probabilities / probabilities.sum()
            )
            yield Subset(f"mixture-{number}", rows.tolist())

    def extremes(self, names: Sequence[str]) -> Iterator[Subset]:
        """Pick the best and the worst candidates by each score."""
        scores, rows = self._scores(), self._shuffled(1000)[:STREAM]
        for name in names:
            order = rows[np.argsort(-scores[name](rows), kind="stable")]
            best, worst = order[: self.size], order[::-1][: self.size]
            yield Subset(f"best-{name}-0", best.tolist())
            yield Subset(f"worst-{name}-0", worst.tolist())

    def _scores(self) -> dict[str, Callable[[NDArray[np.int64]], NDArray[np.float32]]]:
        """Return reward terms of the untouched learner, and initial cosines."""
        bundle = self.bundle
        rewards = Rewards(SurrogateLearner(bundle), information=None)
        initial = candidates(bundle, "initial")

        def term(name: str) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
            return lambda rows: rewards.preview(rows, initial.rows(rows)[1])[name]

        return {
            "domain_gain": term("domain_gain"),
            "anchor_gain": term("anchor_gain"),
            "orthogonality": term("orthogonality"),
            "start_domain_cosine": bundle.domain_cosines,
            "start_anchor_cosine": lambda rows: bundle.anchor_cosines(rows).min(axis=1),
        }

    def selected(self, selectors: Mapping[str, str]) -> Iterator[Subset]:
        """Select from the whole pool with selectors, by name or agent folder."""
        all_rows = np.arange(len(self.bundle.pool))
        for name, selector in selectors.items():
            rng = named_rng(self.seed, "selectors")
            chosen = load_selector(selector)
            rows, _ = chosen.select(self.bundle, self.size, rng, all_rows)
            yield Subset(f"{name}-0", rows.tolist())

    def rewarded(self, count: int) -> Iterator[Subset]:
        """Pick greedily by the default reward.

        The candidates are half of the pool; their first rows are the random subset of
        the same number.
        """
        half = len(self.bundle.pool) // 2
        for number in range(count):
            rows, _ = OracleSelector().select(
                self.bundle,
                self.size,
                self._rng(101, number),
                self._shuffled(number)[:half],
            )
            yield Subset(f"reward-{number}", rows.tolist())
