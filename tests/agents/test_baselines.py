"""Selectors that use sketches only, and selectors that score each sample by itself."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from helpers.edited_bundle import Columns, edited
from helpers.infos import terms_of
from helpers.make_bundle import make_bundle
from scipy.stats import ks_2samp

from ogs_env.agents.baselines.less import LessSelector
from ogs_env.agents.baselines.oracle import OracleSelector
from ogs_env.agents.policies import selection_env
from ogs_env.agents.selector import READERS, SELECTORS, best_places, make_selector
from ogs_env.bundle import Bundle, load_bundle
from ogs_env.errors import InputError
from ogs_env.rewards import weighted_sum

# Selectors that need texts or metadata have a test file of their own.
NAMES = [name for name in SELECTORS if name not in READERS and name != "metadata"]
DRAWN = ("random", "length-matched")
CHOSEN = [name for name in NAMES if name not in DRAWN]


def select(
    bundle: Bundle, name: str, budget: int, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    return make_selector(name).select(bundle, budget, np.random.default_rng(0), rows)


@pytest.mark.parametrize("name", NAMES)
def test_selections_are_distinct_and_reproducible(bundle: Bundle, name: str) -> None:
    part = bundle.split("test")
    order, scores = select(bundle, name, 10, part)
    repeated, _ = select(bundle, name, 10, part)
    np.testing.assert_array_equal(order, repeated)
    assert (order.dtype, scores.dtype) == (np.int64, np.float32)
    assert len(set(order.tolist())) == 10 == len(scores)
    assert set(order.tolist()) <= set(part.tolist())
    whole, _ = select(bundle, name, 10)
    assert not set(whole.tolist()) <= set(part.tolist())


@pytest.mark.parametrize("name", NAMES)
def test_all_candidates_can_be_selected(bundle: Bundle, name: str) -> None:
    rows = np.arange(5, 480, 6)
    order, scores = select(bundle, name, len(rows), rows)
    np.testing.assert_array_equal(np.sort(order), rows)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("count", [1, 7, 50, 199, 200])
def test_the_best_places_are_in_order_also_where_scores_tie(count: int) -> None:
    rng = np.random.default_rng(0)
    for scores in (rng.normal(size=200), rng.integers(5, size=200) / 4, np.ones(200)):
        places = best_places(scores.astype(np.float32), count)
        by_hand = sorted(range(200), key=lambda place: (-scores[place], place))
        assert places.tolist() == by_hand[:count]


@pytest.mark.parametrize("name", NAMES)
def test_wrong_budgets_raise(bundle: Bundle, name: str) -> None:
    for budget in (0, 5):
        with pytest.raises(InputError, match=f"budget: {budget}; expected 1 to the 4"):
            select(bundle, name, budget, np.arange(4))


@pytest.mark.parametrize("name", CHOSEN)
def test_selections_do_not_depend_on_earlier_calls(bundle: Bundle, name: str) -> None:
    rng = np.random.default_rng(0)
    slates = [rng.choice(480, 16, replace=False) for _ in range(5)]
    expected = [select(bundle, name, 3, slate) for slate in slates]
    selector, rng = make_selector(name), np.random.default_rng(99)
    for number in (3, 1, 4, 0, 2, 3):
        selected = selector.select(bundle, 3, rng, slates[number])
        for one, other in zip(selected, expected[number], strict=True):
            np.testing.assert_array_equal(one, other)
        selector.select(bundle, 20, rng, np.arange(40))


# The others depend on the order: `all` on nothing else, `information` in its first
# pick, `pgm` where there is more than one partition.
@pytest.mark.parametrize("name", sorted(set(CHOSEN) - {"all", "information", "pgm"}))
def test_the_order_of_the_candidates_does_not_matter(bundle: Bundle, name: str) -> None:
    rows = np.random.default_rng(3).choice(480, 90, replace=False)
    selected = select(bundle, name, 20, rows)[0]
    np.testing.assert_array_equal(select(bundle, name, 20, rows[::-1])[0], selected)


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle where row i + 240 equals row i."""

    def repeat(columns: Columns) -> None:
        for name, values in columns.items():
            columns[name] = np.concatenate([values[:240], values[:240]])

    return edited(tmp_path_factory.mktemp("twins") / "bundle", repeat)


