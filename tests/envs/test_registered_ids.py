"""One battery over every registered id; ids that are added are tested too.

Slow tests run on one id of every class: `test_workers.py`, `test_sb3.py`.
Imports and their cost are in `test_registration.py`.
"""

import copy
import doctest
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, VectorEnv
from helpers.infos import rows_in, terms_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

import ogs_env
from ogs_env.envs.base import INVALID_ACTION_PENALTY
from ogs_env.envs.mixture import MixtureEnv
from ogs_env.errors import InputError
from ogs_env.rewards import weighted_sum

pytestmark = pytest.mark.filterwarnings(
    "error",
    # Of transformers, about a method that peft calls.
    "ignore:`is_gradient_checkpointing`:FutureWarning",
    # Of SB3: two-dimensional boxes are what the Navigator's policy takes.
    "ignore:Your observation .* has an unconventional shape",
)


def make(spec: EnvSpec, **kwargs: Any) -> Any:
    return gymnasium.make(spec, **kwargs).unwrapped


def run(env: Any, actions: list[int], **reset: Any) -> list[Any]:
    return [env.reset(**reset), *[env.step(action) for action in actions]]


def valid_actions(env: Any, count: int) -> list[int]:
    """Run an episode of random valid actions; return the actions."""
    rng = np.random.default_rng(0)
    env.reset(seed=3)
    actions: list[int] = []
    over = False
    while not over and len(actions) < count:
        actions.append(int(rng.choice(np.flatnonzero(env.action_masks()))))
        over = env.step(actions[-1])[2]
    return actions


def test_live_ids_differ_by_their_bundle_alone(
    spec_of: Callable[[str], EnvSpec],
) -> None:
    live = [
        copy.deepcopy(spec)
        for spec in gymnasium.registry.values()
        if spec.kwargs.get("learner") == "live"
    ]
    for spec in live:
        assert make(spec_of(spec.id)).reset(seed=0)
    assert len({spec.kwargs.pop("bundle") for spec in live}) == len(live) > 1
    assert all(replace(spec, id=live[0].id) == live[0] for spec in live)


def test_gymnasium_checker(spec: EnvSpec) -> None:
    check_env(make(spec, disable_env_checker=True))


def test_stable_baselines3_checker(spec: EnvSpec) -> None:
    check_env_for_sb3(make(spec))


def test_two_environments_have_the_same_episodes(spec: EnvSpec) -> None:
    one, two = make(spec), make(spec)
    one.action_space.seed(1)
    start = one.reset(seed=1)
    assert data_equivalence(start, two.reset(seed=1), exact=True)
    for _ in range(50):
        action = one.action_space.sample()
        first, second = one.step(action), two.step(action)
        assert data_equivalence(first, second, exact=True)
        assert set(first[4]) == set(start[1])
        if first[2]:
            assert data_equivalence(one.reset(), two.reset(), exact=True)


def test_a_seed_gives_the_same_episodes_after_any_others(spec: EnvSpec) -> None:
    env = make(spec)
    first = env.reset(seed=5), env.reset()
    valid_actions(env, 5)
    repeated = env.reset(seed=5), env.reset()
    assert data_equivalence(first, repeated, exact=True)
    streams = set()
    for seed in (5, None, 6, None):
        env.reset(seed=seed)
        streams.add(tuple(env.stream.tolist()))
    assert len(streams) == 4


def test_pickled_and_copied_envs_continue_equally(spec: EnvSpec) -> None:
    env = make(spec)
    actions = valid_actions(env, 6)
    run(env, actions[:3], seed=3)
    others = [pickle.loads(pickle.dumps(env)), copy.deepcopy(env)]
    for action in actions[3:]:
        expected = env.step(action)
        for other in others:
            assert data_equivalence(other.step(action), expected, exact=True)
    expected = env.reset()
    for other in others:
        assert data_equivalence(other.reset(), expected, exact=True)


def test_a_spec_is_restored_from_json(spec: EnvSpec) -> None:
    spec.kwargs["reward_weights"] = {"conflict": 0.5}
    original = gymnasium.make(spec)
    restored = gymnasium.make(EnvSpec.from_json(original.spec.to_json()))
    assert data_equivalence(original.reset(seed=0), restored.reset(seed=0), exact=True)
    assert restored.unwrapped.reward_weights["conflict"] == 0.5


