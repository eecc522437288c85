import json
import shutil

import numpy as np
import pytest
import torch
from helpers.make_bundle import edit_manifest, make_bundle

from ogs_env.agents import deployment
from ogs_env.agents.callback import Clock
from ogs_env.agents.deployment import AgentSelector, load_selector
from ogs_env.agents.episodes import (
    CHOICE_SEEDS,
    REPORT_SEEDS,
    make,
    play,
    play_together,
    summarise,
)
from ogs_env.agents.navigator import Navigator
from ogs_env.agents.policies import make_policy
from ogs_env.agents.training import TrainSettings, is_trained, rank, train
from ogs_env.bundle import load_bundle
from ogs_env.envs import observations
from ogs_env.envs.observations import Candidates, candidates
from ogs_env.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_bundle(
        tmp_path_factory.mktemp("bundles") / "pool", pool=1200, answers=False
    )


def settings(folder, **changes):
    defaults = {
        "env": "OGS-Custom-v0",
        "env_kwargs": {"bundle": str(folder), "budget": 16, "num_slates": 8},
        "seconds": None,
        "steps": 10_000,
        "n_envs": 8,
        "n_steps": 64,
        "batch_size": 128,
        "learning_rate": 3e-3,
        "evaluations": 2,
        "evaluation_episodes": 16,
    }
    return TrainSettings(**(defaults | changes))


