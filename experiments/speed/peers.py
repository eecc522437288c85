"""Sketching compared with other packages that project gradients of samples.

Each package gets the same model, adapter, samples and sketch size. A comparison counts
only if the cosines between samples are the same, up to the error of the sketches.
"""

import contextlib
import importlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from ogs_env.experiments.speed.comparison import (
    Comparison,
    Cost,
    Finding,
    Remark,
    rate_of,
)
from ogs_env.experiments.speed.machine import clock, in_fresh_process, peak_of
from ogs_env.experiments.speed.settings import Settings
from ogs_env.experiments.speed.work import (
    Pass,
    Work,
    make_work,
    sketch_settings,
    sketching,
    without_messages,
)
from ogs_env.lm.gradients import b_gradients
from ogs_env.lm.precision import default_precision
from ogs_env.threads import used_threads

K = 512
# Our dimensions when cosines are compared, so that most of the error is the other's.
_WIDE = 8192
# Of the layers' gradients in bergson, which then has 256 numbers for each layer.
_SIDE = 16
# Samples of a batch of the peers.
BATCH_ROWS = 16
# Tokens of a batch in bergson's command line.
_BERGSON_TOKENS = 2048
# Of the expected difference of two sketches' cosines.
_TOLERANCE = 2.0

# Returns the samples' sketches (n, dimensions), in order.
Sketcher = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Peer:
    """A package, and a way to sketch with it.

    Attributes:
        name: What is measured.
        module: Module that has to be there.
        make: Makes the sketcher.
        differs: What it does differently, for the table.
        slow: Whether a pass takes minutes on a processor.
        card: Whether it needs a graphics card.
    """

    name: str
    module: str
    make: Callable[[Work], Sketcher]
    differs: str
    slow: bool = False
    card: bool = False


def findings(settings: Settings) -> Iterator[Finding]:
    """Yield comparisons with the packages that are installed."""
    auto = default_precision()
    precisions = [auto] if settings.quick else ["float32", "bfloat16"]
    peers = []
    for peer in PEERS:
        reason = _unavailable(peer)
        if reason:
            yield Remark(f"{peer.name}: {reason}; skipped")
        elif not peer.slow or not settings.quick or torch.cuda.is_available():
            peers.append(peer)
    if not peers:
        return
    for precision in precisions:
        with used_threads(settings.threads):
            work = make_work(sketch_settings(settings), precision, settings.samples)
            yield _memory(OURS, work, settings, precision)
            for peer in peers:
                yield from findings_of(peer, work, precision, settings)


def _unavailable(peer: Peer) -> str:
    """Return why a package cannot be used, or an empty string."""
    if peer.card and not torch.cuda.is_available():
        return "needs a graphics card"
    try:
        importlib.import_module(peer.module)
    except ImportError as error:
        return f"{peer.module} is not installed ({error})"
    return ""


def findings_of(
    peer: Peer, work: Work, precision: str, settings: Settings
) -> Iterator[Finding]:
    """Check that both sketches tell the same, then compare them.

    Args:
        peer: The package.
        work: Model and samples, of which the peer makes its sketches.
        precision: That of the model.
        settings: Those of the measurement.
    """
    yield Remark(f"{peer.name}: {peer.differs}")
    now = clock(settings.threads)
    try:
        cost = _memory(peer, work, settings, precision)
        sketcher = peer.make(work)
        theirs = sketcher()
    except Exception as error:  # of a package that does not fit this machine
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        yield Remark(f"{peer.name}, {precision}: failed ({reason}); skipped")
        return
    yield cost
    agreement = compare_cosines(our_sketches(work, _WIDE)(), theirs)
    name = f"cosines between samples, ours and {peer.name}, {precision}"
    yield Cost(name, agreement)
    if agreement["difference"] > _TOLERANCE * agreement["expected"]:
        yield Remark(
            f"{peer.name}, {precision}: its cosines differ from ours by more than "
            "the error of sketches; not compared"
        )
        return
    yield Comparison(
        f"ours / {peer.name}, {precision}",
        rate_of(sketching(work, K), now),
        rate_of(_pass(work, sketcher), now),
        "samples",
    )


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