@pytest.mark.parametrize("render_mode", ["human", "ansi", "rgb_array"])
def test_rendering_changes_nothing(
    spec: EnvSpec, render_mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = make(spec)
    actions = valid_actions(plain, 4)
    expected = run(plain, actions, seed=3)
    env = make(spec, render_mode=render_mode)
    if render_mode != "human":
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.render()
    frames = []
    results = [env.reset(seed=3)]
    for action in actions:
        frames.append(env.render())
        results.append(env.step(action))
    frames.append(env.render())
    assert data_equivalence(results, expected, exact=True)
    if render_mode == "human":
        assert frames == [None] * len(frames)
        printed = capsys.readouterr().out
        ansi = make(spec, render_mode="ansi")
        texts = []
        for action in (None, *actions):
            ansi.reset(seed=3) if action is None else ansi.step(action)
            texts.append(ansi.render() + "\n")
        assert printed == "".join(texts)
    else:
        assert [type(frame) for frame in frames] == [type(frames[0])] * len(frames)
        assert len({np.asarray(frame).tobytes() for frame in frames}) == len(frames)


@pytest.mark.parametrize("policy", ["first", "last", "random"])
def test_both_masks_mark_the_valid_actions(spec: EnvSpec, policy: str) -> None:
    env = make(spec)
    rng = np.random.default_rng(1)
    _, info = env.reset(seed=2)
    over = False
    while True:
        mask = env.action_masks()
        assert mask.dtype == bool
        assert info["action_mask"].dtype == np.int8
        assert mask.shape == (env.action_space.n,)
        np.testing.assert_array_equal(mask, info["action_mask"])
        assert mask.any()
        assert env.action_space.contains(env.action_space.sample(info["action_mask"]))
        if over:
            break
        valid = np.flatnonzero(mask)
        action = {"first": valid[0], "last": valid[-1], "random": rng.choice(valid)}
        *_, over, truncated, info = env.step(action[policy])
        assert info["invalid_action"] == 0
        assert not truncated


def reset_with_gaps(env: Any) -> tuple[Any, dict[str, Any]]:
    """Begin an episode in which every action can become invalid."""
    if isinstance(env, MixtureEnv):  # few samples, so that clusters are soon empty
        rows = env.bundle.split("train")
        few = np.random.default_rng(0).choice(rows, 40, replace=False)
        return env.reset(options={"indices": few})
    return env.reset(seed=2)


def most_steps(env: Any) -> int:
    """Return the most steps of an episode that repeats one action."""
    if isinstance(env, MixtureEnv):
        return env.steps
    return env.slates_in_stream + env.budget


def test_an_invalid_action_is_a_valid_one_with_a_penalty(spec: EnvSpec) -> None:
    env, other = make(spec), make(spec)
    rng = np.random.default_rng(0)
    before, _ = reset_with_gaps(env)
    assert data_equivalence(reset_with_gaps(other)[0], before, exact=True)
    count, over = 0, False
    while not over:
        mask = env.action_masks()
        action = valid = int(rng.choice(np.flatnonzero(mask)))
        if not mask.all():
            action = int(rng.choice(np.flatnonzero(~mask)))
            # A draw from the cluster with the most samples left, or the nearest pick.
            if isinstance(env, MixtureEnv):
                valid = int(env.left.argmax())
            else:
                valid = min(np.flatnonzero(mask[:-1]), key=lambda i: abs(i - action))
            assert mask[valid]
        observation, reward, over, truncated, info = env.step(action)
        expected, reward_of_valid, *ends, expected_info = other.step(valid)
        invalid = info.pop("invalid_action")
        assert invalid == (action != valid)
        assert expected_info.pop("invalid_action") == 0
        assert reward == reward_of_valid - INVALID_ACTION_PENALTY * invalid
        assert [over, truncated] == ends
        assert not truncated
        assert data_equivalence(observation, expected, exact=True)
        assert data_equivalence(info, expected_info, exact=True)
        assert over or not data_equivalence(observation, before)
        before = observation
        count += int(invalid)
    assert count > 1


@pytest.mark.parametrize("share", [0, 0.4, 1])
def test_an_episode_of_one_action_ends(spec: EnvSpec, share: float) -> None:
    env = make(spec)
    action = int(share * (env.action_space.n - 1))
    reset_with_gaps(env)
    penalties = steps = 0
    over = False
    while not over:
        assert steps < most_steps(env)
        *_, over, truncated, info = env.step(action)
        assert not truncated
        penalties += int(info["invalid_action"])
        steps += 1
    skips = not isinstance(env, MixtureEnv) and share == 1
    assert (penalties == 0) == skips


def test_actions_outside_the_space_are_refused(spec: EnvSpec) -> None:
    env = make(spec)
    env.reset(seed=0)
    last = int(env.action_space.n) - 1
    for action in (-1, last + 1):
        with pytest.raises(InputError, match=f"action {action}: expected 0 to {last}"):
            env.step(action)
    with pytest.raises(InputError, match="unknown reset option 'index'"):
        env.reset(options={"index": [1]})


def test_an_episode_is_replayed_by_its_stream(spec: EnvSpec) -> None:
    env, other = make(spec), make(spec)
    actions = valid_actions(env, 8)
    first = run(env, actions, seed=3)
    options = {"indices": env.stream}
    assert data_equivalence(run(env, actions, options=options), first, exact=True)
    options = {"indices": env.stream.tolist()}
    assert data_equivalence(run(other, actions, options=options), first, exact=True)


def test_splits_are_disjoint(spec: EnvSpec) -> None:
    # The test split of a small pool fills no long episode.
    short = {"num_slates": 1, "slate_size": 4, "budget": 2}
    if "Mixture" in spec.id:
        short = {"steps": 1}
    stream_rows: dict[str, set[int]] = {}
    for split in ("train", "test"):
        env = make(spec, split=split, **short)
        stream_rows[split] = set()
        for seed in range(20):
            env.reset(seed=seed)
            stream_rows[split] |= set(env.stream.tolist())
        assert stream_rows[split] <= set(env.bundle.split(split).tolist())
        assert len(stream_rows[split]) > 10
    assert not stream_rows["train"] & stream_rows["test"]


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_any_sequence_of_actions(spec: EnvSpec, data: st.DataObject, seed: int) -> None:
    weights = {
        name: data.draw(st.floats(-2, 2), label=name)
        for name in (
            "domain_gain",
            "anchor_gain",
            "forgetting",
            "orthogonality",
            "conflict",
        )
    }
    env = make(spec, reward_weights=weights | {"information": 0.5})
    observation, info = env.reset(seed=seed)
    selection: list[int] = []
    for _ in range(data.draw(st.integers(1, 30))):
        assert rows_in(info["selection"]) == []
        legal = np.flatnonzero(env.action_masks()).tolist()
        anything = st.integers(0, int(env.action_space.n) - 1)
        action = data.draw(st.sampled_from(legal) | anything)
        observation, reward, over, truncated, info = env.step(action)
        assert not truncated
        assert env.observation_space.contains(observation)
        terms = terms_of(info)
        expected = weighted_sum(terms, env.reward_weights)
        assert info["invalid_action"] == (action not in legal)
        expected -= INVALID_ACTION_PENALTY * info["invalid_action"]
        assert reward == expected
        assert type(reward) is float
        assert np.isfinite([reward, *terms.values()]).all()
        own = env.cost_answers == "own"
        assert info["cost"] == terms["forgetting" if own else "conflict"]
        selection += rows_in(info["picks"])
        if over:
            assert rows_in(info["selection"]) == selection
            break
    assert len(set(selection)) == len(selection)
    assert set(selection) <= set(env.stream.tolist())
    pool = env.bundle.pool.ids[selection].tolist()
    assert [int(name, 16) for name in env.sample_ids(selection)] == pool


# What infos hold: numbers and arrays of fixed shapes, which libraries can stack.


def format_of(info: dict[str, Any]) -> dict[str, tuple[type, np.dtype, Any]]:
    """Return the type, dtype and shape of every value of an info."""
    formats = {}
    for name, value in info.items():
        array = np.asarray(value)
        assert isinstance(value, bool | int | float | np.number | np.ndarray), name
        assert array.dtype.kind in "biuf", name
        formats[name] = type(value), array.dtype, array.shape
    return formats


@pytest.mark.parametrize("weights", [None, {"information": 0.5}])
def test_all_infos_have_one_format(
    spec: EnvSpec, weights: dict[str, float] | None
) -> None:
    env = make(spec, reward_weights=weights)
    expected = format_of(env.reset(seed=0)[1])
    env.action_space.seed(0)
    last = env.action_space.n - 1
    policies: list[Callable[[], int]] = [
        env.action_space.sample,  # also invalid actions
        lambda: 0,  # in a selection environment, every second one is invalid
        lambda: int(np.flatnonzero(env.action_masks())[-1]),
        lambda: last,
    ]
    for policy in policies:
        over = False
        while not over:
            *_, terminated, truncated, info = env.step(policy())
            assert format_of(info) == expected
            over = terminated or truncated
        assert format_of(env.reset()[1]) == expected


def vector_formats(infos: dict[str, Any]) -> dict[str, tuple[type, np.dtype, Any]]:
    """Return `format_of` stacked infos, without the masks of their entries."""
    formats = format_of(
        {
            name: value
            for name, value in infos.items()
            if name[0] != "_" and not name.startswith("final_")
        }
    )
    if "final_info" in infos:
        assert vector_formats(infos["final_info"]) == formats
    return formats


@pytest.mark.parametrize("mode", AutoresetMode)
def test_all_vector_infos_have_the_format_of_single_ones(
    spec: EnvSpec, mode: AutoresetMode
) -> None:
    expected = {
        name: (np.ndarray, dtype, (2, *shape))
        for name, (_, dtype, shape) in format_of(make(spec).reset(seed=0)[1]).items()
    }
    options = {"autoreset_mode": mode}
    vector_envs: list[VectorEnv] = [
        gymnasium.make_vec(spec, 2, vectorization_mode="sync", vector_kwargs=options),
        gymnasium.make_vec(spec, 2, **options),
    ]
    for envs in vector_envs:
        assert vector_formats(envs.reset(seed=0)[1]) == expected
        envs.action_space.seed(0)
        ended = np.zeros(2, np.bool_)
        while not ended.all():
            *_, terminated, truncated, infos = envs.step(envs.action_space.sample())
            assert vector_formats(infos) == expected
            over = terminated | truncated
            ended |= over
            assert ("final_info" in infos) == (
                over.any() and mode is AutoresetMode.SAME_STEP
            )
            if mode is AutoresetMode.DISABLED and over.any():
                _, infos = envs.reset(options={"reset_mask": over.copy()})
                assert vector_formats(infos) == expected
        if mode is AutoresetMode.NEXT_STEP:  # the step that begins an episode
            *_, infos = envs.step(envs.action_space.sample())
            assert vector_formats(infos) == expected
        envs.close()


class Doubled(gymnasium.RewardWrapper):
    def reward(self, reward: Any) -> Any:
        return 2 * reward


def test_all_ids_take_the_arguments_of_make_vec(spec: EnvSpec) -> None:
    limit = {"max_episode_steps": 3}
    own = gymnasium.make_vec(spec, 2, autoreset_mode="SameStep", **limit)
    in_turn = gymnasium.make_vec(
        spec,
        2,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": "SameStep"},
        wrappers=[Doubled],
        **limit,
    )
    for envs in own, in_turn:
        envs.reset(seed=7)
    for step in range(1, 8):
        actions = np.full(2, step)
        _, rewards, _, truncated, infos = own.step(actions)
        _, doubled, *_ = in_turn.step(actions)
        assert (truncated == (step % 3 == 0)).all()
        assert ("final_info" in infos) == truncated.all()
        np.testing.assert_array_equal(doubled, 2 * rewards)
    with pytest.raises(InputError, match="unknown autoreset mode 'Next'"):
        gymnasium.make_vec(spec, 2, autoreset_mode="Next")
    with pytest.raises(InputError, match="num_envs: 0; expected at least 1"):
        gymnasium.make_vec(spec, 0)


CREATORS = {
    gymnasium.spec(name).entry_point for name in gymnasium.registry if "OGS-" in name
}


@pytest.mark.parametrize("entry_point", sorted(map(str, CREATORS)))
def test_docstring_example(entry_point: str) -> None:
    creator = load_env_creator(entry_point)
    test = doctest.DocTestFinder().find(creator, globs={"ogs_env": ogs_env})[0]
    assert len(test.examples) >= 4
    assert doctest.DocTestRunner().run(test).failed == 0
