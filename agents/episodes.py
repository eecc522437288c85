"""Play the same episodes with several policies and summarise the returns."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from ogs_env.agents.evaluation import Evaluation, make, play_episode
from ogs_env.agents.navigator import Navigator
from ogs_env.agents.policies import Policy
from ogs_env.envs.vector import SelectionVectorEnv
from ogs_env.learners import UNCHANGED
from ogs_env.rewards import NO_PICK, episode_terms

# The episodes that choose the best model and those that report its return differ in
# their seeds, so that the choice does not bias the reported return.
CHOICE_SEEDS = range(1_000_000, 1_000_000 + 10_000)
REPORT_SEEDS = range(2_000_000, 2_000_000 + 10_000)


def is_native(env: str, kwargs: dict[str, Any]) -> bool:
    """Return whether the environment has a native vector environment."""
    maker = gym.spec("OGS-Custom-v0").vector_entry_point
    live = kwargs.get("learner") == "live"
    return gym.spec(env).vector_entry_point == maker and not live


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
) -> Evaluation:
    """Play one episode per seed in parallel with an agent's deterministic actions.

    Args:
        env: Id of the environment.
        kwargs: Arguments of the environment.
        agent: The agent to evaluate.
        seeds: Seed of each episode.
    """
    count = len(seeds)
    envs: Any = make_together(env, kwargs, count)
    native = isinstance(envs, SelectionVectorEnv)
    single = envs.single if native else envs.envs[0].unwrapped
    observations, infos = envs.reset(seed=list(seeds))
    running = np.ones(count, np.bool_)
    steps = np.zeros(count)
    sums = {name: np.zeros(count) for name in ("return", "cost", *NO_PICK)}
    changes = {name: np.zeros(count) for name in UNCHANGED}
    selections: list[list[str]] = [[] for _ in seeds]
    while running.any():
        actions = agent.act(observations, infos["action_mask"].astype(np.bool_))
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        over = terminated | truncated
        values = {name: infos[name] for name in sums if name != "return"}
        if over.any():  # after autoreset, `infos` describes the next episodes
            final = infos["final_info"]
            values = {n: np.where(over, final[n], own) for n, own in values.items()}
            ended = over & running
            for name, column in changes.items():
                column[ended] = final[name][ended]
            for index in np.flatnonzero(ended).tolist():
                selections[index] = single.sample_ids(final["selection"][index])
        values["return"] = rewards
        for name, total in sums.items():
            total += values[name] * running
        steps += running
        running &= ~over
    envs.close()
    return Evaluation(
        returns=sums.pop("return"),
        costs=sums.pop("cost"),
        terms=episode_terms(sums, steps),
        selections=selections,
        test_changes=changes["test_change"],
        retention_changes=changes["retention_change"],
        answers_changes=changes["answers_change"],
    )


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
