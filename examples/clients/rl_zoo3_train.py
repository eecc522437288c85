r"""RL Zoo: PPO, DQN and MaskablePPO with the hyperparameters in `rl_zoo3/*.yml`.

The first two have no action mask, and need no script:

    python -m rl_zoo3.train --algo ppo --env OGS-Medical-v0 --gym-packages ogs_env \
        --conf-file examples/clients/rl_zoo3/ppo.yml -n 20000

The zoo does not know MaskablePPO, but takes it as an entry of `ALGOS`. MaskablePPO asks
the environments for their masks. The zoo's own evaluations do not: leave them out.
"""

import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path

import gymnasium as gym
from rl_zoo3 import ALGOS
from rl_zoo3.train import train
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.evaluation import (
    evaluate_policy as evaluate_masked_policy,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

ALGOS["maskable_ppo"] = MaskablePPO
SETTINGS = Path(__file__).with_name("rl_zoo3")


def main(env_id: str = "OGS-Medical-v0") -> None:
    """Train each algorithm, and print its mean return on the test split."""
    for algo in "ppo", "dqn", "maskable_ppo":
        evaluate = evaluate_masked_policy if algo == "maskable_ppo" else evaluate_policy
        with tempfile.TemporaryDirectory() as folder:
            os.environ["SB3_LOGDIR"] = folder
            sys.argv[1:] = ["--algo", algo, "--env", env_id, "-n", "15000"]
            sys.argv += ["--gym-packages", "ogs_env", "--log-folder", folder]
            sys.argv += ["--conf-file", f"{SETTINGS / algo}.yml"]
            sys.argv += ["--seed", "0", "--eval-freq", "-1", "--verbose", "0"]
            with contextlib.redirect_stdout(io.StringIO()):
                train()
            model = ALGOS[algo].load(f"{folder}/{algo}/{env_id}_1/{env_id}.zip")
        test = Monitor(gym.make(env_id, split="test"))
        test.reset(seed=0)
        mean, _ = evaluate(model, test, n_eval_episodes=20)
        print(f"rl_zoo3_train {algo}: {env_id} returns {mean:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
