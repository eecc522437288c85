"""Search over training settings, without an account; log the best run for W&B.

    python examples/wandb_sweep.py            # six trials, a minute on one core
    python examples/wandb_sweep.py --trials 20 --steps 200000

`SWEEP` is a sweep of Weights & Biases. `ogs sweep` runs its file locally with Optuna;
the same command continues a search that was stopped. With an account,

    wandb sweep sweep_output/sweep.yaml
    wandb agent ID

runs it on any number of machines, with every trial on a page of W&B.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import yaml

from ogs_env.experiments import sweep, train

SWEEP: dict[str, Any] = {
    "program": "ogs",
    "method": "bayes",
    "metric": {"name": "kept/return", "goal": "maximize"},
    "parameters": {
        "learning_rate": {
            "distribution": "log_uniform_values",
            "min": 0.0003,
            "max": 0.01,
        },
        "ent_coef": {"distribution": "log_uniform_values", "min": 0.003, "max": 0.3},
        "width": {"values": [32, 64]},
    },
}


def main() -> None:
    """Write the file, search, and train once more with the best settings."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--env", default="OGS-Medical-v0", help="id of the environment")
    parser.add_argument("--steps", type=int, default=40_000, help="training steps each")
    parser.add_argument("--trials", type=int, default=6, help="number of trials")
    parser.add_argument("--episodes", type=int, default=100, help="test episodes")
    parser.add_argument("--out", type=Path, default=Path("sweep_output"))
    args = parser.parse_args()

    command = ["${env}", "${program}", "train", "--report-to=wandb"]
    command += [f"--env={args.env}", f"--steps={args.steps}", "${args}"]
    file, trials = args.out / "sweep.yaml", args.out / "trials"
    args.out.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({**SWEEP, "command": command}, sort_keys=False))
    sweep.run(sweep.Options(file=str(file), trials=args.trials, out=trials))

    search = sweep.read_sweep(str(file))
    best = sweep.open_study(search, trials, seed=0).best_params
    print(f"best settings: {best}")
    os.environ.setdefault("WANDB_MODE", "offline")
    settings = {"env": args.env, "seconds": None, "steps": args.steps, **best}
    folder = args.out / "best"
    train.run(
        train.Options(
            out=folder, episodes=args.episodes, report_to="wandb", settings=settings
        )
    )
    log = (folder / "wandb" / "latest-run").resolve()
    print(f"logged: {log}; `wandb sync` uploads it")


if __name__ == "__main__":
    main()
