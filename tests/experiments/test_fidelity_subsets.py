"""Lists of subsets: properties of every list, and the rule of each kind."""

from collections import Counter

import numpy as np
import pytest
from helpers.make_bundle import edit_manifest, make_bundle
from helpers.synthetic_study import write_list

from ogs_env.agents.deployment import load_selector
from ogs_env.bundle import Bundle, load_bundle
from ogs_env.episode_rewards import Information, Rewards
from ogs_env.experiments.fidelity import subsets
from ogs_env.experiments.fidelity.subsets import (
    Subset,
    development,
    held_out,
    of_results,
    quick,
    tenth,
)
from ogs_env.experiments.fidelity.table import kind_of
from ogs_env.learners.fitted import default_learner
from ogs_env.learners.surrogate import SurrogateLearner
from ogs_env.rewards import checked_weights, weighted_sum

SIZE = 12


@pytest.fixture(scope="module")
def lists(bundle: Bundle) -> dict[str, list[Subset]]:
    return {
        maker.__name__: maker(bundle, SIZE) for maker in (development, held_out, quick)
    }


@pytest.fixture(scope="module")
def medical() -> Bundle:
    """The shipped bundle, in whose sketch space the shipped agents are."""
    return load_bundle("medical")


@pytest.fixture(scope="module")
def tenths(medical) -> dict[str, list[int]]:
    return {subset.name: subset.rows for subset in tenth(medical)}


def test_subsets_have_the_given_size_without_repeats(bundle, lists):
    for subset_list in lists.values():
        for subset in subset_list:
            assert len(subset.rows) == len(set(subset.rows)) == SIZE
            assert all(0 <= row < len(bundle.pool) for row in subset.rows)
            assert all(type(row) is int for row in subset.rows)


def test_names_are_unique_and_contain_the_kind(lists):
    for subset_list in lists.values():
        assert len({subset.name for subset in subset_list}) == len(subset_list)
    kinds = Counter(kind_of(subset.name) for subset in lists["held_out"])
    sources = {f"source-{name}": 1 for name in ("alpha", "beta", "gamma", "delta")}
    scores = ("domain_gain", "orthogonality", "anchor_gain")
    cosines = ("start_domain_cosine", "start_anchor_cosine")
    extremes = {f"{end}-{s}": 1 for s in scores + cosines for end in ("best", "worst")}
    assert kinds == {
        **{"random": 8, "mixture": 12, "source-epsilon": 1},
        **sources,
        **extremes,
    }


def test_a_list_is_reproducible_and_differs_from_all_others(bundle, lists):
    assert development(bundle, SIZE) == lists["development"]
    known = [
        tuple(subset.rows) for subset_list in lists.values() for subset in subset_list
    ]
    assert len(set(known)) == len(known)


def test_the_development_list_does_not_depend_on_the_learner(bundle, lists, tmp_path):
    folder = make_bundle(tmp_path / "same")
    learner = default_learner([0, 6])
    learner["domain"] = {"slope": [0.0, 9.0], "share": 3.0}
    edit_manifest(folder, learner=learner)
    other = load_bundle(folder)
    assert development(other, SIZE) == lists["development"]
    assert held_out(other, SIZE) != lists["held_out"]


def test_a_source_subset_is_of_its_source(bundle, lists):
    for subset in lists["development"]:
        if subset.name.startswith("source-"):
            of = {bundle.sources[n] for n in bundle.pool.sources[subset.rows]}
            assert of == {kind_of(subset.name).removeprefix("source-")}


def test_a_source_with_too_few_samples_has_no_subset(bundle):
    counts = np.bincount(bundle.pool.sources)
    size = int(np.sort(counts)[-2])
    kinds = {kind_of(subset.name) for subset in quick(bundle, size)} - {"random"}
    named = {kind.removeprefix("source-") for kind in kinds}
    expected = {bundle.sources[n] for n in np.flatnonzero(counts >= size)}
    assert named == expected
    assert 0 < len(named) < len(counts)


def test_mixtures_are_more_uneven_than_random_subsets(bundle, lists):
    def largest_share(kind: str) -> list[float]:
        return [
            np.bincount(bundle.pool.sources[subset.rows]).max() / SIZE
            for subset in lists["held_out"]
            if kind_of(subset.name) == kind
        ]

    assert np.mean(largest_share("mixture")) > np.mean(largest_share("random")) + 0.15
    assert len(set(largest_share("mixture"))) > 3


def test_a_mixture_may_exceed_the_size_of_a_source(bundle):
    size = len(bundle.pool) - 20
    mixtures = [s for s in development(bundle, size) if kind_of(s.name) == "mixture"]
    assert len(mixtures) == 10
    assert all(len(set(subset.rows)) == size for subset in mixtures)


