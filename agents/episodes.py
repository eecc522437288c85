"""Play the same episodes with several policies and summarise the returns."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from ogs_env.agents.evaluation import make, play_episode
from ogs_env.agents.navigator import Navigator
from ogs_env.agents.policies import Policy

# The episodes that choose the best model and those that report its return differ in
# their seeds, so that the choice does not bias the reported return.
CHOICE_SEEDS = range(1_000_000, 1_000_000 + 10_000)
REPORT_SEEDS = range(2_000_000, 2_000_000 + 10_000)


def is_native(env: str, kwargs: dict[str, Any]) -> bool:
    """Return whether the environment has a native vector environment."""
    live = kwargs.get("learner") == "live"
    return gym.spec(env).vector_entry_point is not None and not live


def make_together(env: str, kwargs: dict[str, Any], count: int) -> gym.vector.VectorEnv:
    """Make a vector environment with same-step autoreset, a native one if possible."""
    mode = AutoresetMode.SAME_STEP
    if is_native(env, kwargs):
        return gym.make_vec(env, count, autoreset_mode=mode.value, **kwargs)
    return gym.vector.SyncVectorEnv(
        [lambda: make(env, kwargs)] * count, autoreset_mode=mode
    )


def play_together(
    env: str, kwargs: dict[str, Any], agent: Navigator, seeds: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Play one episode per seed in parallel with an agent's deterministic actions.

    Args:
        env: Id of the environment.
        kwargs: Arguments of the environment.
        agent: The agent to evaluate.
        seeds: Seed of each episode.

    Returns:
        float64 (episodes,), undiscounted returns, and sums of `info["cost"]`.
    """
    envs = make_together(env, kwargs, len(seeds))
    observations, infos = envs.reset(seed=list(seeds))  # type: ignore[arg-type]
    playing = np.ones(len(seeds), np.bool_)
    returns, costs = np.zeros(len(seeds)), np.zeros(len(seeds))
    while playing.any():
        actions = agent.act(observations, infos["action_mask"].astype(np.bool_))
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        over = terminated | truncated
        step_costs = infos["cost"]
        if over.any():  # after autoreset, `infos` describes the next episodes
            step_costs = np.where(over, infos["final_info"]["cost"], step_costs)
        returns += rewards * playing
        costs += step_costs * playing
        playing &= ~over
    envs.close()
    return returns, costs


def play(
    environment: gym.Env, policy: Policy, seeds: Sequence[int]
) -> NDArray[np.float64]:
    """Play one episode per seed with a policy.

    Args:
        environment: A `SelectionEnv` or a `MixtureEnv`, wrapped or not.
        policy: A callable from (observation, info, env) to an action.
        seeds: Seed of each episode; the same seeds give every policy the same streams.

    Returns:
        float64 (episodes,), undiscounted returns.
    """
    return np.array([play_episode(environment, policy, s).total_return for s in seeds])


def summarise(
    returns: NDArray[np.float64], resamples: int = 10_000
) -> dict[str, float]:
    """Return the mean of returns with its 95 % interval.

    Percentile bootstrap (Efron and Tibshirani 1993). For several training runs on the
    same episodes, runs and episodes are both resampled, since training seeds and
    episodes are two sources of variance.

    Args:
        returns: float64 (episodes,) or (runs, episodes).
        resamples: Number of bootstrap resamples.

    Returns:
        `mean`, `low` and `high`.
    """
    table = np.atleast_2d(returns)
    rng = np.random.default_rng(0)
    weights = [
        rng.multinomial(size, np.full(size, 1 / size), size=resamples) / size
        for size in table.shape
    ]
    means = np.einsum("ri,ij,rj->r", weights[0], table, weights[1], optimize=True)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(table.mean()), "low": float(low), "high": float(high)}