def _pass(work: Work, sketcher: Sketcher) -> Pass:
    def run() -> float:
        sketcher()
        return len(work.rows)

    return run


def _pairwise_cosines(sketches: torch.Tensor) -> np.ndarray:
    """Return the cosine of each pair of rows."""
    units = torch.nn.functional.normalize(sketches.double())
    above = np.triu_indices(len(units), 1)
    return (units @ units.T).numpy()[above]


def our_sketches(work: Work, k: int = K) -> Sketcher:
    """Return what sketches with this package."""

    def run() -> torch.Tensor:
        with tempfile.TemporaryDirectory() as name:
            sketching(work, k, Path(name))()
            files = sorted(Path(name).glob("pool-*.safetensors"))
            return torch.cat([load_file(file)["initial"].float() for file in files])

    return run


def _bergson(target: str, projection: int) -> Callable[[Work], Sketcher]:
    """Return the maker of a sketcher with bergson's gradient collector.

    Args:
        target: `"per_module"` or `"global"`, what is projected to `projection`.
        projection: Dimensions, of both sides of a layer or of the whole sketch.
    """

    def make(work: Work) -> Sketcher:
        import bergson
        from bergson.data import allocate_batches
        from datasets import Dataset

        model = work.proxy.model
        encoded = [row.encoded for row in work.rows]
        labels = [
            [-100] * e.response_start + e.input_ids[e.response_start :] for e in encoded
        ]
        ids = [e.input_ids for e in encoded]
        data = Dataset.from_dict({"input_ids": ids, "labels": labels})
        names = {f"model.{name}.default" for name in work.proxy.b}
        batches = allocate_batches([len(row) for row in ids], _BERGSON_TOKENS)

        def run() -> torch.Tensor:
            with tempfile.TemporaryDirectory() as name, _silent():
                config = bergson.IndexConfig(
                    run_path=f"{name}/index", loss_reduction="mean"
                )
                config.partial_run_path.mkdir()
                collector = bergson.InMemoryCollector(
                    model=model.base_model,
                    cfg=config,
                    data=data,
                    processor=bergson.GradientProcessor(
                        projection_dim=projection, projection_target=target
                    ),
                    target_modules=names,
                )
                bergson.CollectorComputer(
                    model, data, collector=collector, batches=batches, cfg=config
                ).run_with_collector_hooks()
            return torch.cat([*collector.gradients.values()], 1).float()

        return run

    return make


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    logging.disable(logging.INFO)
    try:
        with without_messages():
            yield
    finally:
        logging.disable(logging.NOTSET)


def _trak_projector(work: Work) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return TRAK's projection with its matrix in memory, its fastest on any device."""
    from trak.projectors import BasicProjector, ProjectionType

    projector = BasicProjector(
        _parameters(work),
        K,
        seed=0,
        proj_type=ProjectionType.rademacher,
        device=work.proxy.device,
        block_size=K,
    )
    return lambda gradients: projector.project(gradients, model_id=0)


def _trak_cuda_projector(work: Work) -> Callable[[torch.Tensor], torch.Tensor]:
    from trak.projectors import CudaProjector, ProjectionType

    projector = CudaProjector(
        _parameters(work),
        K,
        seed=0,
        proj_type=ProjectionType.rademacher,
        device=work.proxy.device,
        max_batch_size=BATCH_ROWS,
    )
    return lambda gradients: projector.project(gradients.contiguous(), model_id=0)


def _dattri_projector(work: Work) -> Callable[[torch.Tensor], torch.Tensor]:
    from dattri.func.projection import random_project

    example = torch.zeros(BATCH_ROWS, _parameters(work), device=work.proxy.device)
    return random_project(
        example,
        BATCH_ROWS,
        K,
        proj_max_batch_size=BATCH_ROWS,
        proj_type="rademacher",
        device=work.proxy.device.type,
    )


def _parameters(work: Work) -> int:
    return sum(layer.weight.numel() for layer in work.proxy.b.values())


