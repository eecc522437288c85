"""Sketching compared with other packages that project gradients of samples.

Each package gets the same model, adapter, samples and sketch size. A comparison counts
only if the cosines between samples are the same, up to the error of the sketches.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from ogs_env.experiments.speed.comparison import (
    ROUNDS,
    Comparison,
    Cost,
    Finding,
    Remark,
    rate_of,
)
from ogs_env.experiments.speed.machine import clock, in_fresh_process, peak_of
from ogs_env.experiments.speed.peer_packages import PEERS, Peer
from ogs_env.experiments.speed.peer_sketching import K, Sketcher
from ogs_env.experiments.speed.settings import Settings
from ogs_env.experiments.speed.trajectory import Trajectory, loaded, make_trajectory
from ogs_env.experiments.speed.work import (
    Pass,
    Work,
    make_work,
    sketch_settings,
    sketching,
)
from ogs_env.lm.precision import default_precision
from ogs_env.threads import used_threads

# Our dimensions when cosines are compared, so that most of the error is the other's.
_WIDE = 8192
# Of the expected difference of two sketches' cosines.
_TOLERANCE = 2.0
# A pass over a trajectory is several.
_QUICK_ROUNDS = 3
_OURS = "ogs_env"


def findings(settings: Settings) -> Iterator[Finding]:
    """Yield comparisons with the packages that are installed."""
    auto = default_precision()
    precisions = [auto] if settings.quick else ["float32", "bfloat16"]
    peers = []
    for peer in PEERS:
        reason = peer.unavailable()
        if reason:
            yield Remark(f"{peer.name}: {reason}; skipped")
        elif not peer.slow or not settings.quick or torch.cuda.is_available():
            peers.append(peer)
    if not peers:
        return
    for precision in precisions:
        with used_threads(settings.threads):
            work = make_work(sketch_settings(settings), precision, settings.samples)
            trajectory = make_trajectory(work, K)
            yield _memory(_OURS, work, settings, precision)
            for peer in peers:
                along = None if _is_too_long(peer, peers, settings) else trajectory
                yield from findings_of(peer, work, along, precision, settings)


def _is_too_long(peer: Peer, peers: Sequence[Peer], settings: Settings) -> bool:
    """Whether a peer's passes along the trajectory are left out."""
    if peer.slow and not torch.cuda.is_available():
        return True
    return settings.quick and peer is not peers[0]


def findings_of(
    peer: Peer,
    work: Work,
    trajectory: Trajectory | None,
    precision: str,
    settings: Settings,
) -> Iterator[Finding]:
    """Check that both sketches tell the same, then compare them.

    Args:
        peer: The package.
        work: Model and samples, of which the peer makes its sketches.
        trajectory: Checkpoints at which they are also sketched.
        precision: That of the model.
        settings: Those of the measurement.
    """
    yield Remark(f"{peer.name}: {peer.differs}")
    what = f"{peer.name}, {precision}"
    try:
        cost = _memory(peer.name, work, settings, precision)
        sketcher = peer.make(work)
        theirs = sketcher()
    except Exception as error:  # of a package that does not fit this machine
        yield Remark(f"{what}: failed ({_reason(error)}); skipped")
        return
    yield cost
    yield from _if_same(
        (our_sketches(work, _WIDE)(), theirs),
        "cosines between samples",
        what,
        _comparison(
            f"ours / {what}", sketching(work, K), _pass(work, sketcher), settings
        ),
    )
    if trajectory is not None:
        name = f"{peer.name}, pool with trajectory, {precision}"
        yield from trajectory_findings(name, sketcher, trajectory, settings)


def trajectory_findings(
    what: str, sketcher: Sketcher, trajectory: Trajectory, settings: Settings
) -> Iterator[Finding]:
    """Compare a pool's shard with a pass of a peer for each state of the adapter.

    Args:
        what: Names the peer and what is measured.
        sketcher: The peer's.
        trajectory: Samples and checkpoints.
        settings: Those of the measurement.
    """
    work, last = trajectory.work, trajectory.checkpoints[-1]
    try:
        with loaded(work.proxy, last):
            theirs = sketcher(last)
    except Exception as error:  # of a package that cannot sketch at a checkpoint
        yield Remark(f"{what}: failed ({_reason(error)}); skipped")
        return
    yield from _if_same(
        (trajectory.wide[:, -1], theirs),
        "cosines between samples at the last checkpoint",
        what,
        _comparison(
            f"ours / {what}",
            trajectory.sketching,
            _pass_of_each_state(trajectory, sketcher),
            settings,
            _QUICK_ROUNDS if settings.quick else ROUNDS,
        ),
    )


