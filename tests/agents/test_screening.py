import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ogs_env.agents.screening import FACTOR, ScreenedSelector
from ogs_env.agents.selector import highest, make_selector, pool_rows
from ogs_env.bundle import load_bundle
from ogs_env.errors import InputError

BUNDLE = load_bundle("medical")


class RowsInOrder:
    """Ranks rows by fixed scores."""

    def __init__(self, seed):
        self.scores = np.random.default_rng(seed).permutation(len(BUNDLE.pool))

    def select(self, bundle, budget, rng, indices=None):
        rows = pool_rows(bundle, budget, indices)
        return highest(rows, self.scores[rows], budget)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 99),
    candidates=st.integers(1, 60),
    share=st.floats(0.01, 1),
)
def test_only_candidates_that_the_screen_ranks_first_are_selected(
    seed, candidates, share
):
    screen, selector = RowsInOrder(seed), RowsInOrder(seed + 1)
    rows = np.random.default_rng(seed).choice(
        len(BUNDLE.pool), candidates, replace=False
    )
    budget = max(1, round(share * candidates))
    screened = ScreenedSelector(selector, screen)
    order, scores = screened.select(BUNDLE, budget, np.random.default_rng(0), rows)
    kept = sorted(rows, key=lambda row: -screen.scores[row])[: FACTOR * budget]
    best = sorted(kept, key=lambda row: -selector.scores[row])[:budget]
    assert order.tolist() == best
    assert scores.tolist() == selector.scores[best].tolist()


def test_without_a_choice_it_selects_as_the_selector_does():
    rows = np.arange(40)
    oracle = make_selector("oracle")
    screened = ScreenedSelector(oracle, RowsInOrder(0))
    for budget in (20, 40):
        chosen = screened.select(BUNDLE, budget, np.random.default_rng(0), rows)
        plain = oracle.select(BUNDLE, budget, np.random.default_rng(0), rows)
        np.testing.assert_array_equal(chosen[0], plain[0])


@pytest.mark.parametrize("budget", [0, 41])
def test_a_budget_that_does_not_fit_is_refused(budget):
    screened = ScreenedSelector(make_selector("greedy"), RowsInOrder(0))
    with pytest.raises(InputError, match="budget"):
        screened.select(BUNDLE, budget, np.random.default_rng(0), np.arange(40))
