"""Dual ascent on problems whose constrained optimum is known."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from ogs_env.agents.lagrangian import CostLimit


class TwoArms(gymnasium.Env):
    """One step: arm 0 is worth `safe` and free, arm 1 is worth 1 and costs 1.

    With a limit c the optimum takes arm 1 with probability c, and the multiplier is
    what arm 1 is worth more.
    """

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, safe=0.5):
        self.safe = safe

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {"cost": 0.0}

    def step(self, action):
        cost = float(action)
        reward = cost + self.safe * (1 - cost)
        return np.zeros(1, np.float32), reward, True, False, {"cost": cost}


class Ascend(BaseCallback):
    def __init__(self, limit):
        super().__init__()
        self.limit = limit
        self.costs, self.multipliers = [], []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.costs.append(self.limit.mean_cost())
        self.limit.ascend(self.costs[-1])
        self.multipliers.append(self.limit.multiplier)


@pytest.mark.parametrize("limit", [0.2, 0.6])
def test_cost_settles_at_the_limit_and_the_multiplier_at_its_price(limit):
    envs = CostLimit(DummyVecEnv([TwoArms] * 64), limit, rate=0.01)
    entropy = 0.05
    model = PPO(
        "MlpPolicy",
        envs,
        n_steps=4,
        batch_size=256,
        n_epochs=4,
        learning_rate=1e-2,
        ent_coef=entropy,
        normalize_advantage=False,
        policy_kwargs={"net_arch": [8]},
        seed=0,
        device="cpu",
    )
    ascend = Ascend(envs)
    model.learn(256 * 250, callback=ascend)
    assert np.mean(ascend.costs[-125:]) == pytest.approx(limit, rel=0.05)
    # With the entropy bonus arm 1 has probability c where its advantage,
    # (0.5 - multiplier) / (1 + multiplier), is entropy * logit(c).
    edge = entropy * np.log(limit / (1 - limit))
    price = (0.5 - edge) / (1 + edge)
    assert np.mean(ascend.multipliers[-125:]) == pytest.approx(price, rel=0.05)


def run_script(rewards_and_costs, lengths, multiplier=0.0):
    """Run one environment with given rewards, costs and lengths of episodes."""

    class Script(TwoArms):
        ends = set(np.cumsum(lengths).tolist())
        steps = iter(enumerate(rewards_and_costs, start=1))

        def step(self, action):
            number, (reward, cost) = next(self.steps)
            observation = np.zeros(1, np.float32)
            return observation, reward, number in self.ends, False, {"cost": cost}

    envs = CostLimit(DummyVecEnv([Script]), limit=1.0, rate=0.5)
    envs.multiplier = multiplier
    envs.reset()
    return envs, [envs.step(np.array([0]))[1][0] for _ in rewards_and_costs]


def test_cost_is_paid_at_the_multipliers_price():
    _, rewards = run_script([(1.0, 0.5), (2.0, 0.0), (0.0, 3.0)], [3], multiplier=3.0)
    expected = [(1 - 1.5) / 4, 2 / 4, -9 / 4]
    np.testing.assert_allclose(rewards, expected)


def test_costs_are_those_of_whole_episodes():
    steps = [(0.0, 0.25), (0.0, 0.25), (0.0, 2.0), (0.0, 99.0)]
    envs, _ = run_script(steps, [2, 1, 5])
    assert envs.mean_cost() == pytest.approx((0.5 + 2.0) / 2)
    assert np.isnan(envs.mean_cost())  # none has ended since


@pytest.mark.parametrize(
    ("before", "cost", "after"),
    [(0.1, 1.5, 0.35), (0.1, 50.0, 0.6), (0.7, 0.0, 0.2), (0.3, 0.0, 0.0)],
)
def test_the_multiplier_moves_by_its_rate_at_most_and_never_below_zero(
    before, cost, after
):
    envs = CostLimit(DummyVecEnv([TwoArms]), limit=1.0, rate=0.5)
    envs.multiplier = before
    envs.ascend(cost)
    assert envs.multiplier == pytest.approx(after)