def _comparison(
    name: str, ours: Pass, theirs: Pass, settings: Settings, rounds: int = ROUNDS
) -> Comparison:
    now = clock(settings.threads)
    return Comparison(name, rate_of(ours, now), rate_of(theirs, now), "samples", rounds)


def _if_same(
    sketches: tuple[torch.Tensor, torch.Tensor],
    cosines: str,
    what: str,
    comparison: Comparison,
) -> Iterator[Finding]:
    """Yield how well cosines agree, and the comparison if they do."""
    agreement = compare_cosines(*sketches)
    yield Cost(f"{cosines}, ours and {what}", agreement)
    if agreement["difference"] > _TOLERANCE * agreement["expected"]:
        yield Remark(
            f"{what}: its cosines differ from ours by more than the error of sketches; "
            "not compared"
        )
        return
    yield comparison


def compare_cosines(ours: torch.Tensor, theirs: torch.Tensor) -> dict[str, float]:
    """Compare the cosines between samples of two kinds of sketches.

    Returns:
        Their correlation, the root of the mean square of their differences, the most
        that is expected of it, and the dimensions of `theirs`.
    """
    pair = _pairwise_cosines(ours), _pairwise_cosines(theirs)
    # Of two random projections; projecting both sides of a layer errs more than its
    # many numbers would tell.
    expected = np.sqrt(1 / ours.shape[1] + 1 / min(K, theirs.shape[1]))
    return {
        "correlation": round(float(np.corrcoef(*pair)[0, 1]), 3),
        "difference": round(float(np.sqrt(np.mean((pair[0] - pair[1]) ** 2))), 4),
        "expected": round(float(expected), 4),
        "dimensions": theirs.shape[1],
    }


def _pairwise_cosines(sketches: torch.Tensor) -> np.ndarray:
    """Return the cosine of each pair of rows."""
    units = torch.nn.functional.normalize(sketches.double().cpu())
    above = np.triu_indices(len(units), 1)
    return (units @ units.T).numpy()[above]


def our_sketches(work: Work, k: int = K) -> Callable[[], torch.Tensor]:
    """Return what sketches with this package at the untouched model."""

    def run() -> torch.Tensor:
        with tempfile.TemporaryDirectory() as name:
            sketching(work, k, Path(name))()
            files = sorted(Path(name).glob("pool-*.safetensors"))
            return torch.cat([load_file(file)["initial"].float() for file in files])

    return run


def _pass(work: Work, sketcher: Sketcher) -> Pass:
    def run() -> float:
        sketcher()
        return len(work.rows)

    return run


def _pass_of_each_state(trajectory: Trajectory, sketcher: Sketcher) -> Pass:
    """Return a pass at the untouched model, and one at each later checkpoint."""
    work = trajectory.work

    def run() -> float:
        sketcher()
        for checkpoint in trajectory.later:
            with loaded(work.proxy, checkpoint):
                sketcher(checkpoint)
        return len(work.rows)

    return run


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _memory(name: str, work: Work, settings: Settings, precision: str) -> Cost:
    """Measure a sketcher from its making on: a matrix is part of its memory."""
    if torch.cuda.is_available():
        values = peak_of(lambda: _maker(name)(work)())
    else:
        values = in_fresh_process(memory, name, settings, precision)
    return Cost(f"memory of {name}, {precision}", values)


def memory(name: str, settings: Settings, precision: str) -> dict[str, float]:
    """Return the peak memory of sketching with a package; in a fresh process."""
    with used_threads(settings.threads):
        work = make_work(sketch_settings(settings), precision, settings.samples)
        return peak_of(lambda: _maker(name)(work)())


def _maker(name: str) -> Callable[[Work], Callable[[], torch.Tensor]]:
    """Return what makes the sketcher of a name."""
    if name == _OURS:
        return our_sketches
    [peer] = [peer for peer in PEERS if peer.name == name]
    return peer.make
