import math

import numpy as np
import pytest

from ogs_env.bundle import Bundle
from ogs_env.errors import InputError
from ogs_env.learners.surrogate import SurrogateLearner
from ogs_env.rewards import (
    DEFAULT_WEIGHTS,
    NO_PICK,
    Information,
    Rewards,
    checked_weights,
    weighted_sum,
)


def units_of(bundle: Bundle) -> np.ndarray:
    start = bundle.pool.sketches("start")
    return start / np.linalg.norm(start, axis=1, keepdims=True)


def test_terms_are_those_of_an_independent_learner(bundle: Bundle) -> None:
    rewards = Rewards(SurrogateLearner(bundle), Information(bundle.k, 8))
    learner = SurrogateLearner(bundle)
    units = units_of(bundle)
    start_domain, start_anchor = learner.domain_loss(), learner.anchor_losses()
    rose, stood = 0, 0.0
    for index in (470, 200, 201, 5, 260):
        cosines = learner.anchor_cosine(index)
        domain, anchor = learner.domain_loss(), learner.anchor_losses()
        learner.update(index)
        gain = 100 * (domain - learner.domain_loss()) / start_domain
        rises = 100 * (learner.anchor_losses() - anchor) / start_anchor
        terms = rewards.pick(index, units[index])
        assert terms["domain_gain"] == pytest.approx(gain, abs=1e-4)
        assert terms["conflict"] == pytest.approx(max(0, rises.max()), abs=1e-4)
        falls = 100 * (start_anchor - learner.anchor_losses()) / start_anchor
        assert terms["anchor_gain"] == pytest.approx(falls.min() - stood, abs=1e-4)
        stood = falls.min()
        orthogonality = 1 - np.abs(cosines).max()
        assert terms["orthogonality"] == pytest.approx(orthogonality, abs=1e-4)
        rose += terms["conflict"] > 0
    assert rose  # else the conflict above was never looked at


def test_gains_add_up_to_the_whole_fall(bundle: Bundle) -> None:
    learner = SurrogateLearner(bundle)
    rewards = Rewards(learner, Information(bundle.k, 20))
    start, units = learner.domain_loss(), units_of(bundle)
    anchors = learner.anchor_losses().copy()
    terms = [rewards.pick(i, units[i]) for i in range(0, 480, 24)]
    fall = 100 * (start - learner.domain_loss()) / start
    assert sum(one["domain_gain"] for one in terms) == pytest.approx(fall, abs=1e-4)
    worst = 100 * ((anchors - learner.anchor_losses()) / anchors).min()
    assert sum(one["anchor_gain"] for one in terms) == pytest.approx(worst, abs=1e-4)


def test_information_is_the_log_determinant(bundle: Bundle) -> None:
    units = units_of(bundle)[[0, 9, 100, 9, 300, 301]].astype(np.float64)
    information = Information(bundle.k, len(units))

    def log_det(count: int) -> float:
        chosen = units[:count]
        return float(np.linalg.slogdet(np.eye(bundle.k) + chosen.T @ chosen)[1])

    for number, unit in enumerate(units.astype(np.float32)):
        expected = log_det(number + 1) - log_det(number)
        previewed = information.gains(unit[None])[0]
        gain = information.pick(unit)
        assert gain == pytest.approx(expected, abs=1e-5)
        assert previewed == pytest.approx(gain, abs=1e-6)
        assert 0 < gain <= math.log(2) + 1e-6


def test_information_of_orthogonal_directions_is_log_2() -> None:
    information = Information(3, 4)
    for unit in np.eye(3, dtype=np.float32):
        assert information.pick(unit) == pytest.approx(math.log(2))
    information.reset()
    assert information.pick(np.eye(3, dtype=np.float32)[0]) == pytest.approx(
        math.log(2)
    )


def test_preview_is_what_a_pick_gives(bundle: Bundle) -> None:
    rewards = Rewards(SurrogateLearner(bundle), Information(bundle.k, 8))
    units = units_of(bundle)
    for index in (1, 150, 300):
        rows = np.array([index, 20, 400])
        previewed = rewards.preview(rows, units[rows])
        picked = rewards.pick(index, units[index])
        assert previewed.keys() == picked.keys() == DEFAULT_WEIGHTS.keys()
        for name, value in picked.items():
            assert previewed[name][0] == pytest.approx(value, abs=1e-4)


def test_how_each_term_enters() -> None:
    terms = {
        "domain_gain": 3.0,
        "anchor_gain": -0.5,
        "orthogonality": 0.25,
        "conflict": 2.0,
        "information": 0.5,
    }
    alone = dict.fromkeys(terms, 0.0)
    for name, expected in (
        ("domain_gain", 30.0),
        ("anchor_gain", -5.0),
        ("orthogonality", -7.5),
        ("conflict", -20.0),
        ("information", 5.0),
    ):
        assert weighted_sum(terms, alone | {name: 10.0}) == expected
    everything = dict.fromkeys(terms, 10.0)
    assert weighted_sum(terms, everything) == 30 - 5 - 7.5 - 20 + 5
    assert weighted_sum(NO_PICK, everything) == 0


def test_weights_not_named_keep_their_default() -> None:
    assert checked_weights(None) == DEFAULT_WEIGHTS
    assert checked_weights({"conflict": 2}) == {**DEFAULT_WEIGHTS, "conflict": 2.0}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"conflit": 1.0}, "unknown reward term 'conflit'; did you mean conflict"),
        ({"conflict": math.nan}, "'conflict' is nan; expected a finite number"),
        ({"conflict": "1"}, "'conflict' is '1'; expected a finite number"),
    ],
)
def test_bad_weights(weights: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        checked_weights(weights)
