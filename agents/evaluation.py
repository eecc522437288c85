"""Evaluate a policy: play seeded episodes and collect what each returned.

`evaluate` accepts any kind of policy. `play_episode` is the loop that it, training's
comparison, the benchmark and its verification share.
"""

import contextlib
import importlib
import inspect
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ogs_env.agents.policies import EqualQuota, Policy, make_policy
from ogs_env.errors import InputError, unknown_name
from ogs_env.rewards import NO_PICK, episode_terms


@dataclass(frozen=True)
class Episode:
    """Result of one episode.

    Attributes:
        total_return: Undiscounted sum of rewards.
        cost: Sum of `info["cost"]`, percent.
        terms: Each reward term in `info`, as `rewards.episode_terms`.
        selection: Ids of the picked samples in order.
        test_change: Change of the domain test loss, percent; negative is better.
        retention_change: Change of the retention loss, percent.
        answers_change: Change of the loss on own answers to retention prompts, percent.
        policy_seconds: Time in the policy, without the environment's steps.
    """

    total_return: float
    cost: float
    terms: dict[str, float]
    selection: list[str]
    test_change: float
    retention_change: float
    answers_change: float
    policy_seconds: float


@dataclass(frozen=True)
class Evaluation:
    """Results of evaluated episodes; each field is by episode.

    Attributes:
        returns: float64 (episodes,), as `Episode.total_return`.
        costs: float64 (episodes,).
        terms: float64 (episodes,) for each reward term, as `Episode.terms`.
        selections: Ids of the picked samples of each episode, in order.
        test_changes: float64 (episodes,), percent.
        retention_changes: float64 (episodes,), percent.
        answers_changes: float64 (episodes,), percent; 0 without own answers.
    """

    returns: NDArray[np.float64]
    costs: NDArray[np.float64]
    terms: dict[str, NDArray[np.float64]]
    selections: list[list[str]]
    test_changes: NDArray[np.float64]
    retention_changes: NDArray[np.float64]
    answers_changes: NDArray[np.float64]


def evaluate(
    policy: Any, env_id: str, seeds: Sequence[int], **env_kwargs: Any
) -> Evaluation:
    """Play one episode per seed with a policy.

    ```python
    >>> from ogs_env.agents import evaluate
    >>> evaluate("greedy", "OGS-Medical-v0", range(2), split="test").returns.shape
    (2,)

    ```

    Args:
        policy: A callable from (observation, info, env) to an action; a model of
            Stable-Baselines3 or another object with its `predict`, which acts
            deterministically and, where it accepts them, with action masks; a
            selector, or a name that `ogs_env.agents.policies.make_policy` accepts,
            such as `"greedy"` or `"greedy/stream"`; or a Navigator.
        env_id: Id of the environment, such as `"OGS-Medical-v0"`.
        seeds: Seed of each episode; policies with the same seeds get the same
            streams.
        env_kwargs: Arguments of the environment. `split="test"` plays on candidates
            that training does not use.

    Raises:
        InputError: If the policy, the id or an argument does not fit.
    """
    env = make(env_id, env_kwargs)
    with contextlib.closing(env), one_thread_for(policy):
        callable_policy = as_policy(policy, env, np.random.default_rng(0))
        episodes = [play_episode(env, callable_policy, seed) for seed in seeds]

    def column(name: str) -> NDArray[np.float64]:
        return np.array([getattr(episode, name) for episode in episodes], np.float64)

    return Evaluation(
        returns=column("total_return"),
        costs=column("cost"),
        terms={
            name: np.array([episode.terms[name] for episode in episodes], np.float64)
            for name in NO_PICK
        },
        selections=[episode.selection for episode in episodes],
        test_changes=column("test_change"),
        retention_changes=column("retention_change"),
        answers_changes=column("answers_change"),
    )


def play_episode(env: gymnasium.Env[Any, Any], policy: Policy, seed: int) -> Episode:
    """Play one episode.

    Args:
        env: A `SelectionEnv` or a `MixtureEnv`, wrapped or not.
        policy: A callable from (observation, info, env) to an action.
        seed: Seed of the episode's stream.
    """
    inner: Any = env.unwrapped
    observation, info = env.reset(seed=seed)
    total, cost, seconds, steps = 0.0, 0.0, 0.0, 0
    terms = dict.fromkeys(NO_PICK, 0.0)
    over = False
    while not over:
        started = time.perf_counter()
        action = policy(observation, info, env)
        seconds += time.perf_counter() - started
        observation, reward, terminated, truncated, info = env.step(action)
        total += float(reward)
        cost += info["cost"]
        for name in terms:
            terms[name] += info[name]
        steps += 1
        over = terminated or truncated
    return Episode(
        total_return=total,
        cost=cost,
        terms=episode_terms(terms, steps),
        selection=inner.sample_ids(info["selection"]),
        test_change=info["test_change"],
        retention_change=info["retention_change"],
        answers_change=info["answers_change"],
        policy_seconds=seconds,
    )


