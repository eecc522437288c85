import copy
import pickle
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from helpers.infos import rows_in, terms_of
from helpers.make_bundle import make_bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from ogs_env.bundle import Bundle, load_bundle
from ogs_env.envs import observations, selection
from ogs_env.envs.base import INVALID_ACTION_PENALTY
from ogs_env.envs.observations import Candidates
from ogs_env.envs.selection import SelectionEnv
from ogs_env.errors import InputError
from ogs_env.learners.surrogate import SurrogateLearner
from ogs_env.learners.tables import tables_of
from ogs_env.rewards import DEFAULT_WEIGHTS, NO_PICK, weighted_sum
from ogs_env.rows import Rows

INFO_KEYS = {
    "action_mask",
    *NO_PICK,
    "cost",
    "picks",
    "invalid_action",
    "domain_loss",
    "selection",
    "test_change",
    "retention_change",
    "answers_change",
}


def make(folder: Path, **kwargs: Any) -> SelectionEnv:
    return SelectionEnv(str(folder), **kwargs)


@pytest.fixture
def env(bundle_folder: Path) -> SelectionEnv:
    return make(bundle_folder, slate_size=4, num_slates=6, budget=5)


def test_a_context_is_computed_without_an_environment(env: SelectionEnv) -> None:
    env.reset(seed=0)
    candidates = observations.candidates(env.bundle, "initial")
    for action in (0, 4, 1, 2, 4, 3):
        picks, before = len(env.picked), env.observation()["context"]
        context = candidates.context(
            candidates.rows(np.array(env.picked, np.int64))[0],
            budget_left=1 - picks / 5,
            slates_left=(5 - env.slate_number) / 6,
            share=min(
                (5 - picks) / (24 - 4 * env.slate_number - (env.slate < 0).sum()), 1
            ),
        )
        np.testing.assert_allclose(before, context, atol=1e-6)
        env.step(action)


# Episodes.


