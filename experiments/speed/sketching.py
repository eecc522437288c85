"""Sketching compared with the least work that gives the same gradients."""

import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from ogs_env.experiments.speed.comparison import (
    Comparison,
    Cost,
    Finding,
    Rate,
    rate_of,
)
from ogs_env.experiments.speed.machine import clock, in_fresh_process, peak_of
from ogs_env.experiments.speed.settings import Settings
from ogs_env.experiments.speed.trajectory import Trajectory, make_trajectory
from ogs_env.experiments.speed.work import (
    Pass,
    Work,
    all_logits,
    gradients,
    gradients_on_cached_trunk,
    make_work,
    operations,
    plain,
    response_logits,
    sketch_settings,
    sketching,
)
from ogs_env.lm.precision import default_precision
from ogs_env.sketching.settings import SketchSettings
from ogs_env.threads import used_threads

PRECISIONS = ("float32", "bfloat16")
WIDTHS = (512, 8192)
ALL_LAYERS = 30
# Side of the plain matrix product, on a processor and on a graphics card.
_SIDE, _CARD_SIDE = 2048, 8192
_PASSES: dict[str, Callable[[Work], Pass]] = {
    **{f"sketches, k={k:,}": partial(sketching, k=k) for k in WIDTHS},
    "gradients without sketching": gradients,
    "plain pass": plain,
    "loss of response logits": response_logits,
    "loss of all logits": all_logits,
}

# A fresh process for each takes most of a quick run.
_QUICK_PASSES = ("sketches, k=512",)


def findings(settings: Settings) -> Iterator[Finding]:
    """Yield comparisons of speed, and what passes cost."""
    now = clock(settings.threads)
    auto = default_precision()
    precisions = (auto,) if settings.quick else PRECISIONS
    with used_threads(settings.threads):
        works = {
            precision: make_work(sketch_settings(settings), precision, settings.samples)
            for precision in precisions
        }
        for precision, work in works.items():
            yield from _to_plain_pass(work, precision, now, settings.quick)
        yield from _parts(works[auto], now, settings)
        if not settings.quick:
            yield _pair(
                ("sketches with bfloat16", sketching(works["bfloat16"], 512)),
                ("with float32", sketching(works["float32"], 512)),
                now,
            )
            for precision, work in works.items():
                yield to_plain_passes(make_trajectory(work, 512), precision, now)
                yield from _layers(work, settings, precision, now)
            if not torch.cuda.is_available():
                yield _all_threads(works[auto])
        for precision, work in works.items():
            yield from _of_peak(work, precision, now)
            yield from _bytes(work, precision)
    yield from _costs(settings, works)


def _pair(
    ours: tuple[str, Pass], theirs: tuple[str, Pass], now: Callable[[], float]
) -> Comparison:
    name = f"{ours[0]} / {theirs[0]}"
    return Comparison(name, rate_of(ours[1], now), rate_of(theirs[1], now), "samples")


def _to_plain_pass(
    work: Work, precision: str, now: Callable[[], float], quick: bool
) -> Iterator[Comparison]:
    bare = "plain pass", plain(work)
    for k in WIDTHS:
        name = f"sketches, {precision}, k={k:,}"
        yield _pair((name, sketching(work, k)), bare, now)
    if not quick:
        name = f"gradients without sketching, {precision}"
        yield _pair((name, gradients(work)), bare, now)


def _parts(
    work: Work, now: Callable[[], float], settings: Settings
) -> Iterator[Finding]:
    """Compare what makes a pass fast with a pass without it."""
    yield _pair(
        ("loss with response logits", response_logits(work)),
        ("all logits", all_logits(work)),
        now,
    )
    if settings.quick:
        return
    yield _pair(
        ("gradients with cached frozen layers", gradients_on_cached_trunk(work)),
        ("without", gradients(work)),
        now,
    )
    mixed = work.in_random_batches()
    yield _pair(
        ("gradients in batches of similar length", gradients(work)),
        ("random batches", gradients(mixed)),
        now,
    )
    shares = {
        "similar length": round(work.padding, 3),
        "random": round(mixed.padding, 3),
    }
    yield Cost("share of padding in batches", shares)


