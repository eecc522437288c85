import copy
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence
from helpers.infos import rows_in, terms_of
from helpers.make_bundle import make_bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from ogs_env.bundle import Bundle
from ogs_env.envs.base import INVALID_ACTION_PENALTY
from ogs_env.envs.mixture import MixtureEnv
from ogs_env.errors import InputError
from ogs_env.learners.surrogate import SurrogateLearner
from ogs_env.learners.tables import tables_of
from ogs_env.rewards import NO_PICK

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


@pytest.fixture
def env(bundle_folder: Path) -> MixtureEnv:
    return MixtureEnv(str(bundle_folder), clusters=5, batch=4, steps=6)


@pytest.fixture(params=["OGS-Custom-Mixture-v0", "OGS-Medical-Mixture-v0"])
def spec(request: pytest.FixtureRequest, bundle_folder: Path) -> EnvSpec:
    spec = copy.deepcopy(gymnasium.spec(request.param))
    if "Custom" in request.param:
        spec.kwargs["bundle"] = str(bundle_folder)
    return spec


def test_seeds_make_different_orders(spec: EnvSpec) -> None:
    env = gymnasium.make(spec).unwrapped
    orders = []
    for seed in (0, 1):
        env.reset(seed=seed)
        orders.append(rows_in(env.step(env.left.argmax())[4]["picks"]))
    assert orders[0] != orders[1]


def test_frames_have_the_history_of_the_episode(
    bundle_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*range(0, 480, 2)]
    env = MixtureEnv(str(bundle_folder), steps=4, render_mode="human")
    with pytest.raises(gymnasium.error.ResetNeeded, match="nothing to render"):
        env.render()
    for _ in range(2):  # the first episode leaves no state
        env.reset(options={"indices": rows})
        results = [env.step(env.left.argmax()) for _ in range(4)]
        assert env.over
        snapshot = env._history.snapshot()
        assert len(snapshot.losses) == 5
        assert snapshot.losses[-1, 0] == np.float32(results[-1][4]["domain_loss"])
        assert snapshot.episode_return == sum(result[1] for result in results)
        assert snapshot.cost == sum(result[4]["cost"] for result in results)
    assert env.render() is None
    frames = capsys.readouterr().out
    assert frames.count("batch 0 of 4") == frames.count("batch 4 of 4") == 2


# Episodes.


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    seed=st.integers(0, 1000),
    clusters=st.integers(1, 20),
    batch=st.integers(1, 12),
    steps=st.integers(1, 6),
    split=st.sampled_from(["train", "test", "all"]),
)
def test_any_episode(
    bundle_folder: Path,
    data: st.DataObject,
    seed: int,
    clusters: int,
    batch: int,
    steps: int,
    split: str,
) -> None:
    weights = {"conflict": 2.0, "information": 0.3, "anchor_gain": 0.7}
    env = MixtureEnv(
        str(bundle_folder),
        split=split,
        clusters=clusters,
        batch=batch,
        steps=steps,
        reward_weights=weights,
    )
    part = set(env.bundle.split(split).tolist())
    observation, info = env.reset(seed=seed)
    remaining = {n: {r for r in part if env.clusters[r] == n} for n in range(clusters)}
    assert rows_in(info["picks"]) == []
    selection: list[int] = []
    over, batches = False, 0
    while not over:
        assert env.observation_space.contains(observation)
        assert set(info) == INFO_KEYS
        assert info["picks"].shape == (batch,)
        assert info["selection"].shape == (batch * steps,)
        assert rows_in(info["selection"]) == []
        assert info["test_change"] == info["retention_change"] == 0
        assert info["answers_change"] == 0
        mask = env.action_masks()
        assert mask.dtype == bool
        assert info["action_mask"].dtype == np.int8
        np.testing.assert_array_equal(mask, info["action_mask"])
        assert mask.tolist() == [bool(remaining[n]) for n in range(clusters)]
        action = data.draw(st.integers(0, clusters - 1))
        observation, reward, over, truncated, info = env.step(action)
        terms = terms_of(info)
        expected = (
            terms["domain_gain"]
            + 0.7 * terms["anchor_gain"]
            - 2 * terms["conflict"]
            + 0.3 * terms["information"]
            - INVALID_ACTION_PENALTY * info["invalid_action"]
        )
        assert reward == pytest.approx(expected, abs=1e-12)
        assert (info["cost"], env.cost_answers) == (terms["forgetting"], "own")
        assert 0 <= terms["orthogonality"] <= 1
        assert np.isfinite([reward, *terms.values()]).all()
        assert not truncated
        assert info["invalid_action"] == (not remaining[action])
        cluster = action
        if not remaining[action]:
            cluster = max(remaining, key=lambda n: len(remaining[n]))
        rows = rows_in(info["picks"])
        assert len(rows) == len(set(rows)) == min(batch, len(remaining[cluster]))
        assert set(rows) <= remaining[cluster]
        remaining[cluster] -= set(rows)
        selection += rows
        batches += 1
    assert env.observation_space.contains(observation)
    assert batches == steps or (batches < steps and not any(remaining.values()))
    assert rows_in(info["selection"]) == selection
    ids = env.bundle.pool.hex_ids()
    assert env.sample_ids(info["selection"]) == [ids[row] for row in selection]
    assert len(set(selection)) == len(selection)