def test_the_tenth_list_has_a_tenth_of_the_pool(medical, tenths):
    for rows in tenths.values():
        assert len(rows) == len(set(rows)) == len(medical.pool) // 10
        assert all(type(row) is int for row in rows)
    kinds = Counter(map(kind_of, tenths))
    rules = ("less", "greedy", "grad-match", "oracle", "navigator")
    big = np.bincount(medical.pool.sources) >= len(medical.pool) // 10
    assert kinds == {
        **{"random": 5, "mixture": 4, "reward": 5},
        **dict.fromkeys(rules, 1),
        **{f"source-{medical.sources[n]}": 1 for n in np.flatnonzero(big)},
    }
    assert len({frozenset(rows) for rows in tenths.values()}) == len(tenths)


def test_rules_select_from_the_whole_pool(medical, tenths):
    size = len(medical.pool) // 10
    for name in ("less", "greedy", "grad-match", "oracle"):
        rng = np.random.default_rng([4, 53])
        expected, _ = load_selector(name).select(medical, size, rng)
        assert tenths[f"{name}-0"] == expected.tolist()


def reward_of(bundle: Bundle, rows: list[int]) -> float:
    """The default reward of a selection, summed over its picks."""
    rewards = Rewards(SurrogateLearner(bundle), Information(bundle.k, len(rows)))
    starts = bundle.pool.sketches("initial")
    units = starts / np.linalg.norm(starts, axis=1, keepdims=True)
    weights = checked_weights(None, bundle)
    return sum(weighted_sum(rewards.pick(row, units[row]), weights) for row in rows)


def test_picks_by_reward_return_more_than_random_picks(medical, tenths):
    for number in range(5):
        random, by_reward = tenths[f"random-{number}"], tenths[f"reward-{number}"]
        assert reward_of(medical, by_reward) > reward_of(medical, random)


def test_the_reward_picks_from_a_half_that_has_the_random_subset(medical, tenths):
    size = len(medical.pool) // 10
    for number in range(5):
        rng = np.random.default_rng([4, 51, 0, number])
        half = rng.permutation(len(medical.pool))[: len(medical.pool) // 2].tolist()
        assert tenths[f"random-{number}"] == half[:size]
        assert set(tenths[f"reward-{number}"]) < set(half)


def test_subsets_of_results_are_those_that_were_run(bundle, tmp_path):
    assert of_results(bundle, tmp_path / "pool" / "tenth") == {}
    picks = {"random-0": [5, 3, 400], "less-0": [7, 8, 9]}
    runs = {name: [{"losses": {}, "pairs": {}}] for name in picks}
    write_list(bundle, tmp_path / "pool" / "tenth", picks, runs)
    loaded = of_results(bundle, tmp_path / "pool" / "tenth")
    assert loaded == {name: Subset(name, rows) for name, rows in picks.items()}


def scores_of_the_pool(bundle: Bundle) -> dict[str, np.ndarray]:
    """Each score of every pool row, sample by sample."""
    learner = SurrogateLearner(bundle)
    domain, anchor = learner.domain_loss(), learner.anchor_losses()
    scores: dict[str, list[float]] = {"domain_gain": [], "anchor_gain": []}
    orthogonality = []
    for row in range(len(bundle.pool)):
        learner.reset()
        learner.update(row)
        scores["domain_gain"].append((domain - learner.domain_loss()) / domain)
        gains = (anchor - learner.anchor_losses()) / anchor
        scores["anchor_gain"].append(gains.min())
        orthogonality.append(1 - np.abs(learner.anchor_cosine(row)).max())

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    starts = {r: getattr(bundle, r).sketches("initial") for r in ("pool", "dev")}
    anchors = bundle.anchor.sketches("initial")
    of = bundle.anchor.capabilities
    means = np.stack([anchors[of == n].mean(0) for n in np.unique(of)])
    cosines = unit(starts["pool"]) @ unit(means).T
    return {
        **{name: np.array(values) for name, values in scores.items()},
        "orthogonality": np.array(orthogonality),
        "start_domain_cosine": unit(starts["pool"]) @ unit(starts["dev"].mean(0)),
        "start_anchor_cosine": cosines.min(1),
    }


def test_best_and_worst_are_the_extremes_of_their_score(bundle, monkeypatch):
    monkeypatch.setattr(subsets, "STREAM", len(bundle.pool))
    by_name = {s.name: s.rows for s in held_out(bundle, SIZE)}
    for name, scores in scores_of_the_pool(bundle).items():
        ascending = np.sort(scores)
        close = 1e-3 * scores.std()
        best, worst = (scores[by_name[f"{end}-{name}-0"]] for end in ("best", "worst"))
        np.testing.assert_allclose(best, ascending[::-1][:SIZE], atol=close)
        np.testing.assert_allclose(worst, ascending[:SIZE], atol=close)
