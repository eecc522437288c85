"""Selectors whose picks depend on each other, against slow reference versions."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from helpers.edited_bundle import Columns, edited
from helpers.make_bundle import make_bundle
from scipy.optimize import minimize_scalar, nnls

from ogs_env.agents.baselines import craig, grad_match
from ogs_env.agents.baselines.craig import lazy_greedy, similarities
from ogs_env.agents.baselines.gradients import in_parts, pursue
from ogs_env.agents.selector import make_selector
from ogs_env.bundle import Bundle, load_bundle
from ogs_env.episode_rewards import Information


def select(
    bundle: Bundle, name: str, budget: int, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return make_selector(name).select(bundle, budget, np.random.default_rng(0), rows)


def gradients(bundle: Bundle, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    start = bundle.pool.sketches("initial", rows).astype(np.float64)
    return start, bundle.dev.sketches("initial").astype(np.float64).mean(axis=0)


def some_rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(480, count, replace=False)


def test_greats_is_greedy_on_the_second_order_gain(bundle: Bundle) -> None:
    rows, budget = some_rows(60), 12
    start, domain = gradients(bundle, rows)
    first = sorted(range(60), key=lambda i: -(start[i] @ domain))[:budget]
    total = sum(start[i] for i in first)

    def loss(rate: float) -> float:
        return -rate * total @ domain + rate**2 * total @ total / 2

    rate = minimize_scalar(loss).x
    picks: list[int] = []
    scores = []
    for _ in range(budget):
        gains = {
            i: start[i] @ domain - rate * sum(start[i] @ start[j] for j in picks)
            for i in range(60)
            if i not in picks
        }
        picks.append(max(gains, key=gains.__getitem__))
        scores.append(gains[picks[-1]])
    selected, own = select(bundle, "greats", budget, rows)
    assert selected.tolist() == rows[picks].tolist()
    np.testing.assert_allclose(own, scores, rtol=1e-3)
    assert set(picks) != set(first)
    assert select(bundle, "greats", 1, rows)[0][0] == rows[first[0]]


def test_greats_without_gains_picks_the_highest_products(
    opposed: tuple[Bundle, np.ndarray],
) -> None:
    bundle, rows = opposed
    start, domain = gradients(bundle, rows)
    selected, scores = select(bundle, "greats", 5, rows)
    assert scores.max() < 0
    assert selected.tolist() == rows[np.argsort(-(start @ domain))[:5]].tolist()


def slow_pursuit(
    atoms: np.ndarray, target: np.ndarray, most: int, ridge: float
) -> tuple[list[int], list[float]]:
    """Orthogonal matching pursuit with scipy's non-negative least squares."""
    n = len(atoms)
    picks: list[int] = []
    products: list[float] = []
    residual = target
    while len(picks) < min(most, n):
        correlations = {i: atoms[i] @ residual for i in range(n) if i not in picks}
        best = max(correlations, key=correlations.__getitem__)
        if correlations[best] <= 1e-6 * (products[0] if products else 0):
            break
        picks.append(best)
        products.append(correlations[best])
        tall = np.vstack([atoms[picks].T, np.sqrt(ridge) * np.eye(len(picks))])
        weights, _ = nnls(tall, np.append(target, np.zeros(len(picks))))
        residual = target - weights @ atoms[picks]
    return picks, products


@pytest.mark.parametrize("ridge", [1e-3, 0.5, 20.0])
@pytest.mark.parametrize("seed", range(4))
def test_pursuit_equals_scipys(ridge: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(40, 12)).astype(np.float32)
    atoms *= np.exp(rng.normal(size=(40, 1))).astype(np.float32)
    target = rng.normal(size=12).astype(np.float32)
    places, products = pursue(atoms, target, 12, ridge)
    expected, inner = slow_pursuit(atoms.astype(float), target, 12, ridge)
    assert places == expected
    np.testing.assert_allclose(products, inner, rtol=1e-3, atol=1e-5)