def test_any_episode_against_a_plain_loop(spec: EnvSpec) -> None:
    weights = {"information": 0.1}
    env = gymnasium.make(spec, clusters=6, batch=5, reward_weights=weights).unwrapped
    learner = SurrogateLearner(env.bundle)
    env.action_space.seed(0)
    for episode in range(4):
        env.reset(seed=episode)
        learner.reset()
        domain, anchors = learner.domain_loss(), learner.anchor_losses().copy()
        test, retention = learner.test_loss(), learner.retention_loss()
        before, own = domain, learner.answer_losses()
        answers_before = learner.answers_loss()
        gradients: list[np.ndarray] = []
        over, stood, moved = False, 0.0, 0.0
        while not over:
            _, reward, over, _, info = env.step(env.action_space.sample())
            cosines = []
            for row in rows_in(info["picks"]):
                learner.update(row)
                cosines.append(np.abs(learner.anchor_cosine(row)).max())
                gradients.append(
                    env.bundle.pool.sketches("initial", np.array([row]))[0]
                )
            now, anchors_now = learner.domain_loss(), learner.anchor_losses().copy()
            terms = terms_of(info)
            gain = 100 * (before - now) / domain
            assert terms["domain_gain"] == pytest.approx(gain, rel=1e-4, abs=1e-6)
            expected = gain + 0.1 * terms["information"]
            assert reward == pytest.approx(expected, rel=1e-4, abs=1e-6)
            stands = 100 * ((anchors - anchors_now) / anchors).min()
            assert terms["anchor_gain"] == pytest.approx(stands - stood, abs=1e-6)
            harm = max(0, -stands) - max(0, -stood)
            assert terms["conflict"] == pytest.approx(harm, abs=1e-6)
            stood = stands
            if env.bundle.has_answers:
                moves = 100 * ((learner.answer_losses() - own) / own).max()
                assert terms["forgetting"] == pytest.approx(moves - moved, abs=1e-6)
                moved = moves
                assert info["cost"] == terms["forgetting"]
            else:
                assert terms["forgetting"] == 0
                assert info["cost"] == terms["conflict"]
            assert terms["orthogonality"] == pytest.approx(1 - np.mean(cosines))
            assert info["domain_loss"] == pytest.approx(now, rel=1e-7)
            before = now
        units = np.stack(gradients) / np.linalg.norm(gradients, axis=1, keepdims=True)
        before_last = units[: -len(rows_in(info["picks"]))]
        information = [
            np.linalg.slogdet(np.eye(env.bundle.k) + u.T @ u)[1]
            for u in (before_last, units)
        ]
        assert terms["information"] == pytest.approx(np.diff(information)[0], abs=1e-3)
        test_change = 100 * (learner.test_loss() / test - 1)
        retention_change = 100 * (learner.retention_loss() / retention - 1)
        assert info["test_change"] == pytest.approx(test_change)
        assert info["retention_change"] == pytest.approx(retention_change)
        answers_change = (
            100 * (learner.answers_loss() / answers_before - 1) if answers_before else 0
        )
        assert info["answers_change"] == pytest.approx(answers_change)


def test_the_default_reward_is_the_domains_gain(env: MixtureEnv) -> None:
    env.reset(seed=0)
    at_untouched_model = env.learner.domain_loss()
    results = [env.step(n % 5) for n in range(6)]
    gain = 100 * (1 - results[-1][4]["domain_loss"] / at_untouched_model)
    assert sum(result[1] for result in results) == pytest.approx(gain)
    assert env.reward_weights == dict.fromkeys(NO_PICK, 0) | {"domain_gain": 1}


