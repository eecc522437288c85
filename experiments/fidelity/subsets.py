"""Subsets of a pool that differ: what the real model is fine-tuned on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.baselines.oracle import OracleSelector
from ogs_env.agents.deployment import load_selector
from ogs_env.bundle import Bundle
from ogs_env.envs.observations import candidates
from ogs_env.experiments.benchmark.command import AGENTS
from ogs_env.experiments.fidelity.results import read_results, rows_of
from ogs_env.learners.surrogate import SurrogateLearner
from ogs_env.rewards import Rewards
from ogs_env.seeding import named_rng

STREAM = 384
"""Candidates from which the best and the worst are taken."""
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
    """Return the subsets on which settings are chosen.

    None depends on the settings.
    """
    make = _Maker(bundle, size, seed=1)
    return [
        *make.random(6),
        *make.sources(2),
        *make.mixtures(10),
        *make.extremes(AT_THE_START),
    ]


def held_out(bundle: Bundle, size: int = 48) -> list[Subset]:
    """Return the subsets on which the chosen settings are judged."""
    make = _Maker(bundle, size, seed=2)
    return [
        *make.random(8),
        *make.sources(1),
        *make.mixtures(12),
        *make.extremes(("domain_gain", "anchor_gain", "orthogonality", *AT_THE_START)),
    ]


def of_results(bundle: Bundle, folder: Path) -> dict[str, Subset]:
    """Return the subsets by name that a folder holds results of; none without one."""
    if not any(folder.glob("*--s*.json")):
        return {}
    return {
        name: Subset(name, rows_of(bundle, runs[0]["ids"]))
        for name, runs in read_results(folder).items()
    }


def tenth(bundle: Bundle) -> list[Subset]:
    """Return subsets of a tenth of the pool, as users select: by rules and at random.

    `reward-i` is what the default reward picks greedily from half of the pool, and
    `random-i` are as many of the same candidates. The Navigator is the shipped one of
    the bundle's domain, or of Medical for a pool that none was trained on.
    """
    make = _Maker(bundle, len(bundle.pool) // 10, seed=4)
    native = AGENTS / "navigator" / bundle.name / "seed-0"
    foreign = AGENTS / "navigator-transfer" / "medical" / "seed-0"
    rules = {name: name for name in ("less", "greedy", "grad-match", "oracle")}
    rules["navigator"] = str(native if native.is_dir() else foreign)
    return [
        *make.random(5),
        *make.selected(rules),
        *make.sources(1),
        *make.mixtures(4),
        *make.rewarded(5),
    ]


def quick(bundle: Bundle, size: int = 16) -> list[Subset]:
    """Return a few small subsets, for a look at the study in minutes."""
    make = _Maker(bundle, size, seed=3)
    return [*make.random(2), *make.sources(1)]


class _Maker:
    """Draws subsets; each kind has randomness of its own, by number."""

    def __init__(self, bundle: Bundle, size: int, seed: int) -> None:
        self.bundle = bundle
        self.size = size
        self.seed = seed

    def _rng(self, kind: int, number: int) -> np.random.Generator:
        return named_rng(self.seed, "subsets", kind, number)

    def _shuffled(self, number: int) -> NDArray[np.int64]:
        """Return the pool's rows in random order; candidates are the first of them."""
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
            chances = weight[of] / weight[of].sum()
            # A small source may have less than its share: take all it has.
            enough = np.count_nonzero(chances) >= self.size
            chances = chances if enough else chances + 1e-9
            rows = rng.choice(
                len(of), self.size, replace=False, p=chances / chances.sum()
            )
            yield Subset(f"mixture-{number}", rows.tolist())

    def extremes(self, names: Sequence[str]) -> Iterator[Subset]:
        """Take the best and the worst candidates by each score."""
        scores, rows = self._scores(), self._shuffled(1000)[:STREAM]
        for name in names:
            order = rows[np.argsort(-scores[name](rows), kind="stable")]
            best, worst = order[: self.size], order[::-1][: self.size]
            yield Subset(f"best-{name}-0", best.tolist())
            yield Subset(f"worst-{name}-0", worst.tolist())

    def _scores(self) -> dict[str, Callable[[NDArray[np.int64]], NDArray[np.float32]]]:
        """Reward terms at the untouched learner, and cosines at the untouched model."""
        bundle = self.bundle
        rewards = Rewards(SurrogateLearner(bundle), information=None)
        seen = candidates(bundle, "initial")

        def term(name: str) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
            return lambda rows: rewards.preview(rows, seen.rows(rows)[1])[name]

        return {
            "domain_gain": term("domain_gain"),
            "anchor_gain": term("anchor_gain"),
            "orthogonality": term("orthogonality"),
            "start_domain_cosine": bundle.domain_cosines,
            "start_anchor_cosine": lambda rows: bundle.anchor_cosines(rows).min(axis=1),
        }

    def selected(self, selectors: Mapping[str, str]) -> Iterator[Subset]:
        """Select from the whole pool, by selectors' names or agents' folders."""
        everything = np.arange(len(self.bundle.pool))
        for name, selector in selectors.items():
            rng = named_rng(self.seed, "selectors")
            chosen = load_selector(selector)
            rows, _ = chosen.select(self.bundle, self.size, rng, everything)
            yield Subset(f"{name}-0", rows.tolist())

    def rewarded(self, count: int) -> Iterator[Subset]:
        """Pick what raises the default reward most, one after the other.

        From half of the pool, of which the random subset of the number has the first.
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