def to_plain_passes(
    trajectory: Trajectory, precision: str, now: Callable[[], float]
) -> Comparison:
    """Compare a pool's shard with a plain pass for each checkpoint.

    Args:
        trajectory: Samples and checkpoints.
        precision: That of the model.
        now: Returns the time in seconds.
    """
    run = plain(trajectory.work)
    count = len(trajectory.checkpoints)

    def runs() -> float:
        for _ in range(count - 1):
            run()
        return run()

    return _pair(
        (f"sketches with trajectory, {precision}", trajectory.sketching),
        (f"{count} plain passes", runs),
        now,
    )


def _layers(
    work: Work, settings: Settings, precision: str, now: Callable[[], float]
) -> Iterator[Finding]:
    """Compare with an adapter on all layers."""
    every = dataclasses.replace(sketch_settings(settings), layers=ALL_LAYERS)
    whole = make_work(every, precision, settings.samples)
    few = f"sketches of the last {SketchSettings().layers} layers, {precision}"
    everything = (
        f"sketches of all {ALL_LAYERS} layers, {precision}",
        sketching(whole, 512),
    )
    yield _pair((few, sketching(work, 512)), everything, now)
    yield _pair(everything, ("plain pass of all layers", plain(whole)), now)


def _all_threads(work: Work) -> Comparison:
    """Compare one thread with one for each processor."""
    now = clock(threads=0)
    run = sketching(work, 512)

    def rate(count: int) -> Rate:
        def with_threads() -> float:
            with used_threads(count):
                return run()

        return rate_of(with_threads, now)

    count = len(os.sched_getaffinity(0))
    return Comparison(f"sketches, {count} threads / 1", rate(count), rate(1), "samples")


def _of_peak(
    work: Work, precision: str, now: Callable[[], float]
) -> Iterator[Comparison]:
    """Compare operations a second with those of a plain matrix product."""
    cuda = torch.cuda.is_available()
    side = _CARD_SIDE if cuda else _SIDE
    device = work.proxy.device
    matrix = torch.ones(side, side, dtype=getattr(torch, precision), device=device)
    billions = operations(work) / 1e9

    def product() -> float:
        matrix @ matrix
        return 2 * side**3 / 1e9

    passes = {"plain pass": plain(work), "sketches": sketching(work, 512)}
    for name, run in passes.items():

        def counted(run: Pass = run) -> float:
            run()
            return billions

        yield Comparison(
            f"{name}, {precision} / a product of two matrices of {side:,} x {side:,}",
            rate_of(counted, now),
            rate_of(product, now),
            "GFLOP",
        )


def _bytes(work: Work, precision: str) -> Iterator[Cost]:
    """Measure what a sketch takes on disk."""
    for k in WIDTHS:
        with tempfile.TemporaryDirectory() as name:
            sketching(work, k, Path(name))()
            size = sum(file.stat().st_size for file in Path(name).iterdir())
        values = {"bytes a sample": round(size / len(work.rows))}
        yield Cost(f"files of sketches, {precision}, k={k:,}", values)


def _costs(settings: Settings, works: dict[str, Work]) -> Iterator[Cost]:
    """Measure the peak memory of each pass."""
    for precision, work in works.items():
        for name in _QUICK_PASSES if settings.quick else _PASSES:
            if torch.cuda.is_available():
                values = peak_of(_PASSES[name](work))
            else:
                values = in_fresh_process(memory, name, settings, precision)
            yield Cost(f"memory of {name}, {precision}", values)


def memory(name: str, settings: Settings, precision: str) -> dict[str, float]:
    """Return the peak memory of a pass; in a fresh process."""
    with used_threads(settings.threads):
        work = make_work(sketch_settings(settings), precision, settings.samples)
        return peak_of(_PASSES[name](work))