def test_a_pursuit_that_stops_early_has_optimal_weights() -> None:
    rng = np.random.default_rng(5)
    atoms = rng.normal(size=(8, 30)).astype(np.float32)
    target = atoms[0] + 2 * atoms[1] - atoms[2] + rng.normal(size=30)
    ridge = 0.1
    places, _ = pursue(atoms, target.astype(np.float32), 8, ridge)
    assert len(places) < 8

    def least(of: list[int]) -> float:
        tall = np.vstack([atoms[of].T, np.sqrt(ridge) * np.eye(len(of))])
        return nnls(tall, np.append(target, np.zeros(len(of))))[1]

    assert least(places) == pytest.approx(least(list(range(8))), rel=1e-6)


def test_pursuit_without_positive_products_picks_nothing() -> None:
    atoms = np.eye(3, dtype=np.float32)
    assert pursue(atoms, np.array([-1, -2, 0], np.float32), 3, 0.1) == ([], [])


def test_pursuit_ties_go_to_the_earlier_atom() -> None:
    atoms = np.array([[0, 1], [2, 0], [2, 0]], np.float32)
    places, products = pursue(atoms, np.array([3, 1], np.float32), 3, 1.0)
    # The weight of the first is 6 / 5; 3 / 5 of the target is then left there.
    assert places == [1, 2, 0]
    np.testing.assert_allclose(products, [6, 1.2, 1], rtol=1e-6)


def slow_match(bundle: Bundle, rows: np.ndarray, budget: int) -> list[int]:
    """Repeated pursuits over the remaining candidates; then the rest."""
    ridge = 0.5 * np.square(bundle.pool.norms.astype(float)).mean()
    order: list[int] = []
    remaining = rows.tolist()
    while len(order) < budget:
        start, domain = gradients(bundle, np.array(remaining))
        most = min(budget - len(order), bundle.k)
        places, _ = slow_pursuit(start, domain, most, ridge)
        if not places:
            agreeing = sorted(range(len(remaining)), key=lambda i: -(start[i] @ domain))
            places = agreeing[: budget - len(order)]
        order += [remaining[place] for place in places]
        remaining = [row for row in remaining if row not in order]
    return order


@pytest.mark.parametrize(("count", "budget"), [(16, 3), (16, 16), (70, 30)])
def test_gradient_matching_is_a_pursuit_of_the_domain(
    bundle: Bundle, count: int, budget: int
) -> None:
    rows = some_rows(count, seed=budget)
    order, scores = select(bundle, "grad-match", budget, rows)
    assert order.tolist() == slow_match(bundle, rows, budget)
    start, domain = gradients(bundle, order[:1])
    assert scores[0] == pytest.approx(start[0] @ domain, rel=1e-5)


def test_a_new_pursuit_begins_after_as_many_picks_as_dimensions(
    tmp_path: Path,
) -> None:
    narrow = load_bundle(make_bundle(tmp_path / "narrow", k=6, d=4, checkpoints=0))
    rows = some_rows(60)
    order, _ = select(narrow, "grad-match", 25, rows)
    assert order.tolist() == slow_match(narrow, rows, 25)
    remaining = np.setdiff1d(rows, order[:6], assume_unique=True)
    second_order, _ = select(narrow, "grad-match", 6, remaining)
    assert order[6:12].tolist() == second_order.tolist()


@pytest.fixture(scope="module")
def opposed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, np.ndarray]:
    """A bundle, and rows whose gradients oppose the domain's."""

    def turn_some(columns: Columns) -> None:
        columns["initial"][100:140] *= -1

    bundle = edited(tmp_path_factory.mktemp("opposed") / "bundle", turn_some)
    rows = np.arange(100, 140)
    start, domain = gradients(bundle, rows)
    assert (start @ domain).max() < 0
    return bundle, rows


