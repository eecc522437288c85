"""Environments in processes of their own, found by `ogs_env:ID`.

A process takes seconds to start: one id of every environment class is enough.
"""

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_worker_processes_give_the_episodes_of_one_process(
    class_spec: EnvSpec, context: str
) -> None:
    def make() -> gymnasium.Env:
        return gymnasium.make(f"ogs_env:{class_spec.id}", **class_spec.kwargs)

    workers = AsyncVectorEnv([make, make], context=context)
    sync = SyncVectorEnv([make, make])
    try:
        results, expected = workers.reset(seed=7), sync.reset(seed=7)
        assert data_equivalence(results, expected, exact=True)
        rng = np.random.default_rng(0)
        for _ in range(20):
            masks = sync.call("action_masks")
            actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])
            results, expected = workers.step(actions), sync.step(actions)
            assert data_equivalence(results, expected, exact=True)
        assert data_equivalence(workers.call("action_masks"), sync.call("action_masks"))
    finally:
        workers.close()
