"""Native vector environments give SyncVectorEnv's numbers, to the last bit."""

import copy
import doctest
import pickle
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from helpers.make_bundle import make_bundle
from hypothesis import given, settings
from hypothesis import strategies as st

import ogs_env
from ogs_env import gram
from ogs_env.bundle import load_bundle
from ogs_env.envs import observations
from ogs_env.envs.mixture import MixtureEnv
from ogs_env.envs.selection import SelectionEnv
from ogs_env.envs.vector import SelectionVectorEnv
from ogs_env.envs.vector_base import EpisodeVectorEnv
from ogs_env.envs.vector_mixture import MixtureVectorEnv
from ogs_env.errors import InputError

MODES = [mode.value for mode in AutoresetMode]
SMALL = {"slate_size": 4, "num_slates": 6, "budget": 9}
# Its clusters are soon empty.
MIXTURE = {
    "env_id": "OGS-Custom-Mixture-v0",
    "split": "test",
    "clusters": 5,
    "batch": 4,
    "steps": 12,
}
# Arguments of `both` with five actions each.
KINDS = pytest.mark.parametrize("kind", [SMALL, MIXTURE], ids=["selection", "mixture"])
WEIGHTS = {
    "domain_gain": -1.5,
    "anchor_gain": 0.7,
    "orthogonality": 0.4,
    "forgetting": 0.8,
    "conflict": 2.0,
    "information": 0.3,
}
# All terms are subtracted, so that their sum could be -0.0.
NEGATIVE = {
    "domain_gain": -1,
    "anchor_gain": -1,
    "orthogonality": -1,
    "forgetting": 1,
    "conflict": 1,
    "information": -1,
}


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Assert equal types, keys, dtypes, shapes and bytes."""
    assert type(a) is type(b), (where, type(a), type(b))
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, tuple | list):
        assert len(a) == len(b), where
        for place, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{place}]")
    elif isinstance(a, np.ndarray) and a.dtype != object:
        assert (a.dtype, a.shape) == (b.dtype, b.shape), where
        assert a.tobytes() == b.tobytes(), (where, a[a != b], b[a != b])
    elif isinstance(a, np.ndarray):
        assert_same(a.tolist(), b.tolist(), where)
    else:
        assert a == b, where


def both(
    bundle: Path,
    num_envs: int,
    mode: str = "NextStep",
    env_id: str = "OGS-Custom-v0",
    **kwargs: Any,
) -> tuple[Any, SyncVectorEnv]:
    kwargs = {**kwargs, "bundle": str(bundle)}
    native = gymnasium.make_vec(env_id, num_envs, autoreset_mode=mode, **kwargs)
    sync = gymnasium.make_vec(
        env_id,
        num_envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        **kwargs,
    )
    mixture = "Mixture" in env_id
    assert isinstance(native, MixtureVectorEnv if mixture else SelectionVectorEnv)
    assert native.metadata["autoreset_mode"] is sync.metadata["autoreset_mode"]
    assert native.observation_space == sync.observation_space
    assert native.action_space == sync.action_space
    assert native.single_observation_space == sync.single_observation_space
    return native, sync


def run_episodes(
    native: EpisodeVectorEnv, sync: SyncVectorEnv, steps: int, seed: int = 0
) -> np.ndarray:
    """Step both with the same actions; count the ends and the invalid actions."""
    limited = "max_episode_steps" in (native.spec.kwargs if native.spec else {})
    assert_same(native.reset(seed=seed), sync.reset(seed=seed))
    rng = np.random.default_rng(seed)
    places = native.single_action_space.n
    counts = np.zeros(2, np.int64)
    for step in range(steps):
        actions = rng.integers(places, size=native.num_envs)
        if step > steps / 2:
            actions[0] = 0  # every second one is invalid
        results = native.step(actions), sync.step(actions)
        assert_same(*results, where=f"step {step}")
        observation, _, terminated, truncated, infos = results[0]
        over = terminated | truncated
        assert native.observation_space.contains(observation)
        np.testing.assert_array_equal(native.action_masks(), sync.call("action_masks"))
        assert limited or not truncated.any()
        invalid = (
            infos.get("final_info", infos)["invalid_action"] | infos["invalid_action"]
        )
        counts += over.sum(), invalid.sum()
        if native.autoreset_mode is AutoresetMode.DISABLED and over.any():
            options = [{"reset_mask": over.copy()} for _ in range(2)]
            resets = [
                env.reset(options=option)
                for env, option in zip((native, sync), options, strict=True)
            ]
            assert_same(*resets, where=f"reset {step}")
    return counts


@pytest.mark.parametrize("num_envs", [1, 3, 16])
@pytest.mark.parametrize("mode", MODES)
def test_episodes_equal_those_of_sync_vector_env(
    bundle_folder: Path, num_envs: int, mode: str
) -> None:
    native, sync = both(bundle_folder, num_envs, mode, fill=True, **SMALL)
    ends, invalid = run_episodes(native, sync, 400)
    assert ends > 8 * num_envs
    assert invalid > 90 + 10 * (num_envs - 1)


@pytest.mark.parametrize("num_envs", [1, 3, 16])
@pytest.mark.parametrize("mode", MODES)
def test_mixtures_equal_those_of_sync_vector_env(
    bundle_folder: Path, num_envs: int, mode: str
) -> None:
    native, sync = both(bundle_folder, num_envs, mode, **MIXTURE)
    ends, invalid = run_episodes(native, sync, 150)
    assert ends > 8 * num_envs
    assert invalid > 15


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("most", [1, 7, 12])
@pytest.mark.parametrize("kind", [{**SMALL, "fill": True}, MIXTURE])
def test_time_limit_truncates_as_gymnasiums_wrapper(
    bundle_folder: Path, mode: str, most: int, kind: dict[str, Any]
) -> None:
    native, sync = both(bundle_folder, 3, mode, **kind, max_episode_steps=most)
    ends, _ = run_episodes(native, sync, 100)
    assert ends > 3 * 100 / most / 2 - 3


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"order": "mixed", "split": "all", "num_slates": 30},
        {"observe": "trajectory", "split": "test", "slate_size": 7, "num_slates": 9},
        {**SMALL, "fill": True, "reward_weights": {"information": 0.3}},
        {**SMALL, "fill": True, "epochs": 12.5},
        {**SMALL, "reward_weights": WEIGHTS},
        {**MIXTURE, "split": "train", "clusters": 12, "batch": 8, "steps": 30},
        {**MIXTURE, "split": "all", "batch": 30, "steps": 15},
        {**MIXTURE, "reward_weights": WEIGHTS},
        {**SMALL, "reward_weights": NEGATIVE},
        {**MIXTURE, "reward_weights": NEGATIVE},
    ],
)
def test_any_arguments(bundle_folder: Path, kwargs: dict[str, Any]) -> None:
    native, sync = both(bundle_folder, 3, **kwargs)
    assert run_episodes(native, sync, 300).min() > 3


@settings(max_examples=15, deadline=None)
@given(
    slate_size=st.integers(1, 5),
    num_slates=st.integers(1, 5),
    share=st.floats(0, 1),
    mode=st.sampled_from(MODES),
    seed=st.integers(0, 1000),
)
def test_any_shape(
    bundle_folder: Path,
    slate_size: int,
    num_slates: int,
    share: float,
    mode: str,
    seed: int,
) -> None:
    budget = 1 + round(share * (slate_size * num_slates - 1))
    shape = {"slate_size": slate_size, "num_slates": num_slates, "budget": budget}
    run_episodes(*both(bundle_folder, 4, mode, **shape), steps=60, seed=seed)


@settings(max_examples=25, deadline=None)
@given(
    clusters=st.integers(1, 20),
    batch=st.integers(1, 20),
    share=st.floats(0, 1),
    split=st.sampled_from(["train", "test", "all"]),
    mode=st.sampled_from(MODES),
    seed=st.integers(0, 1000),
)
def test_any_mixture(
    bundle_folder: Path,
    clusters: int,
    batch: int,
    share: float,
    split: str,
    mode: str,
    seed: int,
) -> None:
    part = len(load_bundle(str(bundle_folder)).split(split))
    steps = 1 + round(share * (min(part // batch, 20) - 1))
    shape = {"clusters": clusters, "batch": batch, "steps": steps, "split": split}
    envs = both(bundle_folder, 4, mode, **{**MIXTURE, **shape})
    run_episodes(*envs, steps=2 * steps + 3, seed=seed)


@KINDS
def test_a_bundle_without_own_answers(
    folder_without_answers: Path, kind: dict[str, Any]
) -> None:
    native, sync = both(folder_without_answers, 3, **kind)
    assert run_episodes(native, sync, 100).min() > 3


@pytest.mark.parametrize("kind", [{}, {**MIXTURE, "batch": 8, "steps": 24}])
def test_the_shipped_bundle(kind: dict[str, Any]) -> None:
    native, sync = both(Path("medical"), 3, **kind)
    assert run_episodes(native, sync, 250).min() > 3


@pytest.mark.parametrize("checkpoints", [0, 3])
def test_a_pool_too_large_for_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoints: int
) -> None:
    folder = make_bundle(
        tmp_path / "b", pool=80, checkpoints=checkpoints, held_out=16, k=32
    )
    monkeypatch.setattr(gram, "TABLE_FLOATS", 0)
    monkeypatch.setattr(observations, "_PREPARED_ROWS", 0)
    native, sync = both(folder, 3, slate_size=3, num_slates=8, budget=11)
    assert run_episodes(native, sync, 80).min() > 3
    shape = {"clusters": 3, "batch": 5, "steps": 12, "split": "all"}
    native, sync = both(folder, 3, **{**MIXTURE, **shape})
    assert run_episodes(native, sync, 60).min() > 3


@pytest.mark.parametrize(
    "kind",
    [
        {"slate_size": 5, "num_slates": 9, "budget": 30},
        {**MIXTURE, "clusters": 3, "split": "all", "batch": 20, "steps": 9},
    ],
    ids=["selection", "mixture"],
)
@pytest.mark.parametrize("checkpoints", [0, 1])
def test_bundles_of_one_checkpoint(
    tmp_path: Path, checkpoints: int, kind: dict[str, Any]
) -> None:
    folder = make_bundle(tmp_path / "b", pool=200, checkpoints=checkpoints, held_out=12)
    envs = both(folder, 3, **kind)
    assert run_episodes(*envs, steps=150).min() > 3


@KINDS
def test_make_vec_has_three_modes_that_agree(
    bundle_folder: Path, kind: dict[str, Any]
) -> None:
    kwargs = {"env_id": "OGS-Custom-v0", "bundle": str(bundle_folder), **kind}
    env_id = kwargs.pop("env_id")
    vector_envs: list[VectorEnv] = [
        gymnasium.make_vec(env_id, 2, vectorization_mode=mode, **kwargs)
        for mode in ("vector_entry_point", "sync", "async")
    ]
    resets = [envs.reset(seed=3) for envs in vector_envs]
    assert_same(resets[0], resets[1])
    assert_same(resets[0], resets[2])
    for action in (0, 0, 4, 2, 3, 1):
        steps = [envs.step(np.array([action, 1])) for envs in vector_envs]
        assert_same(steps[0], steps[1])
        assert_same(steps[0], steps[2])
    for envs in vector_envs:
        envs.close()


@KINDS
def test_seeds_and_options_of_reset(bundle_folder: Path, kind: dict[str, Any]) -> None:
    native, sync = both(bundle_folder, 3, **kind)
    for seed in (5, [9, 8, 9], None, [1, None, 2]):
        if seed is None:  # continues the sub-environments' generators
            assert_same(native.reset(), sync.reset())
        assert_same(native.reset(seed=seed), sync.reset(seed=seed))
        step = np.array([1, 2, 4])
        assert_same(native.step(step), sync.step(step))
    stream = np.arange(40, 29, -1)  # a last slate of three
    assert_same(*[e.reset(seed=1, options={"indices": stream}) for e in (native, sync)])
    for action in (4, 0, 4, 1, 3, 4, 0):
        actions = np.array([action, 4, 0])
        assert_same(native.step(actions), sync.step(actions))
    mask = np.array([False, True, True])
    options = {"indices": stream, "reset_mask": mask}
    assert_same(*[e.reset(seed=4, options=dict(options)) for e in (native, sync)])
    assert_same(native.step(actions), sync.step(actions))


@KINDS
def test_np_random_seed_replays_an_unseeded_run(
    bundle_folder: Path, kind: dict[str, Any]
) -> None:
    envs, _ = both(bundle_folder, 3, **kind)
    unseeded = envs.reset()
    seed = envs.np_random_seed
    assert isinstance(seed, int)
    assert_same(envs.reset(seed=seed), unseeded)
    envs.reset(seed=5)
    assert envs.np_random_seed == 5
    envs.reset()
    assert envs.np_random_seed == 5
    envs.reset(seed=[1, 2, 3])
    assert envs.np_random_seed == -1


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"learner": "live"}, r"learner: 'live' has no vector .*make_vec\(ID"),
        ({"render_mode": "human"}, "unknown render mode 'human'; known: ansi, rgb"),
        ({"num_envs": 0}, "num_envs: 0; expected at least 1"),
        ({"autoreset_mode": "Same"}, "unknown autoreset mode 'Same'; did you mean Sam"),
        ({"budget": 0}, "budget: 0; expected at least 1"),
        ({"max_episode_steps": 0}, "max_episode_steps: 0; expected at least 1"),
    ],
)
def test_bad_arguments(
    bundle_folder: Path, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        SelectionVectorEnv(bundle=str(bundle_folder), **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"render_mode": "human"}, "unknown render mode 'human'; known: ansi, rgb"),
        ({"num_envs": 0}, "num_envs: 0; expected at least 1"),
        ({"autoreset_mode": "Same"}, "unknown autoreset mode 'Same'; did you mean Sam"),
        ({"clusters": 0}, "clusters: 0; expected at least 1"),
        ({"max_episode_steps": 0}, "max_episode_steps: 0; expected at least 1"),
        ({"bundle": ""}, "bundle: missing; expected the name of a shipped bundle"),
    ],
)
def test_bad_arguments_of_mixtures(
    bundle_folder: Path, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        MixtureVectorEnv(**{"bundle": str(bundle_folder), **kwargs})


@KINDS
def test_bad_calls(bundle_folder: Path, kind: dict[str, Any]) -> None:
    native, _ = both(bundle_folder, 3, "Disabled", **kind)
    with pytest.raises(gymnasium.error.ResetNeeded, match="before the first step"):
        native.step(np.zeros(3, int))
    native.reset(options={"reset_mask": np.array([True, True, False])})
    with pytest.raises(gymnasium.error.ResetNeeded):
        native.step(np.zeros(3, int))
    with pytest.raises(
        InputError, match="seed: 2 seeds for 3 sub-environments; expected 3"
    ):
        native.reset(seed=[1, 2])
    for mask in (np.ones(2, bool), np.ones(3), np.zeros(3, bool), [True] * 3):
        with pytest.raises(InputError, match=r"a bool array of shape \(3,\)"):
            native.reset(options={"reset_mask": mask})
    with pytest.raises(InputError, match="unknown reset option 'index'"):
        native.reset(options={"index": [1]})
    native.reset(seed=0)
    for actions, message in (
        (np.array([0, 5, 0]), "action 5: expected 0 to 4"),
        (np.array([0, -1, 0]), "action -1: expected 0 to 4"),
        (np.zeros(2, int), r"expected whole numbers of shape \(3,\)"),
        (np.zeros(3), r"actions: float64 of shape \(3,\); expected whole"),
    ):
        with pytest.raises(InputError, match=message):
            native.step(actions)
    over = np.zeros(3, np.bool_)
    while not over.any():
        _, _, over, _, _ = native.step(np.array([4, 0, 0]))
    with pytest.raises(
        gymnasium.error.ResetNeeded, match=r"sub-environments \[0.*\] are over"
    ):
        native.step(np.zeros(3, int))


@KINDS
def test_later_steps_do_not_change_returned_values(
    bundle_folder: Path, kind: dict[str, Any]
) -> None:
    native, _ = both(bundle_folder, 3, "SameStep", **kind)
    returned = [native.reset(seed=0)]
    expected = copy.deepcopy(returned)
    rng = np.random.default_rng(0)
    actions = np.zeros(3, np.int64)
    for _ in range(60):
        actions[:] = rng.integers(5, size=3)
        returned.append(native.step(actions))
        expected.append(copy.deepcopy(returned[-1]))
    assert_same(returned, expected)


@pytest.mark.parametrize("render_mode", ["ansi", "rgb_array"])
def test_frames_are_those_of_each_sub_environment(
    bundle_folder: Path, render_mode: str
) -> None:
    native, sync = both(bundle_folder, 2, render_mode=render_mode, **SMALL)
    for envs in (native, sync):
        envs.reset(seed=2)
    assert_same(native.render(), sync.render())
    for actions in ([1, 4], [0, 2], [4, 3], [4, 0], [3, 1]):
        for envs in (native, sync):
            envs.step(np.array(actions))
    for mine, theirs in zip(native.render(), sync.render(), strict=True):
        assert_same(mine, theirs)


@pytest.mark.parametrize("mode", MODES)
def test_frames_of_mixtures_have_their_invalid_actions(
    bundle_folder: Path, mode: str
) -> None:
    kind = {**MIXTURE, "render_mode": "ansi", "batch": 8, "steps": 6}
    native, sync = both(bundle_folder, 2, mode, **kind)
    native.reset(seed=2), sync.reset(seed=2)
    frames = []
    for actions in ([3, 4], [3, 4], [3, 4], [3, 0], [3, 4], [3, 4], [1, 1]):
        for envs in (native, sync):
            if mode == "Disabled" and len(frames) == 6:
                envs.reset(options={"reset_mask": np.ones(2, np.bool_)})
            envs.step(np.array(actions))
        frames.append(native.render())
        assert frames[-1] == sync.render()
    assert "because 3 is empty" in frames[-3][0]


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_frames_after_a_filled_selection_are_of_the_picks(
    bundle_folder: Path, mode: str
) -> None:
    envs, _ = both(bundle_folder, 2, mode, render_mode="ansi", fill=True, **SMALL)
    envs.reset(seed=2)
    envs.step(np.array([1, 0]))
    # The first ends with one pick of nine; the second has eight left in the stream.
    for _ in range(6):
        *_, terminated, _, _ = envs.step(np.array([4, 1]))
        if terminated[0]:
            break
        assert "1 of 9 picked" in envs.render()[0]
    assert terminated.tolist() == [True, False]
    picks = 0 if mode == "SameStep" else 1
    assert f"{picks} of 9 picked" in envs.render()[0]
    envs.step(np.array([4, 4]))
    assert "0 of 9 picked" in envs.render()[0]


@KINDS
def test_pickled_and_copied_vector_envs_continue_equally(
    bundle_folder: Path, kind: dict[str, Any]
) -> None:
    native, _ = both(bundle_folder, 3, **kind)
    native.reset(seed=0)
    native.step(np.array([0, 1, 4]))
    others = [pickle.loads(pickle.dumps(native)), copy.deepcopy(native)]
    rng = np.random.default_rng(0)
    for _ in range(60):
        actions = rng.integers(5, size=3)
        expected = native.step(actions)
        for other in others:
            assert_same(other.step(actions), expected)


def test_gymnasiums_wrappers_count_its_episodes(bundle_folder: Path) -> None:
    native, _ = both(bundle_folder, 2, **SMALL)
    envs = RecordEpisodeStatistics(native)
    envs.reset(seed=0)
    for _ in range(6):
        *_, terminated, truncated, infos = envs.step(np.array([4, 0]))
        assert not truncated.any()
    assert terminated.tolist() == [True, False]
    assert infos["episode"]["l"].tolist() == [6, 0]
    for _ in range(3):  # the second has a budget of nine picks
        *_, terminated, truncated, infos = envs.step(np.array([4, 0]))
        assert not truncated.any()
    assert terminated.tolist() == [False, True]
    assert infos["episode"]["l"].tolist() == [0, 9]


@pytest.mark.parametrize("vector_env", [SelectionVectorEnv, MixtureVectorEnv])
def test_docstring_example(vector_env: type[EpisodeVectorEnv]) -> None:
    finder = doctest.DocTestFinder()
    test = finder.find(vector_env, globs={"ogs_env": ogs_env})[0]
    assert len(test.examples) >= 4
    assert doctest.DocTestRunner().run(test).failed == 0


@KINDS
def test_the_tables_of_a_bundle_are_computed_once(
    bundle_folder: Path, kind: dict[str, Any]
) -> None:
    native, _ = both(bundle_folder, 2, **kind)
    single_class = MixtureEnv if kind is MIXTURE else SelectionEnv
    single = single_class(str(bundle_folder))
    assert native._learners.tables is single.learner._tables
