import math
from pathlib import Path

import numpy as np
import pytest
from helpers.make_bundle import edit_manifest, make_bundle

from ogs_env.bundle import Bundle, load_bundle
from ogs_env.envs.mixture import MixtureEnv
from ogs_env.envs.selection import SelectionEnv
from ogs_env.episode_rewards import Information, Rewards
from ogs_env.errors import InputError
from ogs_env.learners.surrogate import SurrogateLearner
from ogs_env.rewards import (
    COST,
    DEFAULT_WEIGHTS,
    NO_PICK,
    TERMS,
    Transition,
    answers_of,
    checked_weights,
    weighted_sum,
)


def units_of(bundle: Bundle) -> np.ndarray:
    start = bundle.pool.sketches("initial")
    return start / np.linalg.norm(start, axis=1, keepdims=True)


class Potentials:
    """The potentials whose differences are the terms, by the definitions."""

    def __init__(self, learner: SurrogateLearner) -> None:
        self.learner = learner
        self.start = self.losses()

    def losses(self) -> tuple[float, np.ndarray, np.ndarray]:
        learner = self.learner
        anchors, answers = learner.anchor_losses(), learner.answer_losses()
        return learner.domain_loss(), anchors.copy(), answers.copy()

    def now(self) -> dict[str, float]:
        rises = [
            100 * (now - first) / first
            for now, first in zip(self.losses(), self.start, strict=True)
        ]
        return {
            "domain_gain": -rises[0],
            "anchor_gain": -rises[1].max(),
            "conflict": max(0, rises[1].max()),
            "forgetting": rises[2].max() if len(rises[2]) else 0.0,
        }


@pytest.fixture(params=["own", "reference"])
def either(
    request: pytest.FixtureRequest, bundle: Bundle, folder_without_answers: Path
) -> Bundle:
    """A bundle with answers of the model's own, and one without."""
    return bundle if request.param == "own" else load_bundle(folder_without_answers)


def test_terms_are_differences_of_potentials(either: Bundle) -> None:
    rewards = Rewards(SurrogateLearner(either), Information(either.k, 40))
    learner = SurrogateLearner(either)
    potentials, units = Potentials(learner), units_of(either)
    before = potentials.now()
    sums = dict.fromkeys(before, 0.0)
    signs = []
    for index in range(450, 50, -10):
        cosines = learner.anchor_cosine(index)
        learner.update(index)
        after = potentials.now()
        terms = rewards.pick(index, units[index])
        for name in before:
            change = after[name] - before[name]
            assert terms[name] == pytest.approx(change, abs=1e-9)
            sums[name] += terms[name]
        orthogonality = 1 - np.abs(cosines).max()
        assert terms["orthogonality"] == pytest.approx(orthogonality, abs=1e-4)
        before = after
        signs.append((np.sign(terms["conflict"]), np.sign(terms["forgetting"])))
        assert after["forgetting"] >= 0
    for name, total in sums.items():
        assert total == pytest.approx(before[name], abs=1e-8)
    conflicts, forgettings = np.transpose(signs)
    # Otherwise the assertions above covered one sign only.
    assert {-1, 1} <= set(conflicts)
    expected_signs = {-1, 1} if either.has_answers else {0}
    assert set(forgettings) == expected_signs


def test_without_a_pick_nothing_is_forgotten(either: Bundle) -> None:
    rewards = Rewards(SurrogateLearner(either), None)
    assert set(rewards.changes().values()) == {0}
    assert rewards.finish(NO_PICK) == NO_PICK


def test_information_is_the_log_determinant(bundle: Bundle) -> None:
    units = units_of(bundle)[[0, 9, 100, 9, 300, 301]].astype(np.float64)
    information = Information(bundle.k, len(units))

    def log_det(count: int) -> float:
        selected = units[:count]
        return float(np.linalg.slogdet(np.eye(bundle.k) + selected.T @ selected)[1])

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