@pytest.mark.parametrize("name", CHOSEN)
def test_ties_go_to_the_earlier_sample(twins: Bundle, name: str) -> None:
    rng = np.random.default_rng(1)
    rows = rng.permutation(np.concatenate([np.arange(30), np.arange(240, 270)]))
    order, _ = select(twins, name, 60, rows)
    positions = {row: place for place, row in enumerate(rows.tolist())}
    ranks = {row: place for place, row in enumerate(order.tolist())}
    for row in range(30):
        first, second = sorted((row, row + 240), key=positions.__getitem__)
        assert ranks[first] < ranks[second]


def formulas(bundle: Bundle) -> dict[str, np.ndarray]:
    start = bundle.pool.sketches("initial").astype(np.float64)
    start /= np.linalg.norm(start, axis=1, keepdims=True)

    def cosines(reference: np.ndarray) -> np.ndarray:
        return start @ reference / np.linalg.norm(reference)

    anchor, of = bundle.anchor.sketches("initial"), bundle.anchor.capabilities
    dev, source = bundle.dev.sketches("initial"), bundle.dev.sources
    general = cosines(anchor.mean(0))
    each = np.stack([cosines(anchor[of == n].mean(0)) for n in range(2)])
    subtasks = [cosines(dev[source == n].mean(0)) for n in set(source.tolist())]
    assert len(subtasks) > 1
    return {
        "loss": bundle.pool.losses,
        "loss-low": -bundle.pool.losses,
        "less": np.max(subtasks, axis=0),
        "orth": 1 - np.abs(general),
        "conflict": general,
        "greedy": cosines(dev.mean(0)) - 0.3 * np.abs(each).max(axis=0),
    }


@pytest.mark.parametrize(
    "name", ["loss", "loss-low", "less", "orth", "conflict", "greedy"]
)
def test_scores_follow_the_formulas_and_the_highest_are_selected(
    bundle: Bundle, name: str
) -> None:
    order, scores = select(bundle, name, 40)
    expected = formulas(bundle)[name]
    np.testing.assert_allclose(scores, expected[order], atol=1e-4)
    assert (np.diff(scores) <= 0).all()
    rest = np.setdiff1d(np.arange(len(expected)), order)
    assert expected[rest].max() <= expected[order].min() + 1e-4
    slate, own = select(bundle, name, 3, order[10:26])
    np.testing.assert_array_equal(slate, order[10:13])
    np.testing.assert_array_equal(own, scores[10:13])


