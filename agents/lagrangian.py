"""A limit on the cost of an episode, by Lagrangian relaxation.

The problem is to maximise E[return] subject to E[cost of an episode] <= limit (a
constrained Markov decision process, Altman 1999). For a multiplier m >= 0 the policy
maximises E[return - m * cost]; m rises while the cost is above the limit and falls
while it is below (dual ascent, as in PPO-Lagrangian of Ray, Achiam and Amodei 2019,
"Benchmarking Safe Exploration in Deep Reinforcement Learning").
"""

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


class CostLimit(VecEnvWrapper):
    """Charges costs: (reward - multiplier * `info["cost"]`) / (1 + multiplier).

    The divisor keeps the scale of rewards about constant (Stooke, Achiam and Abbeel
    2020, arXiv 2007.03964).

    Args:
        venv: Environments whose infos have `cost`.
        limit: Limit of an episode's mean cost, in units of `info["cost"]`; positive.
        rate: Largest change of the multiplier in one call of `ascend`: it rises by
            this at a cost of twice the limit or more and falls by it at no cost.

    Attributes:
        multiplier: Price of a unit of cost in units of reward; 0 at the start.
    """

    def __init__(self, venv: VecEnv, limit: float, rate: float) -> None:
        super().__init__(venv)
        self.limit, self.rate = limit, rate
        self.multiplier = 0.0
        self._costs = np.zeros(venv.num_envs)
        self._episode_costs: list[NDArray[np.float64]] = []

    def reset(self) -> VecEnvObs:
        """Reset the environments and the costs of their episodes."""
        self._costs[:] = 0
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Step the environments and charge the costs of the step."""
        observations, rewards, dones, infos = self.venv.step_wait()
        costs = np.array([info["cost"] for info in infos])
        self._costs += costs
        self._episode_costs.append(self._costs[dones])
        self._costs[dones] = 0
        charged = (rewards - self.multiplier * costs) / (1 + self.multiplier)
        return observations, charged.astype(np.float32), dones, infos

    def mean_cost(self) -> float:
        """Return the mean cost of the episodes that ended since the last call.

        NaN if none ended.
        """
        costs = np.concatenate([*self._episode_costs, []])
        self._episode_costs = []
        return float(costs.mean()) if len(costs) else float("nan")

    def ascend(self, cost: float) -> None:
        """Update the multiplier by the mean cost of evaluated episodes."""
        excess = min(max(cost / self.limit - 1, -1.0), 1.0)
        self.multiplier = max(0.0, self.multiplier + self.rate * excess)