def test_highest_products_fill_the_budget(
    opposed: tuple[Bundle, np.ndarray],
) -> None:
    bundle, rows = opposed
    start, domain = gradients(bundle, rows)
    least_first = rows[np.argsort(-(start @ domain))]
    order, scores = select(bundle, "grad-match", 6, rows)
    assert order.tolist() == least_first[:6].tolist()
    assert scores.max() < 0
    mixed = np.append(rows, np.arange(140, 150))
    order, _ = select(bundle, "grad-match", 14, mixed)
    assert order.tolist() == slow_match(bundle, mixed, 14)
    assert set(range(140, 150)) < set(order.tolist())


@pytest.mark.parametrize(
    ("rows", "budget", "parts"), [(10, 10, 3), (11, 5, 4), (9, 2, 5), (7, 3, 1)]
)
def test_parts_are_interleaved_and_share_the_budget(
    bundle: Bundle, rows: int, budget: int, parts: int
) -> None:
    calls = []
    row_of = {s.tobytes(): n for n, s in enumerate(bundle.pool.sketches("initial"))}

    def choose(sketches: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        part = [row_of[sketch.tobytes()] for sketch in sketches]
        calls.append((part, count))
        places = np.arange(len(part))[::-1][:count]
        return places, np.array(part, np.float32)[places]

    candidates = np.arange(100, 100 + rows)
    order, scores = in_parts(bundle, candidates, budget, parts, choose)
    assert len(order) == budget == len(set(order.tolist()))
    assert order.tolist() == scores.tolist()
    assert [part for part, _ in calls] == [
        list(range(100 + p, 100 + rows, parts)) for p in range(min(parts, budget))
    ]
    counts = [count for _, count in calls]
    assert sum(counts) == budget
    assert max(counts) - min(counts) <= 1
    # First picks of all parts, best first, then the second picks.
    ranks = [part[::-1].index(row) for row in order for part, _ in calls if row in part]
    assert ranks == sorted(ranks)
    for rank in set(ranks):
        assert (np.diff(order[np.array(ranks) == rank]) < 0).all()


def test_pgm_is_gradient_matching_in_each_partition(bundle: Bundle) -> None:
    rows = some_rows(200)
    order, scores = select(bundle, "pgm", 30, rows)
    expected: dict[int, set[int]] = {}
    for part, share in enumerate((8, 8, 7, 7)):
        for rank, row in enumerate(slow_match(bundle, rows[part::4], share)):
            expected.setdefault(rank, set()).add(row)
    for rank, expected_rows in expected.items():
        assert (
            set(order[4 * rank : 4 * rank + len(expected_rows)].tolist())
            == expected_rows
        )
        assert (np.diff(scores[4 * rank : 4 * rank + len(expected_rows)]) <= 0).all()
    selected, expected = (
        select(bundle, n, 3, rows[:16]) for n in ("pgm", "grad-match")
    )
    for one, other in zip(selected, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_grad_match_splits_many_candidates(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grad_match, "_WHOLE", 100)
    monkeypatch.setattr(grad_match, "_PART", 40)
    rows = some_rows(100)
    order, _ = select(bundle, "grad-match", 9, rows)
    assert order.tolist() == slow_match(bundle, rows, 9)
    rows = some_rows(101)
    order, _ = select(bundle, "grad-match", 9, rows)
    expected = [slow_match(bundle, rows[part::3], 3) for part in range(3)]
    for rank in range(3):
        picked = set(order[3 * rank : 3 * rank + 3].tolist())
        assert picked == {part[rank] for part in expected}
    start, domain = gradients(bundle, rows)
    assert select(bundle, "grad-match", 1, rows)[0] == rows[(start @ domain).argmax()]


def test_pgm_leaves_no_candidate_out_of_a_small_budget(bundle: Bundle) -> None:
    rows = some_rows(400)
    start, domain = gradients(bundle, rows)
    best = rows[(start @ domain).argmax()]
    for budget in (1, 2, 5):
        assert select(bundle, "pgm", budget, rows)[0][0] == best


def facility(near: np.ndarray, of: tuple[int, ...]) -> float:
    return float(near[:, of].max(axis=1).sum())


def test_similarities_are_largest_distance_less_distance(bundle: Bundle) -> None:
    start, _ = gradients(bundle, some_rows(12))
    distances = np.array([[np.linalg.norm(a - b) for b in start] for a in start])
    near, unit = similarities(start.astype(np.float32))
    np.testing.assert_allclose(near * unit, distances.max() - distances, atol=unit)
    assert (near == np.rint(near)).all()
    assert (near.min(), near.max()) == (0, near[3, 3])
    for one in (start[:1], start[[2, 2]]):
        same, _ = similarities(one.astype(np.float32))
        assert (same == near[3, 3]).all()


@pytest.mark.parametrize("seed", range(3))
def test_lazy_greedy_is_greedy(seed: int) -> None:
    near, _ = similarities(np.random.default_rng(seed).normal(size=(30, 4)))
    places, gains = lazy_greedy(near, 15)
    picks: tuple[int, ...] = ()
    for place, gain in zip(places, gains, strict=True):
        before = facility(near, picks) if picks else 0
        gains_by_place = {
            i: facility(near, (*picks, i)) - before for i in range(30) if i not in picks
        }
        assert place == max(gains_by_place, key=gains_by_place.__getitem__)
        assert gain == gains_by_place[place]
        picks += (place,)
    assert (np.diff(gains) <= 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_greedy_reaches_its_bound(seed: int) -> None:
    near, _ = similarities(np.random.default_rng(seed).normal(size=(11, 3)))
    best = max(facility(near, of) for of in itertools.combinations(range(11), 4))
    places, gains = lazy_greedy(near, 4)
    assert (1 - 1 / np.e) * best <= facility(near, tuple(places)) <= best
    assert sum(gains) == facility(near, tuple(places))


def test_lazy_greedy_ties_go_to_the_earlier() -> None:
    blocks = np.kron(np.eye(3), np.ones((2, 2)))
    assert lazy_greedy(blocks, 6) == ([0, 2, 4, 1, 3, 5], [2.0, 2.0, 2.0, 0, 0, 0])


def test_craig_is_facility_location_over_initial_sketches(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = some_rows(120)

    def by_hand(part: np.ndarray, budget: int) -> list[int]:
        near, _ = similarities(bundle.pool.sketches("initial", part))
        return part[lazy_greedy(near, budget)[0]].tolist()

    assert select(bundle, "craig", 9, rows)[0].tolist() == by_hand(rows, 9)
    monkeypatch.setattr(craig, "_BLOCK", 50)
    order, _ = select(bundle, "craig", 9, rows)
    expected = [by_hand(rows[part::3], 3) for part in range(3)]
    for rank in range(3):
        selected = set(order[3 * rank : 3 * rank + 3].tolist())
        assert selected == {part[rank] for part in expected}


def test_information_is_the_gain_of_the_log_determinant(bundle: Bundle) -> None:
    rows, budget = some_rows(40), 15
    start, _ = gradients(bundle, rows)
    units = start / np.linalg.norm(start, axis=1, keepdims=True)

    def log_determinant(of: list[int]) -> float:
        return np.linalg.slogdet(np.eye(64) + units[of].T @ units[of])[1]

    order, scores = select(bundle, "information", budget, rows)
    places = [rows.tolist().index(row) for row in order]
    assert places[0] == 0
    for pick in range(1, budget):
        gains = {
            i: log_determinant([*places[:pick], i]) - log_determinant(places[:pick])
            for i in range(40)
            if i not in places[:pick]
        }
        assert scores[pick] == pytest.approx(max(gains.values()), abs=1e-5)
        assert gains[places[pick]] == pytest.approx(max(gains.values()), abs=1e-5)
    assert scores[0] == pytest.approx(np.log(2))


def test_information_is_the_reward_term(bundle: Bundle) -> None:
    order, scores = select(bundle, "information", 100, np.arange(480))
    term = Information(bundle.k, 100)
    start = bundle.pool.sketches("initial", order)
    units = start / np.linalg.norm(start, axis=1, keepdims=True)
    np.testing.assert_allclose(scores, [term.pick(u) for u in units], atol=1e-5)
    assert (np.diff(scores) <= 1e-6).all()