def test_less_does_not_depend_on_shards(bundle: Bundle, tmp_path: Path) -> None:
    parted = load_bundle(make_bundle(tmp_path / "parted", shards=7))
    for one, other in zip(
        select(bundle, "less", 100), select(parted, "less", 100), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_less_along_a_trajectory_sums_cosines_over_checkpoints(bundle: Bundle) -> None:
    rows, k = np.arange(25), bundle.k
    samples, dev = (
        part.sketches("trajectory", indices).reshape(len(indices), -1, k)
        for part, indices in (
            (bundle.pool, rows),
            (bundle.dev, np.arange(len(bundle.dev))),
        )
    )
    expected = []
    for sample in samples:
        sums = []
        for source in np.unique(bundle.dev.sources):
            task = dev[bundle.dev.sources == source].mean(axis=0)
            norms = np.linalg.norm(sample, axis=1) * np.linalg.norm(task, axis=1)
            sums.append(((sample * task).sum(axis=1) / norms).sum())
        expected.append(max(sums))
    selected, scores = LessSelector("trajectory").select(
        bundle, 10, np.random.default_rng(0), rows
    )
    best = np.argsort(expected)[::-1][:10]
    assert selected.tolist() == best.tolist()
    np.testing.assert_allclose(scores, np.array(expected)[best], rtol=1e-4)


def test_less_along_a_trajectory_needs_one(tmp_path: Path) -> None:
    plain = load_bundle(make_bundle(tmp_path / "plain", checkpoints=0))
    with pytest.raises(InputError, match=r"plain: has no trajectory; .*--trajectory"):
        LessSelector("trajectory").select(plain, 4, np.random.default_rng(0))


def test_all_selects_the_first_rows(bundle: Bundle) -> None:
    rows = np.array([7, 300, 2, 9, 4])
    assert select(bundle, "all", 3, rows)[0].tolist() == [7, 300, 2]
    assert select(bundle, "all", 5, rows)[0].tolist() == rows.tolist()


def test_matched_lengths_are_distributed_as_those_of_the_domain() -> None:
    medical = load_bundle("medical")
    lengths, domain = medical.pool.tokens, medical.dev.tokens
    part = medical.split("test")
    distances = {name: [] for name in DRAWN}
    for name in DRAWN:
        for seed in range(10):
            rng = np.random.default_rng(seed)
            rows, _ = make_selector(name).select(medical, 40, rng, part)
            distances[name].append(ks_2samp(lengths[rows], domain).statistic)
    assert max(distances["length-matched"]) < min(distances["random"])
    assert np.mean(distances["length-matched"]) < 0.15


def test_matched_lengths_have_one_pick_in_each_share_of_the_domain(
    bundle: Bundle,
) -> None:
    edges = np.quantile(bundle.dev.tokens, np.linspace(0, 1, 9), method="inverted_cdf")
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rows, _ = make_selector("length-matched").select(bundle, 8, rng)
        lengths = np.sort(bundle.pool.tokens[rows])
        # Nearly every length is in the pool; one token to spare for those that are not.
        assert (lengths >= edges[:-1] - 1).all()
        assert (lengths <= edges[1:] + 1).all()


def test_a_single_matched_pick_is_any_of_the_nearest(bundle: Bundle) -> None:
    tokens, domain = bundle.pool.tokens, bundle.dev.tokens
    short = np.flatnonzero(tokens < 20)[:3]
    long = np.flatnonzero(tokens > 100)[:3]
    rng = np.random.default_rng(0)
    selector = make_selector("length-matched")
    slate = np.concatenate([short, long])
    rows = [selector.select(bundle, 1, rng, slate)[0][0] for _ in range(600)]
    nearest = [slate[np.abs(tokens[slate] - length).argmin()] for length in domain]
    expected = np.isin(nearest, short).mean()
    # Four standard deviations of a binomial either way.
    assert abs(np.isin(rows, short).mean() - expected) < 4 * 0.5 / np.sqrt(600)
    same = np.flatnonzero(tokens == np.bincount(tokens).argmax())
    selected = [selector.select(bundle, 1, rng, same)[0][0] for _ in range(100)]
    assert set(selected) == set(same.tolist())


def test_oracle_scores_are_the_rewards_of_its_picks(
    bundle_folder: Path, bundle: Bundle
) -> None:
    weights = {"conflict": 1.0, "information": 0.5}
    order, scores = OracleSelector(weights).select(
        bundle, 12, np.random.default_rng(0), np.arange(0, 480, 5)
    )
    env = gymnasium.make(
        "OGS-Custom-v0",
        bundle=str(bundle_folder),
        slate_size=12,
        num_slates=1,
        budget=12,
        reward_weights=weights,
    )
    env.reset(options={"indices": order})
    for place, score in enumerate(scores):
        _, reward, _, _, info = env.step(place)
        assert reward == pytest.approx(score, abs=1e-3)
        all_weights = selection_env(env).reward_weights
        assert reward == weighted_sum(terms_of(info), all_weights)


def test_oracle_takes_the_best_first_pick(bundle_folder: Path, bundle: Bundle) -> None:
    rows = np.arange(3, 480, 40)
    order, _ = OracleSelector().select(bundle, 1, np.random.default_rng(0), rows)
    env = gymnasium.make(
        "OGS-Custom-v0",
        bundle=str(bundle_folder),
        slate_size=12,
        num_slates=1,
        budget=1,
    )
    rewards = []
    for place in range(len(rows)):
        env.reset(options={"indices": rows})
        rewards.append(env.step(place)[1])
    assert order[0] == rows[np.argmax(rewards)]


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="unknown selector 'radnom'; did you mean ran"):
        make_selector("radnom")


def test_less_of_unknown_sketches_is_refused() -> None:
    with pytest.raises(InputError, match="unknown sketches 'trajectorie'; did you"):
        LessSelector("trajectorie")