@pytest.mark.parametrize("pool", [20, 64, 300, 480, 1200])
def test_an_episode_fits_a_small_pool(tmp_path: Path, pool: int) -> None:
    folder = make_bundle(tmp_path / "small", pool=pool)
    train, test = (make(folder, split=split) for split in ("train", "test"))
    for env in (train, test):
        check_env(env, skip_render_check=True)
    counts = test.slate_size, test.num_slates, test.budget
    assert counts == (train.slate_size, train.num_slates, train.budget)
    stream, least = test.slate_size * test.num_slates, len(test.bundle.split("test"))
    assert stream <= least
    assert stream == 256 or stream > least - test.slate_size
    assert test.num_slates >= 4
    assert test.slate_size == 16 or least < 64
    assert test.budget == max(1, round(stream * 3 / 16))
    assert make(folder, num_slates=2).budget == max(1, round(test.slate_size * 3 / 8))


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    seed=st.integers(0, 1000),
    budget=st.integers(1, 20),
    order=st.sampled_from(["blocks", "mixed"]),
    observe=st.sampled_from(["initial", "trajectory"]),
)
def test_any_valid_episode(
    bundle_folder: Path,
    data: st.DataObject,
    seed: int,
    budget: int,
    order: str,
    observe: str,
) -> None:
    weights = {"conflict": 2.0, "information": 0.3}
    env = make(
        bundle_folder,
        slate_size=4,
        num_slates=5,
        budget=budget,
        order=order,
        observe=observe,
        reward_weights=weights,
    )
    observation, info = env.reset(seed=seed)
    stream = env.stream.tolist()
    selection: list[int] = []
    costs: list[float] = []
    over = False
    while not over:
        assert env.observation_space.contains(observation)
        assert set(info) == INFO_KEYS
        assert info["picks"].shape == (1,)
        assert info["selection"].shape == (budget,)
        assert rows_in(info["selection"]) == []
        mask = env.action_masks()
        assert mask.dtype == bool
        assert mask[-1]
        np.testing.assert_array_equal(mask, info["action_mask"])
        np.testing.assert_array_equal(mask[:-1], observation["candidates"][:, -1])
        assert (observation["candidates"][~mask[:-1]] == 0).all()
        action = data.draw(st.sampled_from(np.flatnonzero(mask).tolist()))
        observation, reward, over, truncated, info = env.step(action)
        terms = terms_of(info)
        assert reward == weighted_sum(terms, DEFAULT_WEIGHTS["own"] | weights)
        assert (info["cost"], env.cost_answers) == (terms["forgetting"], "own")
        costs.append(info["cost"])
        assert sum(costs) >= -1e-9
        assert np.isfinite([reward, *terms.values()]).all()
        assert not truncated
        assert not info["invalid_action"]
        if action == env.slate_size:
            assert (reward, rows_in(info["picks"])) == (0, [])
        else:
            (row,) = rows_in(info["picks"])
            selection.append(row)
    assert env.observation_space.contains(observation)
    assert rows_in(info["selection"]) == selection
    assert len(set(selection)) == len(selection) <= budget
    assert len(selection) == budget or env.slate_number == env.slates_in_stream - 1
    assert set(selection) <= set(stream)
    names = [f"{i:016x}" for i in env.bundle.pool.ids[selection].tolist()]
    assert env.sample_ids(info["selection"]) == names
    # Losses that no reward is about, from a separate learner.
    learner = SurrogateLearner(env.bundle)
    test, retention = learner.test_loss(), learner.retention_loss()
    own, answers_before = learner.answer_losses(), learner.answers_loss()
    for row in env.picked:
        learner.update(row)
    forgotten = 100 * (learner.answer_losses() - own) / own
    assert sum(costs) == pytest.approx(forgotten.max(), abs=1e-4)
    answers_change = 100 * (learner.answers_loss() - answers_before) / answers_before
    assert info["answers_change"] == pytest.approx(answers_change, abs=1e-3)
    assert (info["answers_change"] > 0) == (len(selection) > 0)
    test_change = 100 * (learner.test_loss() - test) / test
    retention_change = 100 * (learner.retention_loss() - retention) / retention
    assert info["test_change"] == pytest.approx(test_change, abs=1e-3)
    assert info["retention_change"] == pytest.approx(retention_change, abs=1e-3)


def test_without_own_answers_the_cost_is_of_reference_answers(
    folder_without_answers: Path,
) -> None:
    env = make(folder_without_answers, slate_size=4, num_slates=6, budget=8)
    env.reset(seed=0)
    over, costs = False, []
    while not over:
        _, reward, over, _, info = env.step(int(env.action_masks().argmax()))
        terms = terms_of(info)
        assert (info["cost"], env.cost_answers) == (terms["conflict"], "reference")
        assert terms["forgetting"] == info["answers_change"] == 0
        assert reward == terms["domain_gain"] + terms["anchor_gain"]
        costs.append(info["cost"])
    learner = SurrogateLearner(env.bundle)
    before = learner.anchor_losses()
    learner.update_many(env.picked)
    rises = 100 * (learner.anchor_losses() - before) / before
    assert sum(costs) == pytest.approx(max(0, rises.max()), abs=1e-6)
    assert max(costs) > 0


def test_any_order_of_a_selection_gives_the_same_return(bundle_folder: Path) -> None:
    env = make(bundle_folder, slate_size=12, num_slates=1, budget=10)
    env.reset(seed=0)
    stream, returns, costs = env.stream, [], []
    rng = np.random.default_rng(0)
    places = rng.choice(12, 10, replace=False)
    for _ in range(6):
        env.reset(options={"indices": stream})
        results = [env.step(int(place)) for place in rng.permutation(places)]
        assert results[-1][2]
        returns.append(sum(result[1] for result in results))
        costs.append(sum(result[4]["cost"] for result in results))
    np.testing.assert_allclose(returns, returns[0], rtol=1e-6)
    np.testing.assert_allclose(costs, costs[0], rtol=1e-6)
    assert costs[0] > 0


