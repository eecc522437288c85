"""Lists of subsets: what is asked of every list, and each kind's own rule."""

from collections import Counter

import numpy as np
import pytest
from make_bundle import edit_manifest, make_bundle

from ogs_env.bundle import Bundle, load_bundle
from ogs_env.errors import InputError
from ogs_env.experiments.fidelity import subsets
from ogs_env.experiments.fidelity.subsets import (
    Subset,
    development,
    held_out,
    of_agent,
    quick,
    rewarded,
)
from ogs_env.learners.surrogate import SurrogateLearner
from ogs_env.rewards import Information, Rewards, checked_weights, weighted_sum

SIZE = 12


@pytest.fixture(scope="module")
def lists(bundle: Bundle) -> dict[str, list[Subset]]:
    return {
        maker.__name__: maker(bundle, SIZE) for maker in (development, held_out, quick)
    }


def test_subsets_hold_so_many_samples_and_none_twice(bundle, lists):
    for found in lists.values():
        for subset in found:
            assert len(subset.rows) == len(set(subset.rows)) == SIZE
            assert all(0 <= row < len(bundle.pool) for row in subset.rows)
            assert all(type(row) is int for row in subset.rows)


def test_names_are_unique_and_tell_the_kind(lists):
    for found in lists.values():
        assert len({subset.name for subset in found}) == len(found)
    kinds = Counter(subset.kind for subset in lists["held_out"])
    sources = {f"source-{name}": 1 for name in ("alpha", "beta", "gamma", "delta")}
    scores = ("domain_gain", "orthogonality", "anchor_gain")
    cosines = ("start_domain_cosine", "start_anchor_cosine")
    extremes = {f"{end}-{s}": 1 for s in scores + cosines for end in ("best", "worst")}
    assert kinds == {
        **{"random": 8, "mixture": 12, "greedy": 8, "source-epsilon": 1},
        **sources,
        **extremes,
    }


def test_a_list_is_the_same_again_and_no_other(bundle, lists):
    assert development(bundle, SIZE) == lists["development"]
    known = [tuple(subset.rows) for found in lists.values() for subset in found]
    assert len(set(known)) == len(known)


def test_the_development_list_does_not_depend_on_the_learner(bundle, lists, tmp_path):
    folder = make_bundle(tmp_path / "same")
    response = {"slope": [0.0, 9.0], "curvature": [3.0, 0.0]}
    learner = {"sketches": "path", "domain": response, "anchor": response}
    edit_manifest(folder, learner=learner)
    other = load_bundle(folder)
    assert development(other, SIZE) == lists["development"]
    assert held_out(other, SIZE) != lists["held_out"]


def test_a_source_subset_is_of_its_source(bundle, lists):
    for subset in lists["development"]:
        if subset.name.startswith("source-"):
            of = {bundle.sources[n] for n in bundle.pool.sources[subset.rows]}
            assert of == {subset.kind.removeprefix("source-")}


def test_a_source_with_too_few_samples_has_no_subset(bundle):
    counts = np.bincount(bundle.pool.sources)
    size = int(np.sort(counts)[-2])
    named = {s.kind.removeprefix("source-") for s in quick(bundle, size)} - {"random"}
    expected = {bundle.sources[n] for n in np.flatnonzero(counts >= size)}
    assert named == expected
    assert 0 < len(named) < len(counts)


def test_mixtures_are_more_uneven_than_random_subsets(bundle, lists):
    def largest_share(kind: str) -> list[float]:
        of = [bundle.pool.sources[s.rows] for s in lists["held_out"] if s.kind == kind]
        return [np.bincount(sources).max() / SIZE for sources in of]

    assert np.mean(largest_share("mixture")) > np.mean(largest_share("random")) + 0.15
    assert len(set(largest_share("mixture"))) > 3


def test_a_mixture_may_ask_for_more_than_a_source_has(bundle):
    size = len(bundle.pool) - 20
    found = [s for s in development(bundle, size) if s.kind == "mixture"]
    assert len(found) == 10
    assert all(len(set(subset.rows)) == size for subset in found)


def test_kinds_that_are_compared_share_their_candidates(bundle, monkeypatch):
    monkeypatch.setattr(subsets, "STREAM", SIZE)  # all that there is to pick from
    by_name = {s.name: set(s.rows) for s in held_out(bundle, SIZE)}
    by_name |= {s.name: set(s.rows) for s in of_agent(bundle, "random", "held-out", 12)}
    for number in range(8):
        assert by_name[f"greedy-{number}"] == by_name[f"random-{number}"]
    for number in range(4):
        assert by_name[f"agent-{number}"] == by_name[f"random-{number}"]
    other = of_agent(bundle, "random", "development", SIZE)
    assert set(other[0].rows) != by_name["agent-0"]


def test_the_rewarded_list_is_of_the_held_out_lists_candidates(bundle):
    kinds = [s for s in held_out(bundle, SIZE) if s.kind in ("random", "greedy")]
    assert rewarded(bundle, SIZE) == kinds
    assert len(kinds) == 16


def scores_of_the_pool(bundle: Bundle) -> dict[str, np.ndarray]:
    """Each score of every pool row, sample by sample."""
    learner = SurrogateLearner(bundle)
    domain, anchor = learner.domain_loss(), learner.anchor_losses()
    found: dict[str, list[float]] = {"domain_gain": [], "anchor_gain": []}
    orthogonality = []
    for row in range(len(bundle.pool)):
        learner.reset()
        learner.update(row)
        found["domain_gain"].append((domain - learner.domain_loss()) / domain)
        gains = (anchor - learner.anchor_losses()) / anchor
        found["anchor_gain"].append(gains.min())
        orthogonality.append(1 - np.abs(learner.anchor_cosine(row)).max())

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    starts = {r: getattr(bundle, r).sketches("start") for r in ("pool", "dev")}
    anchors = bundle.anchor.sketches("start")
    of = bundle.anchor.capabilities
    means = np.stack([anchors[of == n].mean(0) for n in np.unique(of)])
    cosines = unit(starts["pool"]) @ unit(means).T
    return {
        **{name: np.array(values) for name, values in found.items()},
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


def test_greedy_is_brute_force(bundle, monkeypatch):
    monkeypatch.setattr(subsets, "STREAM", SIZE)
    weights = checked_weights(None, bundle)
    starts = bundle.pool.sketches("start")
    units = starts / np.linalg.norm(starts, axis=1, keepdims=True)

    def reward_of_the_last(picks: list[int]) -> float:
        rewards = Rewards(SurrogateLearner(bundle), Information(bundle.k, len(picks)))
        terms = [rewards.pick(row, units[row]) for row in picks]
        return weighted_sum(terms[-1], weights)

    by_name = {s.name: s.rows for s in held_out(bundle, SIZE)}
    for number in range(2):
        stream = by_name[f"random-{number}"]  # all there is
        picked: list[int] = []
        while len(picked) < SIZE:  # more than a batch of 8
            left = [row for row in stream if row not in picked]
            picked.append(max(left, key=lambda row: reward_of_the_last([*picked, row])))
        assert by_name[f"greedy-{number}"] == picked


def test_an_unknown_agent_is_told(bundle):
    with pytest.raises(InputError, match="unknown agent 'randm'; did you mean random"):
        of_agent(bundle, "randm", "held-out", SIZE)