def make(env_id: str, kwargs: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    """Make a registered environment; for an unknown id the error names similar ones.

    Raises:
        InputError: If the id is unknown or an argument is wrong.
    """
    try:
        return gymnasium.make(env_id, disable_env_checker=True, **kwargs)
    except gymnasium.error.UnregisteredEnv:
        known = [name for name in gymnasium.registry if name.startswith("OGS-")]
        raise unknown_name("environment", env_id, known) from None
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        # Gymnasium appends the call to the constructor's message.
        [_, name, *_] = str(error).split("'")
        raise InputError(
            f"env_kwargs: {env_id} has no argument '{name}'; see its class docstring"
        ) from None


def as_policy(
    policy: Any, env: gymnasium.Env[Any, Any], rng: np.random.Generator
) -> Policy:
    """Return any policy that `evaluate` accepts as a callable.

    Args:
        policy: As for `evaluate`.
        env: Where it acts.
        rng: For selectors that draw.

    Raises:
        InputError: If it is no policy, or does not fit the environment.
    """
    if isinstance(policy, str):
        return make_policy(policy, env, rng)
    if hasattr(policy, "check_env"):  # a Navigator
        policy.check_env(env, "policy")
        return policy
    if hasattr(policy, "predict"):
        return _ModelPolicy(policy, env)
    if hasattr(policy, "select"):
        return EqualQuota(policy, rng)
    if callable(policy):
        return policy
    raise InputError(
        f"policy: {policy!r}; expected a callable from (observation, info, env) to an "
        "action, an object with `predict` or `select`, or a selector's name"
    )


def load_policy(source: str) -> Any:
    """Load a policy from `MODULE:NAME` or from the zip of a Stable-Baselines3 model.

    Both run code of their author. A class at `MODULE:NAME` is called without arguments.

    Args:
        source: Such as `my_policies:first_valid` or `my_model.zip`.

    Returns:
        What `evaluate` accepts.

    Raises:
        InputError: If it cannot be loaded.
    """
    if source.endswith(".zip"):
        return _load_model(Path(source))
    module_name, separator, name = source.partition(":")
    if not (separator and module_name and name):
        raise InputError(
            f"policy {source}: expected MODULE:NAME, such as my_policies:first_valid, "
            "or the zip file of a Stable-Baselines3 model"
        )
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        policy = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"policy {source}: cannot be imported ({error}); expected MODULE:NAME of a "
            "module in this folder or an installed one"
        ) from None
    finally:
        sys.path.pop(0)
    return policy() if isinstance(policy, type) else policy


def _load_model(file: Path) -> Any:
    """Return the policy network of a model, whatever its algorithm."""
    from stable_baselines3.common.save_util import load_from_zip_file

    try:
        loaded: Any = load_from_zip_file(file, device="cpu")
        data, parameters, _ = loaded
        network = data["policy_class"](
            data["observation_space"],
            data["action_space"],
            lambda _: 0.0,  # the learning rate
            **data["policy_kwargs"],
        )
        network.load_state_dict(parameters["policy"])
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise InputError(
            f"policy {file}: cannot be loaded ({error}); expected a file that "
            "`model.save` of Stable-Baselines3 wrote"
        ) from None
    return network


class _ModelPolicy:
    """Act with the `predict` of a model, deterministically."""

    def __init__(self, model: Any, env: gymnasium.Env[Any, Any]) -> None:
        self._predict = model.predict
        # MaskablePPO and its policies.
        self._masks = "action_masks" in inspect.signature(model.predict).parameters
        self._space = env.observation_space
        expected = getattr(model, "observation_space", self._space)
        self._flat = isinstance(expected, spaces.Box)
        shown = spaces.flatten_space(self._space) if self._flat else self._space
        if _shapes(expected) != _shapes(shown):
            raise InputError(
                f"policy: the model reads observations {_shapes(expected)}, the "
                f"environment has {_shapes(shown)}; give the arguments of the "
                "environment that it was trained in"
            )

    def __call__(
        self,
        observation: dict[str, Any],
        info: dict[str, Any],
        env: gymnasium.Env[Any, Any],
    ) -> int:
        """Return the model's action."""
        read = spaces.flatten(self._space, observation) if self._flat else observation
        masks = {"action_masks": info["action_mask"] == 1} if self._masks else {}
        return int(self._predict(read, deterministic=True, **masks)[0])


def _shapes(space: Any) -> Any:
    """Return the shape of a space; of a dictionary, by key."""
    if isinstance(space, spaces.Dict):
        return {name: part.shape for name, part in space.spaces.items()}
    return space.shape


def one_thread_for(policy: Any) -> contextlib.AbstractContextManager[None]:
    """Return a context with torch on one thread, for policies that are networks."""
    if hasattr(policy, "check_env") or hasattr(policy, "predict"):
        from ogs_env.agents.navigator import one_thread

        return one_thread()
    return contextlib.nullcontext()