def test_preview_equals_the_terms_of_a_pick(either: Bundle) -> None:
    rewards = Rewards(SurrogateLearner(either), Information(either.k, 8))
    units = units_of(either)
    for index in (1, 150, 300):
        rows = np.array([index, 20, 400])
        previewed = rewards.preview(rows, units[rows])
        terms = rewards.pick(index, units[index])
        assert previewed.keys() == terms.keys() == NO_PICK.keys()
        for name, value in terms.items():
            assert previewed[name][0] == pytest.approx(value, abs=1e-4)


def test_terms_without_a_pick(either: Bundle) -> None:
    learner = SurrogateLearner(either)
    losses = learner.domain_loss(), learner.anchor_losses(), learner.answer_losses()
    transition = Transition(*losses)
    transition.advance(*losses)
    transition.cosines = [0.0, 0.0]
    for term in TERMS:
        assert term.value(transition) == term.no_pick == NO_PICK[term.name]


def test_how_each_term_enters() -> None:
    terms = {
        "domain_gain": 3.0,
        "anchor_gain": -0.5,
        "forgetting": 1.5,
        "orthogonality": 0.25,
        "conflict": 2.0,
        "information": 0.5,
    }
    terms = NO_PICK | terms
    alone = dict.fromkeys(terms, 0.0)
    for name, expected in (
        ("domain_gain", 30.0),
        ("anchor_gain", -5.0),
        ("forgetting", -15.0),
        ("orthogonality", -7.5),
        ("conflict", -20.0),
        ("information", 5.0),
    ):
        assert weighted_sum(terms, alone | {name: 10.0}) == expected
    everything = dict.fromkeys(NO_PICK, 10.0)
    assert weighted_sum(terms, everything) == 30 - 5 - 15 - 7.5 - 20 + 5
    assert weighted_sum(NO_PICK, everything) == 0


@pytest.mark.parametrize("env", [SelectionEnv, MixtureEnv])
def test_environments_document_every_term(env: type) -> None:
    text = " ".join((env.__doc__ or "").split())
    for term in TERMS:
        assert f"- `{term.name}`: {term.documentation}. Enters as " in text
    assert "Enters as +weight * (orthogonality - 1). Default weight: 0." in text
    assert "Enters as -weight * forgetting. Default weight: " in text
    assert "<reward terms>" not in text


def test_a_batch_is_worth_the_sum_of_its_samples(either: Bundle) -> None:
    rows, units = [3, 150, 470, 20], units_of(either)
    one, batch = (
        Rewards(SurrogateLearner(either), Information(either.k, 8)) for _ in range(2)
    )
    picks = [one.pick(row, units[row]) for row in rows]
    terms = batch.pick_batch(rows, units[rows])
    assert [*terms] == [term.name for term in TERMS]
    for name, value in terms.items():
        expected = sum(pick[name] for pick in picks)
        if name == "orthogonality":
            expected /= len(rows)
        assert value == pytest.approx(expected, abs=1e-5)


def test_weights_not_named_keep_the_bundles_default(either: Bundle) -> None:
    default = DEFAULT_WEIGHTS["own" if either.has_answers else "reference"]
    assert checked_weights(None, either) == default
    weights = checked_weights({"conflict": 2}, either)
    assert weights == {**default, "conflict": 2.0}
    weighed = {name for name, weight in default.items() if weight}
    # The reward is about the same answers as the cost.
    anchor = "forgetting" if either.has_answers else "anchor_gain"
    assert weighed == {"domain_gain", anchor}
    assert COST[answers_of(either)] in NO_PICK


def test_a_bundle_with_both_kinds_of_answers_weights_both(tmp_path) -> None:
    folder = make_bundle(tmp_path / "both")
    edit_manifest(folder, answers={"kind": "both", "max_tokens": 128})
    bundle = load_bundle(folder)
    weighed = {name for name, weight in checked_weights(None, bundle).items() if weight}
    assert weighed == {"domain_gain", "anchor_gain", "forgetting"}
    assert answers_of(bundle) == "own"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"conflit": 1.0}, "unknown reward term 'conflit'; did you mean conflict"),
        ({"conflict": math.nan}, "'conflict' is nan; expected a finite number"),
        ({"conflict": "1"}, "'conflict' is '1'; expected a finite number"),
    ],
)
def test_bad_weights(bundle: Bundle, weights: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        checked_weights(weights, bundle)
