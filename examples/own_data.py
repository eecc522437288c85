"""From your own file of prompts and responses to a selection, step by step in Python.

    python examples/own_data.py               # 128 samples, three minutes on one core
    python examples/own_data.py --pool my_pool.jsonl --domain my_domain.jsonl

Without files of yours the example writes some: medical questions and puzzles of the
packages simple-icd-10-cm and reasoning-gym. The same command continues a run that was
stopped. `ogs adapt` does these steps too, compares selectors, and fine-tunes a model.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import gymnasium as gym

from ogs_env import select
from ogs_env.agents import evaluate
from ogs_env.agents.deployment import AgentSelector
from ogs_env.agents.training import train
from ogs_env.data.generated import puzzles
from ogs_env.data.icd10 import icd10cm
from ogs_env.experiments.own_environment import navigator_settings
from ogs_env.lm.loading import DEFAULT_MODEL
from ogs_env.sketching.command import DataOptions, own_data
from ogs_env.sketching.settings import SketchSettings
from ogs_env.sketching.sketcher import sketch

SHARE = 0.1  # of the pool is selected


def write_files(folder: Path, size: int) -> tuple[Path, Path]:
    """Write a pool, half of it medical, and a domain file with other questions."""
    medical = icd10cm(size // 2 + 48, seed=0)
    pool = [*medical[48:], *puzzles(size // 2, seed=0)]
    folder.mkdir(parents=True, exist_ok=True)
    for name, samples in (("pool", pool), ("domain", medical[:48])):
        with (folder / f"{name}.jsonl").open("w") as file:
            for sample in samples:
                record = {"prompt": sample.prompt, "response": sample.response}
                file.write(json.dumps({**record, "source": sample.source}) + "\n")
    return folder / "pool.jsonl", folder / "domain.jsonl"


def main() -> None:
    """Sketch, train, select and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pool", type=Path, help="JSON lines of the candidates")
    parser.add_argument("--domain", type=Path, help="samples of what to learn")
    parser.add_argument("--size", type=int, default=128, help="samples to write")
    parser.add_argument("--anchors", type=int, default=24, help="maths problems")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="model to sketch with")
    parser.add_argument("--steps", type=int, default=50_000, help="training steps")
    parser.add_argument("--out", type=Path, default=Path("own_data_output"))
    args = parser.parse_args()

    if (args.pool is None) != (args.domain is None):
        parser.error("give both --pool and --domain, or none of them")
    pool, domain = args.pool, args.domain
    if pool is None:
        pool, domain = write_files(args.out, args.size)

    # 1. Read the files, and assign samples to roles: half of the domain's are kept for
    # reports, and maths problems stand for what the model should not forget.
    options = DataOptions(
        domain=str(domain), anchor=("gsm_symbolic",), anchor_samples=args.anchors
    )
    data = own_data(options, str(pool), name="mine", seed=0)
    print(f"pool: {len(data.pool)} samples, domain: {len(data.dev) + len(data.test)}")

    # 2. Sketch every sample's gradient with the model.
    settings = SketchSettings(proxy=args.model, checkpoints=(0,))
    bundle = sketch(data, args.out / "bundle", settings)

    # 3. An environment of the pool, with a budget in proportion, and an agent for it.
    training = navigator_settings(bundle, SHARE, {}, args.steps, seed=0)
    env = gym.make(training.env, **training.env_kwargs)
    print(f"{env.spec.id}: {training.env_kwargs['budget']} picks, {env.action_space}")
    agent = train(training, args.out / "agent")
    for name, policy in (("random picks", "random"), ("agent", agent)):
        result = evaluate(
            policy, training.env, range(20), **training.env_kwargs, split="test"
        )
        print(f"{name}: mean return {result.returns.mean():.2f}")

    # 4. Select from the whole pool, and save the texts that were selected.
    budget = max(1, round(SHARE * len(bundle.pool)))
    selection = select(AgentSelector(args.out / "agent"), bundle, budget)
    selection.save(args.out / "selection", {one.id: one for one in data.pool})
    print(f"selected: {dict(Counter(selection.sources))}")
    print(f"written: {args.out / 'selection' / 'selection.jsonl'}")


if __name__ == "__main__":
    main()
