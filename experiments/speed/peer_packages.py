"""The packages that sketching is compared with."""

import contextlib
import importlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ogs_env.experiments.speed.peer_projectors import (
    dattri_projector,
    one_by_one,
    projected,
    trak_cuda_projector,
    trak_projector,
)
from ogs_env.experiments.speed.peer_sketching import K, Sketcher, sketched_layers
from ogs_env.experiments.speed.work import Work, without_messages
from ogs_env.sketching.batch_sketches import EPSILON
from ogs_env.sketching.warmup import Checkpoint

# Of the layers' gradients in bergson, which then has 256 numbers for each layer.
_SIDE = 16
# Tokens of a batch in bergson's command line.
_BERGSON_TOKENS = 2048


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

    def unavailable(self) -> str:
        """Return why the package cannot be used, or an empty string."""
        if self.card and not torch.cuda.is_available():
            return "needs a graphics card"
        try:
            importlib.import_module(self.module)
        except ImportError as error:
            return f"{self.module} is not installed ({error})"
        return ""


def _bergson(target: str, projection: int) -> Callable[[Work], Sketcher]:
    """Return the maker of a sketcher with bergson's gradient collector.

    Args:
        target: `"per_module"` or `"global"`, what is projected to `projection`.
        projection: Dimensions, of both sides of a layer or of the whole sketch.
    """

    def make(work: Work) -> Sketcher:
        import bergson
        from bergson.data import allocate_batches
        from bergson.gradients import AdamNormalizer
        from datasets import Dataset

        model = work.proxy.model
        encoded = [row.encoded for row in work.rows]
        labels = [
            [-100] * e.response_start + e.input_ids[e.response_start :] for e in encoded
        ]
        ids = [e.input_ids for e in encoded]
        data = Dataset.from_dict({"input_ids": ids, "labels": labels})
        batches = allocate_batches([len(row) for row in ids], _BERGSON_TOKENS)

        def normalizers(checkpoint: Checkpoint) -> dict[str, AdamNormalizer]:
            # It divides by the root of what it is given.
            return {
                _name_in_bergson(name): AdamNormalizer(
                    (checkpoint.scales[name] + EPSILON).view_as(layer.weight)
                )
                for name, layer in sketched_layers(work.proxy, checkpoint).items()
            }

        def run(checkpoint: Checkpoint | None = None) -> torch.Tensor:
            layers = sketched_layers(work.proxy, checkpoint)
            with tempfile.TemporaryDirectory() as folder, _silent():
                config = bergson.IndexConfig(
                    run_path=f"{folder}/index", loss_reduction="mean"
                )
                config.partial_run_path.mkdir()
                collector = bergson.InMemoryCollector(
                    model=model.base_model,
                    cfg=config,
                    data=data,
                    processor=bergson.GradientProcessor(
                        normalizers=normalizers(checkpoint) if checkpoint else {},
                        projection_dim=projection,
                        projection_target=target,
                    ),
                    target_modules={_name_in_bergson(name) for name in layers},
                )
                bergson.CollectorComputer(
                    model, data, collector=collector, batches=batches, cfg=config
                ).run_with_collector_hooks()
            return torch.cat([*collector.gradients.values()], 1).float()

        return run

    return make


def _name_in_bergson(name: str) -> str:
    return f"model.{name}.default"


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    logging.disable(logging.INFO)
    try:
        with without_messages():
            yield
    finally:
        logging.disable(logging.NOTSET)


_BATCHES = (
    "adapter in the pass, logits of all tokens, padded at the end, batches of up to "
    f"{_BERGSON_TOKENS:,} tokens"
)
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
        projected(trak_projector),
        "dense matrix, drawn once and held in memory",
    ),
    Peer(
        "TRAK's CUDA projector on our gradients",
        "fast_jl",
        projected(trak_cuda_projector),
        "draws its dense matrix in the kernel",
        card=True,
    ),
    Peer(
        "LESS's loop with TRAK's projector",
        "trak",
        one_by_one,
        "adapter in the pass, a pass for each sample without padding, logits of all "
        "tokens",
    ),
    Peer(
        "dattri's projector on our gradients",
        "dattri",
        projected(dattri_projector),
        "dense matrix; on a processor drawn again in every batch",
        slow=True,
    ),
)
