"""`ogs sketch`: build a bundle from texts."""

import dataclasses
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ogs_env.data.domains import DomainData, domains, load_anchor
from ogs_env.data.samples import (
    FieldOptions,
    Sample,
    read_samples,
    without_duplicates,
)
from ogs_env.data.sources import source_info
from ogs_env.errors import InputError, unknown_name
from ogs_env.options import option_name, settings_of
from ogs_env.seeding import named_rng
from ogs_env.sketching.settings import SketchSettings

TRAJECTORY_CHECKPOINTS = (0, 6, 24)


@dataclass(frozen=True, kw_only=True)
class DataOptions(FieldOptions):
    """Options for a user's own files.

    Attributes:
        domain: JSON lines of what the target should learn; needed with a pool of your
            own.
        test: JSON lines for reports; by default half of --domain.
        anchor: Capabilities to keep, each gsm8k, gsm_symbolic or a JSON lines file.
        domain_samples: Number of samples in dev and in test.
        anchor_samples: Number of samples of each capability in anchor and in retention.
    """

    domain: Path | None = None
    test: Path | None = None
    anchor: tuple[str, ...] = ("gsm8k",)
    domain_samples: int = 64
    anchor_samples: int = 128


@dataclass(frozen=True, kw_only=True)
class Options(SketchSettings, DataOptions):
    """Options of `ogs sketch`.

    Attributes:
        pool: JSON lines of candidates, or a domain.
        out: Folder of the bundle.
        pool_size: Number of candidates of a named domain.
        trajectory: Also sketch at checkpoints of a warm-up, for training environments.
        checkpoints: Warm-up steps at which --trajectory sketches; 0: the untouched
            model.
    """

    pool: str = field(
        metadata={"positional": True, "metavar": "POOL", "known": domains()}
    )
    out: Path
    pool_size: int = 1280
    trajectory: bool = False
    checkpoints: tuple[int, ...] = TRAJECTORY_CHECKPOINTS


def run(options: Options) -> None:
    """Run `ogs sketch`."""
    from ogs_env.sketching.sketcher import sketch

    if options.checkpoints != TRAJECTORY_CHECKPOINTS and not options.trajectory:
        raise InputError("--checkpoints: needs --trajectory; give it too")
    data = _data(options)
    checkpoints = options.checkpoints if options.trajectory else ()
    settings = settings_of(SketchSettings, options, checkpoints=checkpoints)
    bundle = sketch(data, options.out, settings, shlex.join(["ogs", *sys.argv[1:]]))
    counts = ", ".join(
        f"{rows} {role}" for role, rows in bundle.manifest["roles"].items()
    )
    print(f"{options.out}: {counts}; k={bundle.k}", file=sys.stderr)


def _data(options: Options) -> DomainData:
    if options.pool in domains():
        for name in (field.name for field in dataclasses.fields(DataOptions)):
            if getattr(options, name) != getattr(DataOptions, name):
                raise InputError(
                    f"{option_name(name)}: is for your own files, and "
                    f"'{options.pool}' is none; leave it out"
                )
        return domains()[options.pool](options.seed, options.pool_size)
    path = Path(options.pool)
    if not path.exists() and not path.suffix:
        raise unknown_name("domain", options.pool, domains())
    return own_data(options, path, options.out.name, options.seed)


def own_data(options: DataOptions, pool: Path, name: str, seed: int) -> DomainData:
    """Build the domain data of a user's own files.

    Args:
        options: The files and the numbers of samples. Without a test file the domain's
            samples are shuffled and halved.
        pool: JSON lines of candidates; repeated samples are dropped.
        name: The bundle's name.
        seed: Seed of the choice of samples.

    Raises:
        InputError: If `--domain` is missing or a file cannot be used.
    """
    domain, test, domain_samples = options.domain, options.test, options.domain_samples
    if domain is None:
        raise InputError(
            "--domain: is missing; give JSON lines of what the target should learn"
        )
    for count in ("domain_samples", "anchor_samples"):
        if getattr(options, count) < 1:
            raise InputError(
                f"{option_name(count)}: is {getattr(options, count)}; expected at "
                "least 1"
            )
    fields = options.fields()
    candidates, places = _read(pool, fields)
    samples, _ = _read(domain, fields)
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
        dev, held_out = shuffled[:domain_samples], _read(test, fields)[0]
        held_out = held_out[:domain_samples]
    anchor, retention, infos = {}, {}, []
    for source in options.anchor:
        capability = Path(source).name.split(".")[0]
        if capability in anchor:
            raise InputError(f"--anchor: two capabilities are called '{capability}'")
        anchor[capability], retention[capability], info = load_anchor(
            source, options.anchor_samples, seed, **fields
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
        places=[] if len(candidates) == places[-1] + 1 else places,
    )


def _read(path: Path, fields: dict[str, Any]) -> tuple[list[Sample], list[int]]:
    """Return a file's samples without repeats, and the numbers of their records."""
    everything = read_samples(path, **fields)
    samples, places = without_duplicates(everything)
    if dropped := len(everything) - len(samples):
        print(f"{path}: {dropped} repeated samples dropped", file=sys.stderr)
    return samples, places
