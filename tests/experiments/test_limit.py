"""The weight at which a selection forgets less than random picks do."""

from pathlib import Path

import numpy as np
import pytest
from helpers.make_bundle import edit_manifest, make_bundle

from ogs_env.agents.baselines.oracle import OracleSelector
from ogs_env.bundle import Bundle, load_bundle
from ogs_env.episode_rewards import Rewards
from ogs_env.errors import InputError
from ogs_env.experiments.comparison import compare, predicted_terms
from ogs_env.experiments.limit import MARGIN, forgetting_limit, read_limit
from ogs_env.learners.surrogate import SurrogateLearner

BUDGET = 24


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A pool whose own answers move with the distance, too."""
    folder = make_bundle(tmp_path_factory.mktemp("limit") / "made", checkpoints=1)
    learner = load_bundle(folder).manifest["learner"]
    forgetting = {"curvature": 1e-5, "share": 0.5, "distance": 0.01}
    edit_manifest(folder, learner=learner | {"forgetting": forgetting})
    return load_bundle(folder)


def greedy(bundle: Bundle, weight: float) -> np.ndarray:
    selector = OracleSelector({"forgetting": weight})
    rows, _ = selector.select(bundle, BUDGET, np.random.default_rng(0))
    return rows


def test_the_value_of_a_selection_is_the_return_of_its_episode(
    environment: Bundle,
) -> None:
    rows = greedy(environment, 1.0)
    rewards = Rewards(SurrogateLearner(environment), None)
    terms = [rewards.pick(int(row)) for row in rows]
    for name in ("domain_gain", "forgetting", "anchor_gain", "conflict"):
        total = sum(term[name] for term in terms)
        assert predicted_terms(environment, rows)[name] == pytest.approx(
            total, rel=1e-4
        )


def test_the_weight_is_the_least_that_satisfies_the_limit(
    environment: Bundle,
) -> None:
    result = forgetting_limit(environment, BUDGET, seed=0)
    rng = np.random.default_rng(5)
    draws = [
        rng.choice(len(environment.pool), BUDGET, replace=False) for _ in range(400)
    ]
    mean = np.mean([predicted_terms(environment, rows)["forgetting"] for rows in draws])
    assert result.limit == pytest.approx(MARGIN * mean, rel=0.05)

    terms = predicted_terms(environment, greedy(environment, result.weight))
    assert terms["forgetting"] == result.predicted <= result.limit
    less = predicted_terms(environment, greedy(environment, 0.9 * result.weight))
    assert less["forgetting"] > result.limit
    assert less["domain_gain"] > terms["domain_gain"]
    assert forgetting_limit(environment, BUDGET, seed=0) == result


def test_without_forgetting_the_weight_is_close_to_zero(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "made", checkpoints=1)
    learner = load_bundle(folder).manifest["learner"]
    no_forgetting = {"curvature": 0.0, "share": 0.0, "distance": 0.0}
    edit_manifest(folder, learner=learner | {"forgetting": no_forgetting})
    bundle = load_bundle(folder)
    # Nothing is forgotten: any weight keeps to a limit of 0.
    assert forgetting_limit(bundle, BUDGET, seed=0).weight < 0.01


def test_selectors_are_compared_with_the_given_weights(environment: Bundle) -> None:
    selectors = {"greedy": OracleSelector({"forgetting": 3.0})}
    [terms] = compare(environment, selectors, BUDGET, 0, {"forgetting": 3.0}).values()
    [plain] = compare(environment, selectors, BUDGET, 0, {}).values()
    np.testing.assert_array_equal(terms["forgetting"], plain["forgetting"])
    np.testing.assert_allclose(
        plain["value"] - terms["value"], 2 * terms["forgetting"], atol=1e-9
    )


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        '{"weight": 1,',
        '{"weight": 1, "limit": 1}',
        '{"weight": "a", "limit": 1, "predicted": 1}',
        '{"weight": 1, "limit": 1, "forecast": 1}',
    ],
)
def test_a_damaged_limit_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "limit.json").write_text(text)
    with pytest.raises(InputError, match=r"limit.json: .*expected .*; delete it"):
        read_limit(tmp_path / "limit.json")
