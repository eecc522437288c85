"""Sampled tasks: their samples, their gradients and how a learner responds to them."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from helpers.make_bundle import edit_manifest, make_bundle
from safetensors.numpy import load_file, save_file

from ogs_env.agents.evaluation import play_episode
from ogs_env.agents.policies import make_policy
from ogs_env.bundle import Bundle, load_bundle
from ogs_env.bundle_files import ANSWERS, MEASURED
from ogs_env.envs.selection import SelectionEnv
from ogs_env.errors import InputError
from ogs_env.files import sha256_of
from ogs_env.learners.surrogate import SurrogateLearner
from ogs_env.rows import COLUMNS, Rows
from ogs_env.sampled_task import POOL, SampledTask, sample_task

NUMBERS = range(8)
SIZES: dict[str, Any] = {"slate_size": 4, "num_slates": 6, "budget": 9}


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose checkpoints differ in weight, slope and curvature."""
    folder = make_bundle(tmp_path_factory.mktemp("task") / "b", shards=3)
    learner = {
        "sketches": "trajectory",
        "epochs": 2,
        "domain": {"slope": [0.05, 0.03], "share": 0.5},
        "anchor": {"slope": [0.02, 0.06], "share": 0.3},
        "forgetting": {"curvature": 0.004},
    }
    weights = [{"step": 0, "weight": 0.5}, {"step": 6, "weight": 2.0}]
    edit_manifest(folder, checkpoints=weights, learner=learner)
    return load_bundle(folder)