def _projected(
    make: Callable[[Work], Callable[[torch.Tensor], torch.Tensor]],
) -> Callable[[Work], Sketcher]:
    """Return the maker of a sketcher: our gradients, another projection."""

    def made(work: Work) -> Sketcher:
        project = make(work)
        proxy = work.proxy

        def run() -> torch.Tensor:
            sketches = torch.zeros(len(work.rows), K)
            for part, batch in zip(work.batches, work.padded(), strict=True):
                layers: dict[str, torch.Tensor] = {}

                def keep(
                    name: str,
                    values: torch.Tensor,
                    layers: dict[str, torch.Tensor] = layers,
                ) -> None:
                    layers[name] = values.flatten(1)

                b_gradients(proxy, batch, keep)
                whole = torch.cat([layers[name] for name in proxy.b], 1)
                sketches[part] = project(whole).float().cpu()
            return sketches

        return run

    return made


def _one_by_one(work: Work) -> Sketcher:
    """Sketch as LESS does: a pass for each sample, and TRAK's projection of groups."""
    project = _trak_projector(work)
    proxy = work.proxy
    weights = [layer.weight for layer in proxy.b.values()]

    def gradient(row: int) -> torch.Tensor:
        batch = proxy.batch([work.rows[row].encoded])
        proxy.model(**batch, use_cache=False).loss.backward()
        vector = torch.cat([w.grad.flatten() for w in weights if w.grad is not None])
        proxy.model.zero_grad(set_to_none=True)
        return vector

    def run() -> torch.Tensor:
        parts = []
        for begin in range(0, len(work.rows), BATCH_ROWS):
            rows = range(begin, min(begin + BATCH_ROWS, len(work.rows)))
            vectors = torch.stack([gradient(row) for row in rows])
            parts.append(project(vectors).float().cpu())
        return torch.cat(parts)

    return run


_BATCHES = (
    "adapter in the pass, logits of all tokens, padded at the end, batches of up to "
    f"{_BERGSON_TOKENS:,} tokens"
)
OURS = Peer("ogs_env", "ogs_env", our_sketches, "")
PEERS = (
    Peer(
        f"bergson, {_SIDE} x {_SIDE} of each layer",
        "bergson",
        _bergson("per_module", _SIDE),
        f"{_BATCHES}; {_SIDE * _SIDE} numbers for each adapted layer",
    ),
    Peer(
        f"bergson, {K} of all layers",
        "bergson",
        _bergson("global", K),
        f"{_BATCHES}; draws its dense matrix again in every batch",
        slow=True,
    ),
    Peer(
        "TRAK's projector on our gradients",
        "trak",
        _projected(_trak_projector),
        "dense matrix, drawn once and held in memory",
    ),
    Peer(
        "TRAK's CUDA projector on our gradients",
        "fast_jl",
        _projected(_trak_cuda_projector),
        "draws its dense matrix in the kernel",
        card=True,
    ),
    Peer(
        "LESS's loop with TRAK's projector",
        "trak",
        _one_by_one,
        "adapter in the pass, a pass for each sample without padding, logits of all "
        "tokens",
    ),
    Peer(
        "dattri's projector on our gradients",
        "dattri",
        _projected(_dattri_projector),
        "dense matrix; on a processor drawn again in every batch",
        slow=True,
    ),
)


def _memory(peer: Peer, work: Work, settings: Settings, precision: str) -> Cost:
    """Measure a sketcher from its making on: a matrix is part of its memory."""
    if torch.cuda.is_available():
        values = peak_of(lambda: peer.make(work)())
    else:
        values = in_fresh_process(memory, peer.name, settings, precision)
    return Cost(f"memory of {peer.name}, {precision}", values)


def memory(name: str, settings: Settings, precision: str) -> dict[str, float]:
    """Return the peak memory of sketching with a package; in a fresh process."""
    [peer] = [one for one in (OURS, *PEERS) if one.name == name]
    with used_threads(settings.threads):
        work = make_work(sketch_settings(settings), precision, settings.samples)
        return peak_of(lambda: peer.make(work)())
