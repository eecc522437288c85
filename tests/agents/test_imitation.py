"""Imitation of the oracle: its examples and the training."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.make_bundle import make_bundle
from stable_baselines3.common.callbacks import ConvertCallback
from stable_baselines3.common.logger import Logger, configure

from ogs_env.agents.episodes import REPORT_SEEDS, make, play, play_together
from ogs_env.agents.imitation import EPOCHS, collect, fit
from ogs_env.agents.navigator import Navigator, build_network
from ogs_env.agents.policies import make_policy
from ogs_env.agents.training import ImitationSettings, is_trained, train
from ogs_env.envs.selection import SelectionEnv
from ogs_env.errors import InputError

KWARGS = {"budget": 12, "num_slates": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "pool", pool=1200)


def environment(folder: Path) -> SelectionEnv:
    return make("OGS-Custom-v0", {"bundle": str(folder), **KWARGS}).unwrapped


def settings(folder: Path, **changes: Any) -> ImitationSettings:
    kwargs = {"bundle": str(folder), **KWARGS}
    values = {"oracle_episodes": 160, "evaluation_episodes": 16, **changes}
    return ImitationSettings(env="OGS-Custom-v0", env_kwargs=kwargs, **values)


def test_examples_are_the_oracles_choices(folder: Path) -> None:
    examples = collect(environment(folder), 2, np.random.default_rng(3))
    targets, rows = examples["targets"].numpy(), examples["candidates"].numpy()
    rng, env = np.random.default_rng(3), environment(folder)
    step = 0
    for _ in range(2):
        observation, info = env.reset(seed=int(rng.integers(2**31)))
        oracle = make_policy("oracle", env, rng)
        plan: set[int] = set()
        done = False
        while not done:
            oracle(observation, info, env)  # plans on the episode's first call
            plan = set(oracle._plan.tolist())
            table = env.slate
            right = [place for place, row in enumerate(table) if int(row) in plan]
            expected = np.zeros(17, np.float32)
            expected[right or [16]] = 1 / max(len(right), 1)
            np.testing.assert_allclose(targets[step], expected, atol=1e-6)
            observed = observation["candidates"].astype(np.float16)
            np.testing.assert_array_equal(rows[step], observed)
            action = rng.choice(np.flatnonzero(expected))
            observation, _, done, _, info = env.step(action)
            step += 1
    assert step == len(targets) == len(examples["context"])


def test_the_same_seed_gives_the_same_agent(folder: Path, tmp_path: Path) -> None:
    values = settings(folder, oracle_episodes=6)
    before = torch.get_rng_state()
    agents = [train(values, tmp_path / name) for name in "ab"]
    assert torch.equal(torch.get_rng_state(), before)  # the global state is unchanged
    states = [agent.network.state_dict() for agent in agents]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    other = train(settings(folder, oracle_episodes=6, seed=1)).network.state_dict()
    assert not torch.equal(states[0]["pick_head.weight"], other["pick_head.weight"])
    loaded = Navigator.load(tmp_path / "a")
    assert loaded.description["settings"]["algorithm"] == "imitation"
    curve = loaded.description["training"]["curve"]
    assert len(curve) == EPOCHS
    assert loaded.description["training"]["kept"] in curve
    assert is_trained(values, tmp_path / "a")
    assert not is_trained(settings(folder), tmp_path / "a")


def test_on_real_data_the_agent_beats_random_picks() -> None:
    agent = train(ImitationSettings(oracle_episodes=100, evaluation_episodes=16))
    seeds, name = REPORT_SEEDS[:16], "OGS-Medical-v0"
    env = make(name, {"split": "test"})
    random, oracle = (
        play(env, make_policy(policy, env, np.random.default_rng(0)), seeds).mean()
        for policy in ("random", "oracle")
    )
    returns = play_together(name, {"split": "test"}, agent, seeds).returns
    assert returns.mean() > random + 0.4 * (oracle - random)


def test_the_critic_is_unchanged(folder: Path) -> None:
    examples = collect(environment(folder), 2, np.random.default_rng(0))
    row, context = (examples[name].shape[-1] for name in ("candidates", "context"))
    network = build_network(row, context, 16, True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    generator, logger = torch.Generator().manual_seed(0), Logger(None, [])
    examples_seen = list(fit(network, examples, generator, logger))
    assert examples_seen == [len(examples["targets"]) * (n + 1) for n in range(EPOCHS)]
    after = network.state_dict()
    for name, value in before.items():
        of_critic = name.startswith(("critic", "value_head"))
        assert torch.equal(after[name], value) is of_critic, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "ppo"}, "algorithm is 'ppo', .* use TrainSettings for PPO"),
        ({"oracle_episodes": 0}, "oracle_episodes is 0, expected at least 1"),
    ],
)
def test_wrong_settings_are_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        settings(folder, **changes)


def test_loss_and_evaluations_are_logged(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ogs_env")
    logger = configure(str(tmp_path), ["csv"])
    agent = train(settings(folder, oracle_episodes=80), logger=logger)
    logger.close()
    with (tmp_path / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    # Several minibatches an epoch, and they are learned.
    assert len(losses) > EPOCHS
    assert losses[-1] < losses[0]
    curve = agent.description["training"]["curve"]
    logged = [row["evaluation/return"] for row in rows if row["evaluation/return"]]
    expected = [point["return"] for point in curve]
    np.testing.assert_allclose([float(value) for value in logged], expected)
    # And each evaluation is a line for the user.
    lines = [message for message in caplog.messages if "examples: return" in message]
    assert len(lines) == EPOCHS
    assert f"{curve[-1]['steps']:,} examples: return" in lines[-1]
    best = agent.description["training"]["kept"]["return"]
    assert f"kept model {best:6.2f}" in lines[-1]


def test_callbacks_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="'imitation' takes no callbacks"):
        train(settings(folder), callbacks=[ConvertCallback(print)])


def test_a_mixture_has_no_oracle_to_imitate(folder: Path) -> None:
    values = ImitationSettings(
        env="OGS-Custom-Mixture-v0", env_kwargs={"bundle": str(folder)}
    )
    with pytest.raises(InputError, match=r"imitation: .* expected a SelectionEnv"):
        train(values)