def test_a_batch_costs_what_its_samples_cost_one_by_one(bundle_folder: Path) -> None:
    kwargs = {"split": "all", "clusters": 1}
    whole = MixtureEnv(str(bundle_folder), batch=40, steps=1, **kwargs)
    single = MixtureEnv(str(bundle_folder), batch=1, steps=40, **kwargs)
    back = 0
    for seed in range(5):
        whole.reset(seed=seed)
        single.reset(options={"indices": whole.stream})
        cost = whole.step(0)[4]["cost"]
        costs = [single.step(0)[4]["cost"] for _ in range(40)]
        assert single.picked == whole.picked
        assert cost == pytest.approx(sum(costs), rel=1e-6)
        assert cost > 0
        back += min(costs) < 0
    assert back > 0


def test_observation_against_plain_formulas(env: MixtureEnv, bundle: Bundle) -> None:
    d = bundle.basis.shape[1]
    start, _ = env.reset(seed=3)
    assert (start["clusters"][:, 5] == 0).all()
    assert start["context"][2 * d :].tolist() == [0] * d + [1, 0, 0]
    for action in (0, 2, 2, 4):
        observation, *_ = env.step(action)
    part, picks = bundle.split("train"), env.picked

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    units = unit(bundle.pool.sketches("initial"))
    domain = unit(bundle.dev.sketches("initial").mean(0))
    anchor = bundle.anchor.sketches("initial")
    of = bundle.anchor.capabilities
    anchors = np.stack([unit(anchor[of == n].mean(0)) for n in range(2)])
    cosines = units @ anchors.T
    mean, deviation = bundle.scales[:, 0]
    samples = np.column_stack(
        [
            1 - np.abs(cosines).max(axis=1),
            (-cosines).max(axis=1),
            (np.log(bundle.pool.norms) - mean) / deviation,
            units @ domain,
            units @ bundle.basis,
        ]
    )
    for cluster in range(5):
        members = [row for row in part if env.clusters[row] == cluster]
        remaining = [row for row in members if row not in picks]
        means = samples[remaining].mean(0)
        share = {0: 0.25, 2: 0.5, 4: 0.25}.get(cluster, 0)
        expected = [len(remaining) / len(part), *means[:4], share, *means[4:]]
        np.testing.assert_allclose(
            observation["clusters"][cluster], expected, atol=2e-4
        )
        assert env.left[cluster] == len(remaining)
    directions = unit(np.stack([domain, anchors.mean(0)])) @ bundle.basis
    context = np.concatenate(
        [
            directions.ravel(),
            samples[picks, 4:].mean(0),
            [2 / 6, samples[picks, 3].mean(), cosines[picks].min(axis=1).mean()],
        ]
    )
    np.testing.assert_allclose(observation["context"], context, atol=2e-4)


# Ends.


def test_an_empty_cluster_is_masked_and_invalid(bundle_folder: Path) -> None:
    env = MixtureEnv(str(bundle_folder), clusters=12, batch=8, steps=40)
    env.reset(seed=0)
    cluster = int(env.left.argmin())
    size = int(env.left[cluster])
    sizes = []
    while env.left[cluster]:
        before, _, _, _, info_before = env.step(cluster)
        sizes.append(len(rows_in(info_before["picks"])))
    assert sum(sizes) == size
    assert set(sizes[:-1]) <= {8}
    assert sizes[-1] == (size % 8 or 8)
    assert (before["clusters"][cluster, [0, 1, 2, 3, 4, 6, 7]] == 0).all()
    assert before["clusters"][cluster, 5] == 1
    assert not info_before["action_mask"][cluster]
    assert info_before["action_mask"].sum() == 11

    largest = int(env.left.argmax())
    assert largest != cluster
    other = copy.deepcopy(env)
    expected = other.step(largest)
    observation, reward, terminated, truncated, info = env.step(cluster)
    assert reward == expected[1] - INVALID_ACTION_PENALTY
    assert (terminated, truncated) == expected[2:4] == (False, False)
    assert (info.pop("invalid_action"), expected[4].pop("invalid_action")) == (1, 0)
    assert data_equivalence(observation, expected[0], exact=True)
    assert data_equivalence(info, expected[4], exact=True)


def test_an_exhausted_stream_ends_with_a_mask_of_ones(env: MixtureEnv) -> None:
    rows = np.flatnonzero(env.clusters == 2)[:6]
    _, info = env.reset(options={"indices": rows})
    assert info["action_mask"].tolist() == [0, 0, 1, 0, 0]
    assert not env.step(2)[2]
    observation, _, terminated, truncated, info = env.step(2)
    assert (terminated, truncated) == (True, False)
    assert len(rows_in(info["picks"])) == 2
    assert info["action_mask"].tolist() == [1] * 5
    assert env.action_masks().all()
    assert (observation["clusters"][:, 0] == 0).all()
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(2)


