"""`ogs sketch`: build a bundle from texts."""

import contextlib
import dataclasses
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ogs_env.data.domains import DomainData, domains, load_anchor
from ogs_env.data.reading import ReadOptions, read_samples
from ogs_env.data.record_files import is_file_or_dataset, stem
from ogs_env.data.samples import Sample, without_duplicates
from ogs_env.data.sources import source_info
from ogs_env.errors import InputError, unknown_name
from ogs_env.options import option_name, settings_of
from ogs_env.seeding import named_rng
from ogs_env.sketching.settings import SketchSettings

if TYPE_CHECKING:
    from ogs_env.sketching.cluster import Cluster

TRAJECTORY_CHECKPOINTS = (0, 6, 24)


@dataclass(frozen=True, kw_only=True)
class DataOptions(ReadOptions):
    """Options for a user's own files.

    Attributes:
        domain: What the target should learn, a file or a dataset on the hub; needed
            with a pool of your own.
        test: Samples for reports; by default half of --domain.
        anchor: Capabilities to keep, each gsm8k, gsm_symbolic, a file or a dataset.
        domain_samples: Number of samples in dev and in test.
        anchor_samples: Number of samples of each capability in anchor and in retention.
        drop_overlap: Leave out pool samples that are in dev, test, anchor or retention
            too.
    """

    domain: str | None = field(default=None, metadata={"metavar": "FILE"})
    test: str | None = field(default=None, metadata={"metavar": "FILE"})
    anchor: tuple[str, ...] = ("gsm8k",)
    domain_samples: int = 64
    anchor_samples: int = 128
    drop_overlap: bool = False


@dataclass(frozen=True, kw_only=True)
class Options(SketchSettings, DataOptions):
    """Options of `ogs sketch`.

    Attributes:
        pool: Candidates: a file, a dataset on the hub as NAME[:CONFIG][@SPLIT], or a
            domain.
        out: Folder of the bundle.
        pool_size: Number of candidates of a named domain.
        trajectory: Also sketch at checkpoints of a warm-up, for training environments.
        checkpoints: Warm-up steps at which --trajectory sketches; 0: the untouched
            model.
        ray: Sketch on a Ray cluster: that of an address, HOST:PORT or ray://HOST:PORT,
            or without one that of this machine, which is started if none runs.
    """

    pool: str = field(
        metadata={"positional": True, "metavar": "POOL", "known": domains()}
    )
    out: Path
    pool_size: int = 1280
    trajectory: bool = False
    checkpoints: tuple[int, ...] = TRAJECTORY_CHECKPOINTS
    ray: str | None = field(default=None, metadata={"metavar": "ADDRESS", "bare": ""})


def run(options: Options) -> None:
    """Run `ogs sketch`."""
    from ogs_env.sketching.sketcher import sketch

    if options.checkpoints != TRAJECTORY_CHECKPOINTS and not options.trajectory:
        raise InputError("--checkpoints: needs --trajectory; give it too")
    checkpoints = options.checkpoints if options.trajectory else ()
    settings = settings_of(SketchSettings, options, checkpoints=checkpoints)
    with _cluster(options) as cluster:
        data = _data(options)
        command = shlex.join(["ogs", *_without_ray(sys.argv[1:], options.ray)])
        bundle = sketch(data, options.out, settings, command, cluster)
    counts = ", ".join(
        f"{rows} {role}" for role, rows in bundle.manifest["roles"].items()
    )
    print(f"{options.out}: {counts}; k={bundle.k}", file=sys.stderr)


def _cluster(
    options: Options,
) -> "contextlib.AbstractContextManager[Cluster | None]":
    """Return the context of the cluster of `--ray`, or of none."""
    if options.ray is None:
        return contextlib.nullcontext()
    from ogs_env.sketching.cluster import connected

    return connected(options.ray or None)


def _without_ray(words: Sequence[str], address: str | None) -> list[str]:
    """Leave `--ray` out of the command that a bundle holds, which is the same without.

    So one machine, or another cluster, can finish a bundle with the same bytes.
    """
    left: list[str] = []
    after_ray = False
    for word in words:
        is_address = after_ray and word == address
        after_ray = word == "--ray"
        if not (after_ray or is_address or word.startswith("--ray=")):
            left.append(word)
    return left