def environment_of(folder):
    return make("OGS-Custom-v0", {**settings(folder).env_kwargs, "split": "test"})


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A briefly trained agent, and its folder."""
    agent_folder = tmp_path_factory.mktemp("agents") / "brief"
    return train(settings(folder), agent_folder), agent_folder


def test_brief_training_beats_random_clearly(folder, trained):
    environment = environment_of(folder)
    seeds = REPORT_SEEDS[:60]
    policy = make_policy("random", environment, np.random.default_rng(0))
    random = play(environment, policy, seeds)
    agent = play(environment, trained[0], seeds)
    gain = summarise(agent - random)
    assert gain["low"] > 0.3 * random.mean() > 0
    assert (agent > random).mean() > 0.8


def test_saved_agent_acts_as_the_trained_one(folder, trained):
    agent, agent_folder = trained
    loaded = Navigator.load(agent_folder)
    environment = environment_of(folder)
    seeds = REPORT_SEEDS[:5]
    np.testing.assert_array_equal(
        play(environment, loaded, seeds), play(environment, agent, seeds)
    )


def test_parallel_episodes_equal_serial_episodes(folder, trained):
    kwargs = {**settings(folder).env_kwargs, "split": "test"}
    seeds = REPORT_SEEDS[5:12]
    episodes = play_together("OGS-Custom-v0", kwargs, trained[0], seeds)
    returns, costs = episodes.returns, episodes.costs
    environment = environment_of(folder)
    np.testing.assert_allclose(returns, play(environment, trained[0], seeds))
    expected_costs = []
    for seed in seeds:
        observation, info = environment.reset(seed=seed)
        expected_costs.append(0.0)
        done = False
        while not done:
            action = trained[0](observation, info, environment)
            observation, _, terminated, truncated, info = environment.step(action)
            expected_costs[-1] += info["cost"]
            done = terminated or truncated
    np.testing.assert_allclose(costs, expected_costs, rtol=1e-6)


@pytest.mark.parametrize("algorithm", ["ppo", "maskable-ppo"])
def test_agents_are_trained_in_mixtures_and_with_cost_limits(
    folder, tmp_path, algorithm
):
    sizes = {"steps": 96, "n_envs": 2, "n_steps": 24, "batch_size": 24}
    agent = train(
        settings(
            folder,
            env="OGS-Custom-Mixture-v0",
            env_kwargs={"bundle": str(folder), "steps": 8},
            algorithm=algorithm,
            cost_limit=1e-3,
            evaluations=2,
            evaluation_episodes=3,
            **sizes,
        ),
        tmp_path,
    )
    curve = agent.description["training"]["curve"]
    assert [point["multiplier"] for point in curve] == sorted(
        point["multiplier"] for point in curve
    )
    assert 0 < curve[-1]["multiplier"] < 1
    assert agent.description["environment"]["steps"] == 8
    loaded = Navigator.load(tmp_path)
    kwargs = {"bundle": str(folder), "steps": 8, "split": "test"}
    episodes = play_together("OGS-Custom-Mixture-v0", kwargs, loaded, range(2))
    assert episodes.returns.shape == episodes.costs.shape == (2,)
    with pytest.raises(InputError, match="a selection needs an agent that was trained"):
        AgentSelector(tmp_path)


def test_evaluations_within_the_limit_rank_first(folder):
    limited = settings(folder, cost_limit=1.0)
    within = [{"return": 2.0, "cost": 1.04}, {"return": 1.0, "cost": 0.2}]
    above = [{"return": 9.0, "cost": 1.2}, {"return": 10.0, "cost": 3.0}]
    ranks = [rank(limited, point) for point in [*within, *above]]
    assert sorted(ranks, reverse=True) == ranks


def test_the_description_has_the_training_of_the_agent(trained):
    description = json.loads((trained[1] / "agent.json").read_text())
    assert description["bundle"] == "made"
    assert description["space"] == "made-64"
    assert description["environment"]["budget"] == 16
    assert description["reward_weights"]["domain_gain"] == 1.0
    assert description["settings"]["steps"] == 10_000
    training = description["training"]
    assert training["steps"] >= 10_000
    assert training["kept"]["return"] == max(c["return"] for c in training["curve"])


def test_same_seed_gives_the_same_weights_another_seed_others(folder):
    short = {
        "steps": 300,
        "n_envs": 4,
        "n_steps": 32,
        "batch_size": 64,
        "evaluations": 1,
    }
    short["evaluation_episodes"] = 2
    first, repeated, other = (
        train(settings(folder, seed=seed, **short)).network.state_dict()
        for seed in (7, 7, 8)
    )
    assert all(torch.equal(first[name], repeated[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_an_agent_is_trained_with_its_own_settings_alone(folder, trained, tmp_path):
    assert is_trained(settings(folder), trained[1])
    assert not is_trained(settings(folder, seed=1), trained[1])
    assert not is_trained(settings(folder), tmp_path)
    shutil.copytree(trained[1], tmp_path, dirs_exist_ok=True)
    file = tmp_path / "agent.json"
    description = json.loads((trained[1] / "agent.json").read_text())
    description["settings"]["oracle_episodes"] = 1200  # as earlier versions wrote it
    file.write_text(json.dumps(description))
    assert is_trained(settings(folder), tmp_path)
    (tmp_path / "policy.safetensors").write_bytes(b"damaged")
    assert not is_trained(settings(folder), tmp_path)
    shutil.copytree(trained[1], tmp_path, dirs_exist_ok=True)
    del description["settings"]["width"]
    file.write_text(json.dumps(description))
    assert not is_trained(settings(folder), tmp_path)


def test_time_limit_ends_training(folder):
    agent = train(
        settings(folder, seconds=1.0, steps=10**9, evaluation_episodes=2, evaluations=1)
    )
    training = agent.description["training"]
    assert training["seconds"] < 20
    assert 0 < training["steps"] < 10**6


def test_choice_seeds_and_report_seeds_are_disjoint():
    assert not set(CHOICE_SEEDS) & set(REPORT_SEEDS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": None, "steps": None}, "needs a limit"),
        ({"seconds": -1.0}, "seconds is -1.0"),
        ({"steps": 0}, "steps is 0"),
        ({"algorithm": "pro"}, "unknown algorithm 'pro'; did you mean ppo"),
        ({"algorithm": "imitation"}, "use ImitationSettings"),
        ({"cost_limit": 0.0}, "cost_limit is 0.0, expected more than 0"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        TrainSettings(**changes)


def test_unknown_environment_is_refused_with_near_names():
    with pytest.raises(InputError, match="did you mean OGS-Custom-v0"):
        train(TrainSettings(env="OGS-Costum-v0", steps=1))


def test_clock_uses_the_nearer_limit():
    assert Clock(None, 100).spent(25) == 0.25
    assert Clock(1e9, 100).spent(50) == 0.5
    assert Clock(1e-9, 100).spent(0) == 1.0


def test_interval_covers_the_true_mean_and_widens_with_different_runs():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        summary = summarise(rng.normal(3.0, 2.0, size=100), resamples=500)
        covered += summary["low"] <= 3.0 <= summary["high"]
    assert 178 <= covered <= 199
    equal = np.tile(rng.normal(size=100), (3, 1))
    different = equal + np.array([[-3.0], [0.0], [3.0]])
    widths = [summarise(t)["high"] - summarise(t)["low"] for t in (equal, different)]
    assert widths[1] > 2 * widths[0]


@pytest.mark.parametrize("budget", [1, 5, 77, 600, 1200])
def test_deployment_selects_exactly_the_budget(folder, trained, budget):
    bundle = load_bundle(folder)
    selector = AgentSelector(trained[1])
    rows, scores = selector.select(bundle, budget, np.random.default_rng(0))
    assert rows.dtype == np.int64
    assert scores.dtype == np.float32
    assert rows.shape == scores.shape == (budget,)
    assert len(np.unique(rows)) == budget
    assert rows.min() >= 0
    assert rows.max() < 1200
    assert (np.diff(scores) <= 0).all()
    assert scores.min() >= 0
    assert scores.max() <= 1
    repeated, _ = selector.select(bundle, budget, np.random.default_rng(0))
    np.testing.assert_array_equal(repeated, rows)


def test_deployment_observations_equal_environment_observations(
    folder, trained, monkeypatch
):
    bundle, selector = load_bundle(folder), AgentSelector(trained[1])
    features, observed = candidates(bundle, "initial"), []
    log_probabilities = selector.navigator.log_probabilities

    def spy(observation, masks):
        observed.append(observation["candidates"].reshape(-1, 15))
        assert observation["candidates"].shape[1] == 16
        assert masks[:, :-1].all()
        assert not masks[:, -1].any()
        return log_probabilities(observation, masks)

    monkeypatch.setattr(selector.navigator, "log_probabilities", spy)
    rows, _ = selector.select(bundle, 5, np.random.default_rng(0), np.arange(50))
    assert len(observed) == 5  # one pick in each of five rounds
    every = features.places(np.arange(50))
    row_of = {place[:-2].tobytes(): row for row, place in enumerate(every)}
    cosines = features.cosines(np.arange(50)[:, None], rows)
    for number, slates in enumerate(observed):
        assert (slates[:, -1] == 1).all()
        dealt = [row_of[place[:-2].tobytes()] for place in slates]
        removed = set(range(50)) - set(dealt)
        assert len(removed) == number
        assert removed <= set(rows)
        places = [place for place, row in enumerate(rows) if row in removed]
        nearest = cosines[:, places].max(axis=1) if places else np.zeros(50)
        np.testing.assert_allclose(slates[:, -2], nearest[dealt], atol=1e-6)


def test_deployment_splits_a_large_pool(folder, trained, monkeypatch):
    bundle, selector = load_bundle(folder), AgentSelector(trained[1])
    monkeypatch.setattr(deployment, "_WHOLE", 400)
    monkeypatch.setattr(deployment, "_PART", 250)
    rows, _ = selector.select(bundle, 77, np.random.default_rng(0))
    assert len(set(rows.tolist())) == 77
    rows, _ = selector.select(bundle, 2, np.random.default_rng(0))
    assert len(set(rows.tolist())) == 2


def test_deployment_reads_a_large_pool_in_parts(folder, trained, monkeypatch):
    bundle, selector = load_bundle(folder), AgentSelector(trained[1])
    monkeypatch.setattr(deployment, "_WHOLE", 100)
    monkeypatch.setattr(deployment, "_PART", 100)
    prepared = selector.select(bundle, 60, np.random.default_rng(0))
    monkeypatch.setattr(observations, "_PREPARED_ROWS", 0)
    monkeypatch.setattr(deployment, "candidates", Candidates)
    read = selector.select(bundle, 60, np.random.default_rng(0))
    for one, other in zip(prepared, read, strict=True):
        np.testing.assert_array_equal(one, other)


def test_deployment_stays_within_the_given_candidates(folder, trained):
    candidates = np.arange(30, 70)
    selector = AgentSelector(trained[1])
    rng = np.random.default_rng(0)
    rows, _ = selector.select(load_bundle(folder), 11, rng, candidates)
    assert len(rows) == 11
    assert set(rows) <= set(candidates)


def test_deployment_accepts_a_pool_smaller_than_a_stream(tmp_path, trained):
    small = load_bundle(make_bundle(tmp_path / "small", pool=40))
    rows, _ = AgentSelector(trained[1]).select(small, 6, np.random.default_rng(0))
    assert len(set(rows)) == 6


def test_deployed_selection_is_better_than_a_random_one(folder, trained):
    from ogs_env.learners.surrogate import SurrogateLearner

    bundle = load_bundle(folder)
    part = bundle.split("test")

    def value(rows):
        learner = SurrogateLearner(bundle)
        domain, anchor = learner.domain_loss(), learner.anchor_losses()
        for row in rows:
            learner.update(int(row))
        worst = (1 - learner.anchor_losses() / anchor).min()
        return 1 - learner.domain_loss() / domain + worst

    rng = np.random.default_rng(0)
    selector = AgentSelector(trained[1])
    selected = value(selector.select(bundle, 30, rng, part)[0])
    random = [value(rng.permutation(part)[:30]) for _ in range(20)]
    assert selected > max(random)


def test_another_sketch_space_is_refused(tmp_path, trained):
    other = make_bundle(tmp_path / "other", pool=300)
    edit_manifest(other, space="elsewhere")
    with pytest.raises(InputError, match=r"in sketch space 'made-64'.*elsewhere"):
        AgentSelector(trained[1]).select(
            load_bundle(other), 5, np.random.default_rng(0)
        )


def test_another_basis_is_refused(tmp_path, trained):
    other = load_bundle(make_bundle(tmp_path / "other", pool=300, d=5))
    with pytest.raises(InputError, match=r"reads 15 columns a candidate.* shows 12"):
        AgentSelector(trained[1]).select(other, 5, np.random.default_rng(0))


@pytest.mark.parametrize("budget", [0, -1, 1201])
def test_wrong_budget_is_refused(folder, trained, budget):
    selector = AgentSelector(trained[1])
    with pytest.raises(InputError, match=f"budget: {budget}; expected 1 to the 1200"):
        selector.select(load_bundle(folder), budget, np.random.default_rng(0))


def test_load_selector_finds_agents_and_baselines(trained):
    assert isinstance(load_selector(str(trained[1])), AgentSelector)
    assert not isinstance(load_selector("random"), AgentSelector)
    with pytest.raises(InputError, match="unknown agent 'randon'; did you mean random"):
        load_selector("randon")