@pytest.mark.parametrize("observe", ["initial", "trajectory"])
def test_observation_against_plain_formulas(
    bundle_folder: Path, bundle: Bundle, observe: str
) -> None:
    env = make(bundle_folder, slate_size=4, num_slates=6, budget=8, observe=observe)
    env.reset(seed=3)
    for action in (0, 2, 2, 4, 1):
        observation, *_ = env.step(action)
    picks = env.picked
    assert len(picks) == 4  # the second 2 was invalid
    pool = bundle.pool

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    def in_basis(x: np.ndarray) -> np.ndarray:
        blocks = x.reshape(len(x), -1, bundle.k).mean(axis=1)
        return unit(blocks) @ bundle.basis

    units = unit(pool.sketches(observe))
    domain = unit(bundle.dev.sketches(observe).mean(0))
    anchor = bundle.anchor.sketches(observe)
    of = bundle.anchor.capabilities
    anchors = np.stack([unit(anchor[of == n].mean(0)) for n in range(2)])
    worst = (units @ anchors.T).min(axis=1)

    def scalars(rows: Rows) -> np.ndarray:
        columns = [np.log(rows.norms), rows.losses, np.log(rows.tokens)]
        of = zip(columns, *bundle.scales, strict=True)
        return np.stack([(x - mean) / deviation for x, mean, deviation in of], 1)

    table = np.column_stack(
        [
            in_basis(units),
            units @ domain,
            worst,
            scalars(pool),
            (units @ units[picks].T).max(axis=1),
            np.ones(len(pool)),
        ]
    )
    expected = np.where(env.slate[:, None] >= 0, table[env.slate], 0)
    np.testing.assert_allclose(observation["candidates"], expected, atol=2e-4)
    context = np.concatenate(
        [
            in_basis(np.stack([domain, anchors.mean(0)])).ravel(),
            in_basis(units[picks]).mean(0),
            [4 / 8, 4 / 6, (units @ domain)[picks].mean(), worst[picks].mean()],
            [4 / (3 + 16)],  # three in this slate, four slates after it
            scalars(bundle.dev).mean(0),
        ]
    )
    np.testing.assert_allclose(observation["context"], context, atol=2e-4)


def test_nearest_pick_follows_every_pick_from_one_slate(env: SelectionEnv) -> None:
    d = env.bundle.basis.shape[1]
    for seed in range(10):
        observation, _ = env.reset(seed=seed)
        assert (observation["candidates"][:, d + 5] == 0).all()
        units = env.bundle.pool.sketches("initial", env.slate)
        units /= np.linalg.norm(units, axis=1, keepdims=True)
        cosines = units @ units.T
        for count in (1, 2, 3):
            observation, *_ = env.step(count - 1)
            nearest = cosines[count:, :count].max(axis=1)
            similarities = observation["candidates"][count:, d + 5]
            np.testing.assert_allclose(similarities, nearest, atol=1e-5)


def test_skipping_deals_the_next_slate_and_then_ends(env: SelectionEnv) -> None:
    env.reset(seed=0)
    for slate in range(1, 6):
        observation, reward, over, _, info = env.step(4)
        assert (reward, over, rows_in(info["picks"])) == (0, False, [])
        expected = env.stream[4 * slate : 4 * slate + 4]
        np.testing.assert_array_equal(env.slate, expected)
        assert observation["context"][-7] == pytest.approx((5 - slate) / 6)
    _, _, over, truncated, info = env.step(4)
    assert (over, truncated, rows_in(info["selection"])) == (True, False, [])
    assert info["test_change"] == info["retention_change"] == 0