def _data(options: Options) -> DomainData:
    if options.pool in domains():
        for name in (field.name for field in dataclasses.fields(DataOptions)):
            if getattr(options, name) != getattr(DataOptions, name):
                raise InputError(
                    f"{option_name(name)}: is for your own files, and "
                    f"'{options.pool}' is none; leave it out"
                )
        return domains()[options.pool](options.seed, options.pool_size)
    if not is_file_or_dataset(options.pool):
        raise unknown_name("domain", options.pool, domains())
    return own_data(options, options.pool, options.out.name, options.seed)


def own_data(options: DataOptions, pool: str, name: str, seed: int) -> DomainData:
    """Build the domain data of a user's own files.

    Args:
        options: The files and the numbers of samples. Without a test file the domain's
            samples are shuffled and halved.
        pool: The candidates' file or dataset; repeated samples are dropped.
        name: The bundle's name.
        seed: Seed of the choice of samples.

    Raises:
        InputError: If `--domain` is missing, a file cannot be used, or the pool has
            samples of other roles and `drop_overlap` is False.
    """
    for count in ("domain_samples", "anchor_samples"):
        if getattr(options, count) < 1:
            raise InputError(
                f"{option_name(count)}: is {getattr(options, count)}; expected at "
                "least 1"
            )
    if options.domain is None:
        raise InputError(
            "--domain: is missing; give a file of what the target should learn"
        )
    reading = options.reading()
    candidates = _read(pool, reading)
    dev, test = _dev_and_test(options, options.domain, seed)
    anchor, retention, infos = {}, {}, []
    for source in options.anchor:
        capability = stem(source)
        if capability in anchor:
            raise InputError(f"--anchor: two capabilities are called '{capability}'")
        anchor[capability], retention[capability], info = load_anchor(
            source, options.anchor_samples, seed, **reading
        )
        infos.append(info)
    others = {
        "dev": dev,
        "test": test,
        "anchor": [*chain(*anchor.values())],
        "retention": [*chain(*retention.values())],
    }
    candidates = _without_overlap(pool, candidates, others, options.drop_overlap)
    names = dict.fromkeys(
        sample.source for sample in chain(candidates, *others.values())
    )
    known: dict[str, dict[str, Any]] = {info["name"]: info for info in infos}
    sources = [
        known.get(source) or source_info(source, "as the file's owner states", "", "")
        for source in names
    ]
    for info in sources:
        info["pool"] = sum(s.source == info["name"] for s in candidates)
    rows = [sample.row for sample in candidates]
    return DomainData(
        name=name,
        pool=candidates,
        dev=dev,
        test=test,
        anchor=anchor,
        retention=retention,
        capabilities=list(anchor),
        sources=sources,
        places=[] if rows == list(range(len(rows))) else rows,
    )


def _dev_and_test(
    options: DataOptions, domain: str, seed: int
) -> tuple[list[Sample], list[Sample]]:
    samples, most = _read(domain, options.reading()), options.domain_samples
    shuffled = [
        samples[i] for i in named_rng(seed, "user data").permutation(len(samples))
    ]
    if options.test is not None:
        return shuffled[:most], _read(options.test, options.reading())[:most]
    if len(shuffled) < 2:
        raise InputError(
            f"{domain}: has one sample; expected two or more, half for dev and half "
            "for test, or give --test"
        )
    half = min(most, len(shuffled) // 2)
    return shuffled[:half], shuffled[half : 2 * half]


def _read(where: str, reading: dict[str, Any]) -> list[Sample]:
    """Return a file's samples without repeats."""
    everything = read_samples(where, **reading)
    samples = without_duplicates(everything)
    if dropped := len(everything) - len(samples):
        print(f"{where}: {dropped} repeated samples dropped", file=sys.stderr)
    return samples


def _without_overlap(
    pool: str,
    candidates: Sequence[Sample],
    others: Mapping[str, Sequence[Sample]],
    drop: bool,
) -> list[Sample]:
    """Return the candidates that no other role has, or refuse the others."""
    roles = {sample.id: role for role, part in others.items() for sample in part}
    shared = [sample for sample in candidates if sample.id in roles]
    if not shared:
        return list(candidates)
    counts = Counter(roles[sample.id] for sample in shared)
    shown = ", ".join(f"{count} of {role}" for role, count in counts.items())
    places = ", ".join(sample.place for sample in shared[:3])
    line = f"{pool}: has samples of other roles: {shown} (the first at {places})"
    if not drop:
        raise InputError(f"{line}; leave them out with --drop-overlap")
    left = [sample for sample in candidates if sample.id not in roles]
    if not left:
        raise InputError(f"{line}, and no others; give a pool with other samples")
    print(f"{line}; left out", file=sys.stderr)
    return left
