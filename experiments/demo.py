"""The main job end to end, on real input: the command `ogs demo`.

An agent is trained on the shipped Medical bundle and deployed on a pool it has never
seen; a language model is then fine-tuned on what it chose and, beside it, on as many
random samples. All texts come from installed packages: no hub, no files of yours.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from ogs_env.agents.deployment import load_selector
from ogs_env.agents.navigator import DESCRIPTION
from ogs_env.agents.training import IMITATION, TrainSettings, is_trained, train
from ogs_env.bundle import Bundle
from ogs_env.data.domains import DomainData, medical_packages
from ogs_env.data.samples import write_samples
from ogs_env.errors import InputError
from ogs_env.experiments.finetune import FinetuneSettings, finetune
from ogs_env.experiments.plots import tradeoff
from ogs_env.experiments.stages import Stages
from ogs_env.selection import SUMMARY, Selection, select
from ogs_env.sketching.settings import SketchSettings
from ogs_env.sketching.sketcher import sketch

POOL = 384
DEV, TEST, ANCHOR = 32, 48, 48
BUDGET = 64
# Another seed than the tests and examples use: the pool is new to everybody.
DATA_SEED = 2026


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ogs demo`."""
    parser.add_argument(
        "--out", type=Path, default=Path("demo_output"), help="folder for all it makes"
    )
    parser.add_argument(
        "--oracle-episodes",
        type=int,
        default=1200,
        help="of which the agent imitates the picks; 1200 take a minute",
    )
    parser.add_argument("--epochs", type=int, default=2, help="of fine-tuning")
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> None:
    """Run the demo's stages; those that are done already are not repeated."""
    if arguments.oracle_episodes < 1:
        raise InputError(
            f"--oracle-episodes: {arguments.oracle_episodes}; expected at least 1"
        )
    stages = Stages(arguments.out, 5)
    data = demo_data()
    agent = arguments.out / "agent"
    with_agent = "train an agent in OGS-Medical-v0 and domains drawn from its pool"
    stages.do("train", with_agent, lambda: _train(arguments, agent))
    bundle = stages.do(
        "sketch",
        f"sketch {POOL} samples it has never seen, one pass over SmolLM2-135M",
        lambda: _sketch(data, arguments.out),
    )
    selections = stages.do(
        "select",
        f"select {BUDGET} of them: by the agent, and at random",
        lambda: {
            "agent": _select(str(agent), bundle, data, arguments),
            "random": _select("random", bundle, data, arguments),
        },
    )
    texts = {sample.id: sample for sample in data.pool}
    settings = FinetuneSettings(epochs=arguments.epochs, seed=arguments.seed)
    retention = [s for samples in data.retention.values() for s in samples]
    results: dict[str, dict[str, Any]] = {}
    for name, selection in selections.items():
        results[name] = stages.do(
            f"fine-tune ({name})",
            f"fine-tune SmolLM2-135M on the {BUDGET} samples by {name}",
            lambda name=name, selection=selection: finetune(
                [texts[i] for i in selection.ids],
                data.test,
                retention,
                settings,
                arguments.out / "finetuned" / name,
                selector=name,
                before=results["agent"]["before"] if results else None,
            ),
        )
    plot = arguments.out / "tradeoff.png"
    tradeoff(list(results.values()), plot)
    print("\n" + report(results, selections, stages.seconds))
    print(f"\nthe trade-off as a picture: {plot.resolve()}")


def demo_data() -> DomainData:
    """Return the pool, domain and anchor of the demo, all of installed packages."""
    return medical_packages(
        DATA_SEED, POOL, dev_size=DEV, test_size=TEST, anchor_size=ANCHOR
    )


def report(
    results: dict[str, dict[str, Any]],
    selections: dict[str, Selection],
    seconds: dict[str, float],
) -> str:
    """Return the demo's table: losses in nats per token, lower is better."""
    lines = [
        f"{'selection':<10}{'samples':>8}   {'domain test loss':<18}"
        f"{'own answers':<18}{'retention loss':<18}what was chosen",
    ]
    for name, result in results.items():
        losses = []
        for role in ("test", "answers", "retention"):
            before, after = (result[t][role]["per_sample"] for t in ("before", "after"))
            losses.append(f"{before:.3f} -> {after:.3f}")
        counts = Counter(selections[name].sources).most_common()
        chosen = ", ".join(f"{count} {source}" for source, count in counts)
        lines.append(
            f"{name:<10}{result['samples']:>8}   "
            + "".join(f"{loss:<18}" for loss in losses)
            + chosen
        )
    times = ", ".join(f"{stage} {spent:.0f} s" for stage, spent in seconds.items())
    lines += [
        "",
        f"seconds of each stage: {times}; total {sum(seconds.values()):.0f} s",
    ]
    return "\n".join(lines)


def _train(arguments: argparse.Namespace, folder: Path) -> None:
    settings = TrainSettings(
        seed=arguments.seed,
        algorithm=IMITATION,
        oracle_episodes=arguments.oracle_episodes,
    )
    if is_trained(settings, folder):
        return _tell_done(folder)
    if (folder / DESCRIPTION).exists():
        print(f"{folder}: other settings; training anew", file=sys.stderr)
    agent = train(settings, folder)
    kept = agent.description["training"]["kept"]
    print(
        f"test return {kept['return']:.2f} %, after {kept['steps']:,.0f} examples of "
        "what the oracle picks",
        file=sys.stderr,
    )
    return None


def _sketch(data: DomainData, out: Path) -> Bundle:
    write_samples(out / "pool.jsonl", data.pool)
    counts = Counter(sample.source for sample in data.pool)
    shown = ", ".join(f"{count} {source}" for source, count in counts.most_common())
    print(f"the pool: {shown}", file=sys.stderr)
    # Selecting needs sketches of the pool; no learner is trained here.
    settings = SketchSettings(anchor_answers="reference")
    return sketch(data, out / "bundle", settings, "ogs demo")


def _select(
    agent: str, bundle: Bundle, data: DomainData, arguments: argparse.Namespace
) -> Selection:
    name = Path(agent).name
    folder = arguments.out / "selections" / name
    selection = select(
        load_selector(agent), bundle, BUDGET, seed=arguments.seed, agent=name
    )
    if (folder / SUMMARY).exists() and Selection.load(folder) == selection:
        _tell_done(folder)
    else:
        selection.save(folder, {sample.id: sample for sample in data.pool})
    return selection


def _tell_done(folder: Path) -> None:
    print(f"{folder}: done in an earlier run", file=sys.stderr)