def test_an_empty_slate_is_followed_by_the_next(env: SelectionEnv) -> None:
    env.reset(seed=0)
    for place in range(4):
        _, _, over, _, info = env.step(place)
    assert not over
    assert env.slate_number == 1
    assert info["action_mask"].all()
    *_, over, _, info = env.step(3)  # the fifth pick spends the budget
    assert over
    assert len(rows_in(info["selection"])) == 5


def test_the_episode_ends_when_the_last_slate_is_empty(bundle_folder: Path) -> None:
    env = make(bundle_folder, slate_size=2, num_slates=1, budget=2)
    env.reset(seed=0)
    assert not env.step(0)[2]
    assert env.step(1)[2]


@pytest.mark.parametrize("fill", [False, True])
def test_an_invalid_action_picks_the_nearest_and_costs(
    bundle_folder: Path, fill: bool
) -> None:
    sizes = {"slate_size": 5, "num_slates": 6, "budget": 9}
    invalid, valid = (make(bundle_folder, fill=fill, **sizes) for _ in range(2))
    for env in (invalid, valid):
        env.reset(seed=0)
    # A policy that always picks at place 2 picks at 1 and 3, of which 1 is the first,
    # then at 0 and 4, and then from the next slate.
    for number, place in enumerate([2, 1, 3, 0, 4, 2, 1, 3, 0]):
        observation, reward, *ends, info = invalid.step(2)
        expected, reward_of_valid, *expected_ends, expected_info = valid.step(place)
        assert reward == reward_of_valid - INVALID_ACTION_PENALTY * (place != 2)
        assert info.pop("invalid_action") == (place != 2)
        assert expected_info.pop("invalid_action") == 0
        assert data_equivalence(observation, expected, exact=True)
        assert data_equivalence(info, expected_info, exact=True)
        assert ends == expected_ends == [number == 8, False]
    with pytest.raises(gymnasium.error.ResetNeeded):
        invalid.step(2)
    assert data_equivalence(invalid.reset(seed=1), valid.reset(seed=1), exact=True)


def test_actions_outside_the_space_are_refused(env: SelectionEnv) -> None:
    env.reset(seed=0)
    for action in (-1, 5):
        with pytest.raises(InputError, match=f"action {action}: expected 0 to 4"):
            env.step(action)


def test_stepping_needs_a_running_episode(bundle_folder: Path) -> None:
    env = make(bundle_folder, slate_size=2, num_slates=1, budget=1)
    for _ in range(2):
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(0)
        env.reset(seed=0)
        env.step(0)


def test_observations_are_copies(env: SelectionEnv) -> None:
    observation, info = env.reset(seed=0)
    expected = copy.deepcopy((observation, info))
    env.step(0)
    assert data_equivalence((observation, info), expected, exact=True)


# Streams.


def test_streams_stay_in_their_split(bundle_folder: Path, bundle: Bundle) -> None:
    for split in ("train", "test", "all"):
        env = make(bundle_folder, split=split, slate_size=8, num_slates=8, budget=8)
        part = set(bundle.split(split).tolist())
        for seed in range(5):
            env.reset(seed=seed)
            stream = env.stream.tolist()
            assert len(set(stream)) == len(stream) == 64
            assert set(stream) <= part


def test_blocks_deal_runs_of_one_source_and_mixed_does_not(
    bundle_folder: Path, bundle: Bundle
) -> None:
    def mean_share(order: str) -> float:
        env = make(bundle_folder, order=order)
        shares = []
        for seed in range(20):
            env.reset(seed=seed)
            of = bundle.pool.sources[env.stream].reshape(env.num_slates, env.slate_size)
            shares += [np.bincount(slate).max() / env.slate_size for slate in of]
        return float(np.mean(shares))

    assert mean_share("mixed") < 0.45
    assert 0.65 < mean_share("blocks") < 0.85


def test_blocks_come_in_random_order(bundle_folder: Path, bundle: Bundle) -> None:
    env = make(bundle_folder)
    first = set()
    for seed in range(40):
        env.reset(seed=seed)
        first.add(np.bincount(bundle.pool.sources[env.slate]).argmax())
    assert first == {0, 1, 2, 3, 4}