def test_stepping_needs_a_running_episode(env: MixtureEnv) -> None:
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)


def test_actions_outside_the_space_are_refused(env: MixtureEnv) -> None:
    env.reset(seed=0)
    for action in (-1, 5):
        with pytest.raises(InputError, match=f"action {action}: expected 0 to 4"):
            env.step(action)


def test_observations_are_copies(env: MixtureEnv) -> None:
    observation, info = env.reset(seed=0)
    expected = copy.deepcopy((observation, info))
    env.step(0)
    assert data_equivalence((observation, info), expected, exact=True)


# Given rows and sizes.


def test_given_rows_are_drawn_in_order(env: MixtureEnv) -> None:
    of = env.clusters
    rows = np.random.default_rng(0).permutation(len(of))[:60]
    env.reset(options={"indices": rows})
    expected = [row for row in rows.tolist() if of[row] == 1][:4]
    assert rows_in(env.step(1)[4]["picks"]) == expected
    assert env.picked == expected


def test_an_episode_is_replayed_by_its_stream(env: MixtureEnv) -> None:
    actions = [0, 4, 2, 4, 1, 3]
    first = [env.reset(seed=9)[0], *[env.step(a) for a in actions]]
    options = {"indices": env.stream.tolist()}
    repeated = [env.reset(options=options)[0], *[env.step(a) for a in actions]]
    assert data_equivalence(first, repeated, exact=True)


def test_both_splits_share_the_clusters(bundle_folder: Path) -> None:
    train, test = (
        MixtureEnv(str(bundle_folder), split=split) for split in ("train", "test")
    )
    assert train.clusters is test.clusters
    train.reset(seed=0)
    test.reset(seed=0)
    assert not set(train.stream) & set(test.stream)
    assert train.left.sum() + test.left.sum() == len(train.clusters)


def test_a_bundle_without_trajectory_uses_initial_sketches(tmp_path: Path) -> None:
    env = MixtureEnv(str(make_bundle(tmp_path / "initial", checkpoints=0)))
    env.reset(seed=0)
    assert tables_of(env.bundle).kind == "initial"
    assert env.step(0)[1] != 0


@pytest.mark.parametrize("pool", [40, 64, 400])
def test_an_episode_fits_a_small_pool(tmp_path: Path, pool: int) -> None:
    folder = make_bundle(tmp_path / "small", pool=pool)
    for split in ("train", "test"):
        env = MixtureEnv(str(folder), split=split)
        check_env(env, skip_render_check=True)
        assert env.action_space.n == min(16, pool // 4)
        assert env.batch == min(8, len(env.bundle.split("test")) // env.steps)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"bundle": ""}, r"bundle: missing; .* make\('OGS-Custom-Mixture-v0'"),
        ({"split": "trian"}, "unknown split 'trian'; did you mean train"),
        ({"render_mode": "rgb"}, "unknown render mode 'rgb'; did you mean rgb_array"),
        ({"reward_weights": {"gain": 1}}, "unknown reward term 'gain'"),
        ({"reward_weights": {"conflict": "1"}}, "'conflict' is '1'; expected a fin"),
        ({"clusters": 0}, "clusters: 0; expected at least 1"),
        ({"clusters": 481}, "clusters: 481, but the pool has 480 samples; expected"),
        ({"batch": 2.0}, r"batch: 2\.0; expected a whole number"),
        ({"steps": True}, "steps: True; expected a whole number"),
        (
            {"steps": 60, "batch": 8},
            r"60 steps of a batch of 8 are 480 samples, .* has \d+; use",
        ),
    ],
)
def test_bad_arguments(
    bundle_folder: Path, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        MixtureEnv(**{"bundle": str(bundle_folder), **kwargs})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"indices": []}, "reset option 'indices': none; expected at least one pool"),
        ({"indices": [0, 480]}, "480 is no row of the pool; expected 0 to 479"),
        ({"indices": [-1]}, "-1 is no row of the pool"),
        ({"indices": [3, 3]}, "row 3 is given 2 times"),
        ({"indices": [0.5]}, "expected a list of whole numbers, found float64"),
        ({"index": [1]}, "unknown reset option 'index'; did you mean indices"),
    ],
)
def test_bad_options(env: MixtureEnv, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        env.reset(options=options)
