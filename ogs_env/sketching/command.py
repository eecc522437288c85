"""`ogs sketch`: build a bundle from texts."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from ogs_env.data.domains import DomainData, domains, load_anchor
from ogs_env.data.samples import Sample, read_samples, without_duplicates
from ogs_env.data.sources import source_info
from ogs_env.errors import InputError, unknown_name
from ogs_env.seeding import named_rng

TRAJECTORY_CHECKPOINTS = (0, 6, 24)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ogs sketch`."""
    from ogs_env.sketching.settings import ANCHOR_ANSWERS, SketchSettings

    default = SketchSettings()
    parser.add_argument(
        "pool",
        metavar="POOL",
        help=f"JSON lines of candidates, or a domain: {', '.join(domains())}",
    )
    parser.add_argument("--out", type=Path, required=True, help="the bundle's folder")
    data = parser.add_argument_group("data (for a POOL of your own)")
    add_data_arguments(data)
    data.add_argument(
        "--anchor-answers",
        default=default.anchor_answers,
        choices=ANCHOR_ANSWERS,
        help="answers to the anchor's prompts: the samples', the proxy's, or both",
    )
    data.add_argument("--pool-size", type=int, default=1280, help="for a named domain")
    sketching = parser.add_argument_group("sketching")
    sketching.add_argument(
        "--trajectory",
        action="store_true",
        help="also sketch at checkpoints of a warm-up, for training environments",
    )
    sketching.add_argument(
        "--checkpoints",
        nargs="+",
        type=int,
        default=list(TRAJECTORY_CHECKPOINTS),
        help="warm-up steps at which --trajectory sketches; 0: the untouched model",
    )
    sketching.add_argument(
        "--off-domain",
        action="store_true",
        help="also sketch along an off-domain warm-up, for sampled tasks",
    )
    sketching.add_argument("--proxy", default=default.proxy, help="model id or folder")
    sketching.add_argument(
        "--precision",
        default=default.precision,
        choices=["auto", "float32", "bfloat16"],
        help="of the frozen weights",
    )
    sketching.add_argument("--k", type=int, default=default.k, help="sketch dimensions")
    sketching.add_argument("--layers", type=int, default=default.layers, help="adapted")
    sketching.add_argument("--rank", type=int, default=default.rank, help="LoRA rank")
    sketching.add_argument("--max-tokens", type=int, default=default.max_tokens)
    sketching.add_argument("--seed", type=int, default=default.seed)


def add_data_arguments(parser: argparse._ArgumentGroup) -> None:
    """Add the options for a user's own files, which `own_data` reads."""
    add = parser.add_argument
    add("--domain", help="JSON lines of what the target should learn")
    add("--test", help="JSON lines for reports; by default half of --domain")
    add(
        "--anchor",
        nargs="+",
        default=["gsm8k"],
        help="capabilities to keep: gsm8k, gsm_symbolic or a JSON lines file each",
    )
    add("--domain-samples", type=int, default=64, help="in dev and test")
    add("--anchor-samples", type=int, default=128, help="in anchor and retention")
    add("--prompt-field", default="prompt")
    add("--response-field", default="response")


def run(arguments: argparse.Namespace) -> None:
    """Run `ogs sketch`."""
    from ogs_env.sketching.settings import SketchSettings
    from ogs_env.sketching.sketcher import sketch

    data = _data(arguments)
    settings = SketchSettings(
        proxy=arguments.proxy,
        precision=arguments.precision,
        k=arguments.k,
        layers=arguments.layers,
        rank=arguments.rank,
        checkpoints=tuple(arguments.checkpoints) if arguments.trajectory else (),
        off_domain=arguments.off_domain,
        anchor_answers=arguments.anchor_answers,
        max_tokens=arguments.max_tokens,
        seed=arguments.seed,
    )
    bundle = sketch(data, arguments.out, settings, shlex.join(["ogs", *sys.argv[1:]]))
    counts = ", ".join(
        f"{rows} {role}" for role, rows in bundle.manifest["roles"].items()
    )
    print(f"{arguments.out}: {counts}; k={bundle.k}", file=sys.stderr)


def _data(arguments: argparse.Namespace) -> DomainData:
    if arguments.pool in domains():
        if arguments.domain or arguments.test:
            raise InputError(
                f"--domain and --test: '{arguments.pool}' has its own; leave them out"
            )
        return domains()[arguments.pool](arguments.seed, arguments.pool_size)
    path = Path(arguments.pool)
    if not path.exists() and not path.suffix:
        raise unknown_name("domain", arguments.pool, domains())
    return own_data(arguments, path, arguments.out.name)


def own_data(arguments: argparse.Namespace, pool: Path, name: str) -> DomainData:
    """Build the domain data of a user's own files.

    Args:
        arguments: Those of `add_data_arguments`, and `seed`, which chooses the samples.
            Without a test file the domain's samples are shuffled and halved.
        pool: JSON lines of candidates; repeated samples are dropped.
        name: The bundle's name.

    Raises:
        InputError: If `--domain` is missing or a file cannot be used.
    """
    if arguments.domain is None:
        raise InputError(
            "--domain: is missing; give JSON lines of what the target should learn"
        )
    domain = Path(arguments.domain)
    test = Path(arguments.test) if arguments.test else None
    domain_samples, seed = arguments.domain_samples, arguments.seed
    fields = {
        "prompt_field": arguments.prompt_field,
        "response_field": arguments.response_field,
    }
    candidates = _read(pool, fields)
    samples = _read(domain, fields)
    rng = named_rng(seed, "user data")
    shuffled = [samples[i] for i in rng.permutation(len(samples))]
    if test is None:
        if len(shuffled) < 2:
            raise InputError(
                f"{domain}: has one sample; expected two or more, half for dev and "
                "half for test, or give --test"
            )
        half = min(domain_samples, len(shuffled) // 2)
        dev, held_out = shuffled[:half], shuffled[half : 2 * half]
    else:
        dev, held_out = shuffled[:domain_samples], _read(test, fields)[:domain_samples]
    anchor, retention, infos = {}, {}, []
    for source in arguments.anchor:
        capability = Path(source).name.split(".")[0]
        if capability in anchor:
            raise InputError(f"--anchor: two capabilities are called '{capability}'")
        anchor[capability], retention[capability], info = load_anchor(
            source, arguments.anchor_samples, seed
        )
        infos.append(info)
    every = [candidates, dev, held_out, *anchor.values(), *retention.values()]
    names = dict.fromkeys(sample.source for part in every for sample in part)
    known: dict[str, dict[str, Any]] = {info["name"]: info for info in infos}
    sources = [
        known.get(source) or source_info(source, "as the file's owner states", "", "")
        for source in names
    ]
    for info in sources:
        info["pool"] = sum(s.source == info["name"] for s in candidates)
    return DomainData(
        name=name,
        pool=candidates,
        dev=dev,
        test=held_out,
        anchor=anchor,
        retention=retention,
        capabilities=list(anchor),
        sources=sources,
    )


def _read(path: Path, fields: dict[str, Any]) -> list[Sample]:
    samples, dropped = without_duplicates(read_samples(path, **fields))
    if dropped:
        print(f"{path}: {dropped} repeated samples dropped", file=sys.stderr)
    return samples