def test_given_candidates_are_dealt_in_order(env: SelectionEnv) -> None:
    rows = [7, 300, 2, 479, 0, 11, 12, 13, 14]
    env.reset(options={"indices": rows})
    assert env.slate.tolist() == rows[:4]
    env.step(4)
    assert env.slate.tolist() == rows[4:8]
    observation, *_, info = env.step(4)
    assert env.slate.tolist() == [14, -1, -1, -1]
    assert info["action_mask"].tolist() == [1, 0, 0, 0, 1]
    assert (observation["candidates"][1:] == 0).all()
    assert observation["context"][-7] == 0
    assert env.step(4)[2]


def test_the_observed_budget_per_remaining_candidate(
    env: SelectionEnv,
) -> None:
    shares = [env.reset(options={"indices": range(11)})[0]["context"][-4]]
    for action in (0, 1, 4, 1, 4, 0):
        shares.append(env.step(action)[0]["context"][-4])
    # The last slate is of three.
    expected = [5 / 11, 4 / 10, 3 / 9, 3 / 7, 2 / 6, 2 / 3, 1 / 2]
    np.testing.assert_allclose(shares, expected, rtol=1e-6)
    env.reset(options={"indices": range(7)})
    assert env.step(4)[0]["context"][-4] == 1  # five picks left, three candidates
    assert env.reset(seed=0)[0]["context"][-4] == np.float32(5 / 24)


def test_domain_statistics_are_the_same_in_every_observation(
    env: SelectionEnv,
) -> None:
    first = env.reset(seed=0)[0]["context"][-3:]
    for action in (0, 4, 2):
        observation, *_ = env.step(action)
        np.testing.assert_array_equal(observation["context"][-3:], first)
    np.testing.assert_array_equal(env.reset(seed=1)[0]["context"][-3:], first)


def test_an_episode_is_replayed_by_its_stream(env: SelectionEnv) -> None:
    actions = [0, 4, 2, 4, 1, 3]
    first = [env.reset(seed=9)[0], *[env.step(a)[:4] for a in actions]]
    stream = env.stream
    repeated = [
        env.reset(options={"indices": stream})[0],
        *[env.step(a)[:4] for a in actions],
    ]
    assert data_equivalence(first, repeated, exact=True)


