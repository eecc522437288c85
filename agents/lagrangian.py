"""A limit on what an episode costs: the Lagrangian of a constrained problem.

Maximise E[return] where E[cost of an episode] <= limit (a constrained Markov decision
process, Altman 1999). For a multiplier m >= 0 the policy maximises
E[return - m * cost]; m rises while episodes cost more than the limit and falls while
they cost less (dual ascent, as PPO-Lagrangian of Ray, Achiam, Amodei 2019,
"Benchmarking Safe Exploration in Deep Reinforcement Learning").
"""

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


class CostLimit(VecEnvWrapper):
    """Rewards are (reward - multiplier * `info["cost"]`) / (1 + multiplier).

    The divisor keeps their size about what it was (Stooke, Achiam, Abbeel 2020, arXiv
    2007.03964).

    Args:
        venv: Its infos have `cost`, in the environment's units.
        limit: Of an episode's mean cost; positive.
        rate: What the multiplier gains by an `ascend` at twice the limit or more, and
            loses by one at no cost.

    Attributes:
        multiplier: What a unit of cost is worth in units of reward.
    """

    def __init__(self, venv: VecEnv, limit: float, rate: float) -> None:
        super().__init__(venv)
        self.limit, self.rate = limit, rate
        self.multiplier = 0.0
        self._costs = np.zeros(venv.num_envs)
        self._ended: list[NDArray[np.float64]] = []

    def reset(self) -> VecEnvObs:
        """Begin new episodes, which have cost nothing."""
        self._costs[:] = 0
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Play the actions; pay for what they cost."""
        observations, rewards, dones, infos = self.venv.step_wait()
        costs = np.array([info["cost"] for info in infos])
        self._costs += costs
        self._ended.append(self._costs[dones])
        self._costs[dones] = 0
        paid = (rewards - self.multiplier * costs) / (1 + self.multiplier)
        return observations, paid.astype(np.float32), dones, infos

    def mean_cost(self) -> float:
        """Return the mean cost of the episodes that ended since the last call.

        NaN if none has.
        """
        costs = np.concatenate([*self._ended, []])
        self._ended = []
        return float(costs.mean()) if len(costs) else float("nan")

    def ascend(self, cost: float) -> None:
        """Move the multiplier by the mean cost of evaluated episodes."""
        excess = min(max(cost / self.limit - 1, -1.0), 1.0)
        self.multiplier = max(0.0, self.multiplier + self.rate * excess)