@pytest.fixture(scope="module")
def with_off_domain(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same bundle with an off-domain trajectory."""
    folder = tmp_path_factory.mktemp("task") / "off_domain"
    make_bundle(folder, shards=3, off_domain=True)
    weights = [{"step": 0, "weight": 0.5}, {"step": 6, "weight": 2.0}]
    edit_manifest(folder, checkpoints=weights)
    return load_bundle(folder)


@pytest.fixture(scope="module")
def without_trajectory(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("task") / "initial"
    return load_bundle(make_bundle(folder, checkpoints=0))


@pytest.fixture
def of_sources(tmp_path: Path) -> Callable[[list[int]], Bundle]:
    """A function that makes a bundle with the given pool samples of each source."""

    def make(counts: list[int]) -> Bundle:
        name = "pool-00000.safetensors"
        folder = make_bundle(tmp_path / "b", pool=sum(counts), k=16, held_out=12)
        tensors = load_file(folder / name)
        tensors["sources"] = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        save_file(tensors, folder / name)
        files = json.loads((folder / "manifest.json").read_text())["files"]
        files[name]["sha256"] = sha256_of(folder / name)
        edit_manifest(folder, files=files)
        return load_bundle(folder)

    return make


def rows_of(bundle: Bundle, rows: Rows) -> np.ndarray:
    """Return the rows of samples in a bundle's pool, by their ids."""
    places = {number: row for row, number in enumerate(bundle.pool.ids.tolist())}
    return np.array([places[number] for number in rows.ids.tolist()])


def contents(task: Bundle) -> dict[str, Any]:
    arrays: dict[str, Any] = {"manifest": task.manifest, "basis": task.basis}
    for role in ("pool", *task.measured):
        rows = getattr(task, role)
        arrays |= {f"{role}/{name}": getattr(rows, name) for name in COLUMNS}
        has_trajectory = task.has_trajectory and role not in ANSWERS
        kinds = ("initial", "trajectory") if has_trajectory else ("initial",)
        arrays |= {f"{role}/{kind}": rows.sketches(kind) for kind in kinds}
    if task.has_trajectory:
        every = np.arange(len(task.pool))
        arrays["products"] = task.pool.products(every)
        arrays["answer_products"] = task.pool.answer_products(every)
    return arrays


# Samples.


def test_a_number_determines_the_task(origin: Bundle) -> None:
    first = SampledTask(origin, 3, "train")
    # Unpickling returns the cached task.
    others = [SampledTask(origin, 3, "train"), pickle.loads(pickle.dumps(first))]
    assert others[1] is not first
    for other in others:
        assert data_equivalence(contents(other), contents(first), exact=True)
    shared = sample_task(origin, 3, "train")
    assert len(pickle.dumps(shared)) < 1000
    for duplicate in (copy.copy(shared), copy.deepcopy([shared])[0], others[1]):
        assert duplicate is shared


def test_other_numbers_give_other_tasks(origin: Bundle) -> None:
    tasks = [SampledTask(origin, number, "train") for number in NUMBERS]
    for role in ("dev", "test", "pool"):
        assert len({getattr(task, role).ids.tobytes() for task in tasks}) == len(tasks)
    assert len({tuple(np.unique(task.dev.sources)) for task in tasks}) > 2
    assert tasks[3].name == "made/3"


@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_the_samples_of_a_task(origin: Bundle, split: str) -> None:
    part = set(origin.pool.ids[origin.split(split)].tolist())
    for number in NUMBERS:
        task = SampledTask(origin, number, split)
        roles = [task.dev, task.test, task.pool]
        ids = [set(rows.ids.tolist()) for rows in roles]
        # Each sample is there once and belongs to the split.
        assert len(set.union(*ids)) == sum(map(len, roles))
        assert set.union(*ids) <= part
        assert len(task.split(split)) == len(task.pool)
        available = len(part) - len(task.dev) - len(task.test)
        assert len(task.pool) == min(POOL, available) <= 256
        sources = set(task.dev.sources.tolist())
        assert len(sources) == 2
        assert set(task.test.sources.tolist()) == sources
        inside = np.isin(task.pool.sources, list(sources)).mean()
        assert 0.1 < inside <= 0.6
        for role, rows in zip(("dev", "test", "pool"), roles, strict=True):
            assert task.manifest["roles"][role] == len(rows)
            places = rows_of(origin, rows)
            for name in COLUMNS.keys() - {"domain_dots"}:
                expected = getattr(origin.pool, name)[places]
                np.testing.assert_array_equal(getattr(rows, name), expected)
        assert task.anchor is origin.anchor
        assert task.retention is origin.retention
        assert task.anchor_answers is origin.anchor_answers
        assert task.retention_answers is origin.retention_answers


def test_half_of_the_sources_are_cut_to_a_neighbourhood(origin: Bundle) -> None:
    initial = origin.pool.sketches("initial")
    units = initial / np.linalg.norm(initial, axis=1, keepdims=True)
    part = origin.split("train")
    cut_sources = []
    for number in range(40):
        task = SampledTask(origin, number, "train")
        held_out = np.concatenate([rows_of(origin, r) for r in (task.dev, task.test)])
        for source in np.unique(task.dev.sources):
            own = part[origin.pool.sources[part] == source]
            cosines = units[own] @ units[own].T
            half = np.sort(cosines, axis=1)[:, len(own) // 2]
            near = cosines >= half[:, None]  # the nearest half, for each centre
            cut_sources.append(near[:, np.isin(own, held_out)].all(axis=1).any())
    assert 0.35 < np.mean(cut_sources) < 0.65


def test_with_few_other_samples_the_pool_has_more_of_the_domain(
    of_sources: Callable[[list[int]], Bundle],
) -> None:
    origin = of_sources([200, 200, 20])
    for number in NUMBERS:
        pool = SampledTask(origin, number, "all").pool
        assert len(pool) == POOL
        assert (pool.sources == 2).sum() == 20


def test_two_sources_of_24_are_enough_and_one_is_not(
    of_sources: Callable[[list[int]], Bundle],
) -> None:
    origin = of_sources([24, 24])
    for number in NUMBERS:
        task = SampledTask(origin, number, "all")
        assert len(task.pool) + len(task.dev) + len(task.test) == 48
        assert np.bincount(task.dev.sources).max() <= 8
        assert np.bincount(task.test.sources).max() <= 4
    origin = of_sources([200, 23, 23])
    with pytest.raises(InputError, match="where 1 sources have 24 samples or more; ex"):
        SampledTask(origin, 0, "all")


# Gradients.


@pytest.mark.parametrize("number", NUMBERS)
def test_products_against_a_plain_loop(origin: Bundle, number: int) -> None:
    task = sample_task(origin, number, "train")
    pool, domain = (
        rows_of(origin, task.pool),
        np.concatenate([rows_of(origin, task.dev), rows_of(origin, task.test)]),
    )
    task_products = task.pool.products(np.arange(len(pool)))
    measured = len(domain) + len(origin.anchor) + len(origin.retention)
    assert task_products.shape == (len(pool), 2, measured)
    sketches = origin.pool.sketches("trajectory").astype(np.float64)
    sketches = sketches.reshape(-1, 2, origin.k)
    for place in range(0, len(pool), 37):
        for other, row in enumerate(domain.tolist()):
            for checkpoint in range(2):
                expected = sketches[pool[place], checkpoint] @ sketches[row, checkpoint]
                scale = np.linalg.norm(sketches[[pool[place], row], checkpoint], axis=1)
                product = task_products[place, checkpoint, other]
                assert abs(product - expected) < 1e-5 * scale.prod()
    others = origin.pool.products(pool)[:, :, len(origin.dev) + len(origin.test) :]
    np.testing.assert_allclose(task_products[:, :, len(domain) :], others, rtol=1e-6)
    np.testing.assert_array_equal(
        task.pool.answer_products(np.arange(len(pool))),
        origin.pool.answer_products(pool),
    )


@pytest.mark.parametrize("number", NUMBERS)
def test_an_off_domain_trajectory_replaces_the_later_checkpoints(
    origin: Bundle, with_off_domain: Bundle, number: int
) -> None:
    task = sample_task(with_off_domain, number, "train")
    plain = sample_task(origin, number, "train")
    later = slice(origin.k, 2 * origin.k)  # the first is the untouched model
    for role, from_ in (
        ("pool", with_off_domain.pool),
        ("dev", with_off_domain.pool),
        ("test", with_off_domain.pool),
        ("anchor", with_off_domain.anchor),
    ):
        rows, before = getattr(task, role), getattr(plain, role)
        np.testing.assert_array_equal(rows.ids, before.ids)
        actual, known = rows.sketches("trajectory"), before.sketches("trajectory")
        np.testing.assert_array_equal(actual[:, : origin.k], known[:, : origin.k])
        place = {number: row for row, number in enumerate(from_.ids.tolist())}
        origin_rows = np.array([place[number] for number in rows.ids.tolist()])
        off_domain = from_.sketches("off_domain")[origin_rows]
        np.testing.assert_array_equal(actual[:, later], off_domain)
        assert np.abs(actual[:, later] - known[:, later]).max() > 1
        np.testing.assert_array_equal(
            rows.sketches("initial"), before.sketches("initial")
        )

    # At the later checkpoint, products with dev, test and anchor change as well; those
    # with retention and those at the untouched model do not.
    products, before = (
        bundle.pool.products(np.arange(len(bundle.pool))) for bundle in (task, plain)
    )
    own = task.pool.sketches("trajectory")[:, later].astype(np.float64)
    parts = {role: getattr(task, role) for role in MEASURED}
    ends = np.cumsum([len(part) for part in parts.values()])
    for (role, part), end in zip(parts.items(), ends.tolist(), strict=True):
        columns = slice(end - len(part), end)
        if role == "retention":
            np.testing.assert_array_equal(
                products[:, 1, columns], before[:, 1, columns]
            )
            continue
        others = part.sketches("trajectory")[:, later].astype(np.float64)
        scale = np.outer(np.linalg.norm(own, axis=1), np.linalg.norm(others, axis=1))
        actual = products[:, 1, columns]
        assert (abs(actual - own @ others.T) / scale).max() < 1e-5
    np.testing.assert_array_equal(products[:, 0], before[:, 0])
    assert task.anchor_answers is with_off_domain.anchor_answers
    assert task.retention_answers is with_off_domain.retention_answers
    np.testing.assert_array_equal(
        *(b.pool.answer_products(np.arange(len(own))) for b in (task, plain))
    )


@pytest.mark.parametrize("number", NUMBERS)
def test_cosines_are_those_of_the_initial_sketches(origin: Bundle, number: int) -> None:
    task = sample_task(origin, number, "train")
    initial = origin.pool.sketches("initial").astype(np.float64)
    domain = initial[rows_of(origin, task.dev)].mean(0)
    assert task.manifest["domain_norm"] == pytest.approx(np.linalg.norm(domain))
    own = initial[rows_of(origin, task.pool)]
    dots = own @ domain
    np.testing.assert_allclose(task.pool.domain_dots, dots, rtol=1e-4, atol=1e-2)
    cosines = dots / np.linalg.norm(own, axis=1) / np.linalg.norm(domain)
    rows = np.arange(len(own))
    np.testing.assert_allclose(task.domain_cosines(rows), cosines, atol=1e-5)


# The learner's response.


def norms_of_dev(bundle: Bundle, kind: str) -> np.ndarray:
    """Return root mean square norms of the dev samples' sketches, by checkpoint."""
    count = len(bundle.manifest["learner"]["domain"]["slope"])
    blocks = np.split(bundle.dev.sketches(kind), count, axis=1)
    return np.array([np.sqrt((b**2).sum(axis=1).mean()) for b in blocks])


def test_the_domain_moves_no_farther_than_the_origins(origin: Bundle) -> None:
    before = origin.manifest["learner"]
    longer = []
    for number in range(24):
        task = sample_task(origin, number, "train")
        response = task.manifest["learner"]
        ratios = norms_of_dev(task, "trajectory") / norms_of_dev(origin, "trajectory")
        longer += (ratios > 1).tolist()
        assert response["sketches"] == "trajectory"
        for role, by in (("domain", np.minimum(ratios, 1)), ("anchor", ratios)):
            expected = np.array(before[role]["slope"]) * by
            np.testing.assert_allclose(response[role]["slope"], expected, rtol=1e-4)
            assert response[role]["share"] == before[role]["share"]
        expected = before["forgetting"]["curvature"] * ratios[0] ** 2
        curvature = response["forgetting"]["curvature"]
        assert curvature == pytest.approx(expected, rel=1e-4)
        pairs = zip(response["domain"]["slope"], before["domain"]["slope"], strict=True)
        assert all(mine <= whole for mine, whole in pairs)
    assert 0.2 < np.mean(longer) < 0.8


@pytest.mark.parametrize("has_trajectory", [True, False])
@pytest.mark.parametrize("number", NUMBERS)
def test_the_anchor_responds_to_picks_as_in_the_origin(
    origin: Bundle, without_trajectory: Bundle, has_trajectory: bool, number: int
) -> None:
    whole = origin if has_trajectory else without_trajectory
    task = sample_task(whole, number, "train")
    learners = SurrogateLearner(task), SurrogateLearner(whole)
    anchor_before = learners[1].anchor_losses().copy()
    answers_before = learners[1].answer_losses().copy()
    rng = np.random.default_rng(number)
    own = rng.choice(len(task.pool), 20, replace=False)
    for pair in zip(own, rows_of(whole, task.pool)[own], strict=True):
        for learner, row in zip(learners, pair, strict=True):
            learner.update(int(row))
        changes = [learner.anchor_losses() - anchor_before for learner in learners]
        np.testing.assert_allclose(*changes, rtol=1e-3, atol=1e-6)
        rises = [learner.answer_losses() - answers_before for learner in learners]
        np.testing.assert_allclose(*rises, rtol=1e-3, atol=1e-6)
        retention = [learner.retention_loss() for learner in learners]
        assert retention[0] == pytest.approx(retention[1], abs=1e-6)
        answers = [learner.answers_loss() for learner in learners]
        assert answers[0] == pytest.approx(answers[1], abs=1e-6)
    assert rises[0].min() > 1e-4
    assert np.abs(changes[0]).min() > 1e-4
    losses = task.dev.losses, task.test.losses
    learners[0].reset()
    initial_losses = learners[0].domain_loss(), learners[0].test_loss()
    assert initial_losses == pytest.approx(
        [values.mean() for values in losses], rel=1e-5
    )


@pytest.mark.parametrize("number", NUMBERS)
def test_the_dev_loss_follows_the_formula(origin: Bundle, number: int) -> None:
    task = sample_task(origin, number, "train")
    learner = SurrogateLearner(task)
    row = int(task.domain_cosines(np.arange(len(task.pool))).argmax())
    learner.update(row)
    # In the origin's units; a single pick makes an eighth of a step.
    unit = norms_of_dev(origin, "trajectory")
    factors = np.minimum(unit / norms_of_dev(task, "trajectory"), 1)
    response = origin.manifest["learner"]
    losses = task.dev.losses.astype(np.float64)
    x = np.zeros(len(losses))
    for c in range(2):
        cut = slice(c * origin.k, (c + 1) * origin.k)
        step = task.pool.sketches("trajectory", np.array([row]))[0, cut].astype(
            np.float64
        )
        dev = task.dev.sketches("trajectory")[:, cut] / unit[c] * factors[c]
        length = response["epochs"] / 8 / np.linalg.norm(step)
        x -= response["domain"]["slope"][c] * length * (dev @ step)
    p = 1 - np.exp(-losses)
    change = np.log(1 + p * (np.exp(x / p) - 1)).mean()
    assert change < 0
    # The domain's loss rises by a share of the forgetting.
    forgetting = learner.answer_losses().mean()
    learner.reset()
    forgetting -= learner.answer_losses().mean()
    change += response["domain"]["share"] * forgetting
    learner.update(row)
    predicted = learner.domain_loss() - losses.mean()
    assert predicted == pytest.approx(change, rel=2e-3)


def test_a_task_needs_no_trajectory(without_trajectory: Bundle) -> None:
    task = sample_task(without_trajectory, 1, "train")
    assert not task.has_trajectory
    env = SelectionEnv(str(without_trajectory.path), task_seed=1, **SIZES)
    assert env.bundle is task
    _, info = env.reset(seed=0)
    assert info["learner_sketches"] == "initial"
    assert env.step(0)[1] != 0


# The environment.


def test_an_environment_of_a_sampled_task(origin: Bundle) -> None:
    env = gymnasium.make(
        "OGS-Custom-v0", bundle=str(origin.path), task_seed=5, disable_env_checker=True
    ).unwrapped
    check_env(env)
    task = sample_task(origin, 5, "train")
    assert env.bundle is task
    assert SelectionEnv(str(origin.path), task_seed=np.int64(5)).bundle is task
    observation, info = env.reset(seed=0)
    assert info["domain_loss"] == pytest.approx(task.dev.losses.mean(), rel=1e-5)
    logs = np.log(task.dev.norms), task.dev.losses, np.log(task.dev.tokens)
    mean, deviation = origin.scales
    expected = (np.stack(logs, axis=1).mean(0) - mean) / deviation
    np.testing.assert_allclose(observation["context"][-3:], expected, atol=1e-4)
    other = pickle.loads(pickle.dumps(env))
    over = False
    while not over:
        assert env.observation_space.contains(observation)
        action = int(info["action_mask"].argmax())
        result = env.step(action)
        assert data_equivalence(other.step(action), result, exact=True)
        observation, _, over, _, info = result
    ids = set(origin.pool.hex_ids()) - {f"{n:016x}" for n in task.dev.ids.tolist()}
    assert len(info["selection"]) == env.budget
    assert set(info["selection"]) <= ids


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task_seed": -1}, "task_seed: -1; expected a whole number, 0 or more"),
        ({"task_seed": True}, "task_seed: True; expected a whole number, 0 or more"),
        ({"task_seed": 1.5}, "task_seed: 1.5; expected a whole number, 0 or more"),
        (
            {"task_seed": 1, "learner": "live"},
            "task_seed: given with learner='live'; expected the surrogate",
        ),
        (
            {"task_seed": 1, "split": "trian"},
            "unknown split 'trian'; did you mean train?",
        ),
    ],
)
def test_bad_arguments(origin: Bundle, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        SelectionEnv(str(origin.path), **kwargs)
    assert str(error.value) == message


def test_policies_act_in_a_sampled_task(origin: Bundle) -> None:
    env = SelectionEnv(str(origin.path), task_seed=2, **SIZES)
    totals: dict[str, float] = {}
    for name in ("oracle", "greedy", "random"):
        policy = make_policy(name, env, np.random.default_rng(0))
        totals[name] = sum(
            play_episode(env, policy, seed).total_return for seed in range(3)
        )
        assert len(env.picked) == env.budget
    assert totals["oracle"] > max(totals["greedy"], totals["random"])