def test_the_whole_pool_is_one_stream(bundle_folder: Path, bundle: Bundle) -> None:
    size = len(bundle.pool)
    env = make(
        bundle_folder, split="all", slate_size=7, num_slates=-(-size // 7), budget=9
    )
    env.reset(options={"indices": np.arange(size)})
    over, slates = False, 0
    while not over:
        over = env.step(7)[2]
        slates += 1
    assert slates == env.num_slates == env.slates_in_stream


# Observations.


def test_a_bundle_without_trajectory_uses_initial_sketches(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "initial", checkpoints=0)
    env = make(folder)
    env.reset(seed=0)
    assert tables_of(env.bundle).kind == "initial"
    assert env.step(0)[1] != 0
    with pytest.raises(
        InputError, match="has no trajectory sketches for observe='trajectory'"
    ):
        make(folder, observe="trajectory")


def test_observations_need_no_trajectory_sketches(bundle_folder: Path) -> None:
    kinds: list[str] = []
    rows = type(load_bundle(bundle_folder).pool)
    original = rows.sketches

    def sketches(self: Any, kind: str, indices: Any = None) -> Any:
        kinds.append(kind)
        return original(self, kind, indices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "sketches", sketches)
        Candidates(load_bundle(bundle_folder), "initial")
    assert set(kinds) == {"initial"}


def test_sketches_read_on_demand_give_equal_observations(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = make(bundle_folder, observe="trajectory")
    monkeypatch.setattr(observations, "_PREPARED_ROWS", 0)
    monkeypatch.setattr(selection, "candidates", Candidates)
    on_demand = make(bundle_folder, observe="trajectory")
    for action in (None, 0, 3, 16, 5):
        results = [
            env.reset(seed=4) if action is None else env.step(action)
            for env in (prepared, on_demand)
        ]
        for key in ("candidates", "context"):
            a, b = (result[0][key] for result in results)
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_information_is_computed_where_it_has_a_weight(bundle_folder: Path) -> None:
    plain = make(bundle_folder)
    weighted = make(bundle_folder, reward_weights={"information": 0.5})
    for env in (plain, weighted):
        env.reset(seed=0)
    for action in (0, 3, 5):
        _, without, _, _, plain_info = plain.step(action)
        _, reward, _, _, info = weighted.step(action)
        assert plain_info["information"] == 0
        gain = info["information"]
        assert 0 < gain <= np.log(2) + 1e-6
        assert reward == pytest.approx(without + 0.5 * gain)


def test_a_selection_is_filled_at_random(bundle_folder: Path) -> None:
    shape = {"slate_size": 4, "num_slates": 6, "budget": 9}
    plain, filled = (
        gymnasium.make("OGS-Custom-v0", bundle=str(bundle_folder), fill=fill, **shape)
        for fill in (False, True)
    )
    ends = []
    for env in (plain, filled, filled):
        env.reset(seed=5)
        steps = [env.step(action) for action in (0, 2, 4, 1, *[4] * 5)]
        assert [step[2] for step in steps] == [False] * 8 + [True]
        ends.append((sum(step[1] for step in steps), steps[-1][4]))
    picks, selection, again = (rows_in(info["selection"]) for _, info in ends)
    assert len(picks) == 3
    assert selection[:3] == picks
    assert len(set(selection)) == 9
    assert set(selection) <= set(filled.unwrapped.stream.tolist())
    assert selection == again
    # The return is the value of the whole selection.
    learner = SurrogateLearner(filled.unwrapped.bundle)
    learner.update_many(np.array(selection))
    terms = filled.unwrapped.reward_weights
    before = SurrogateLearner(filled.unwrapped.bundle)
    gain = 100 * (1 - learner.domain_loss() / before.domain_loss())
    rise = 100 * (learner.answer_losses() / before.answer_losses() - 1)
    value = terms["domain_gain"] * gain - terms["forgetting"] * max(rise.max(), 0)
    assert ends[1][0] == pytest.approx(value, rel=1e-4, abs=1e-4)


def test_more_epochs_make_picks_stand_for_more(bundle_folder: Path) -> None:
    def losses(picks: int, epochs: float) -> float:
        env = gymnasium.make(
            "OGS-Custom-v0", bundle=str(bundle_folder), budget=16, epochs=epochs
        )
        env.reset(seed=0, options={"indices": list(range(32))})
        for place in range(picks):
            info = env.step(place)[4]
        return float(info["domain_loss"])

    usual = losses(8, 1)
    assert losses(8, 2) < usual
    # The bundle's own number of epochs is the default, and the bundle does not change.
    env = gymnasium.make("OGS-Custom-v0", bundle=str(bundle_folder), budget=16)
    assert env.unwrapped.bundle.manifest["learner"]["epochs"] == 1
    assert losses(8, 1) == usual
    copied = pickle.loads(
        pickle.dumps(
            gymnasium.make("OGS-Custom-v0", bundle=str(bundle_folder), epochs=5)
        )
    )
    assert copied.unwrapped.bundle.manifest["learner"]["epochs"] == 5


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"epochs": 0}, "epochs: 0; expected a number above 0"),
        ({"epochs": "3"}, "epochs: '3'; expected a number above 0"),
        ({"epochs": 3, "learner": "live"}, "epochs: given with learner='live'"),
    ],
)
def test_epochs_are_checked(bundle_folder: Path, kwargs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        gymnasium.make("OGS-Custom-v0", bundle=str(bundle_folder), **kwargs)
