"""Sketching with the projectors of TRAK and dattri."""

import functools
from collections.abc import Callable, Mapping

import torch
from torch import nn

from ogs_env.experiments.speed.peer_sketching import (
    K,
    Sketcher,
    in_metric,
    sketched_layers,
)
from ogs_env.experiments.speed.work import Work
from ogs_env.lm.adapter import Proxy
from ogs_env.lm.gradients import adapter_gradients, b_gradients
from ogs_env.sketching.warmup import Checkpoint

# Samples of a batch of a projector.
_BATCH_ROWS = 16

# Projects gradients (n, p) to (n, K).
Projector = Callable[[torch.Tensor], torch.Tensor]
# Makes one for p numbers, from a seed.
MakeProjector = Callable[[Work, int, int], Projector]


def trak_projector(work: Work, size: int, seed: int) -> Projector:
    """Return TRAK's projection with its matrix in memory, its fastest on any device."""
    from trak.projectors import BasicProjector, ProjectionType

    projector = BasicProjector(
        size,
        K,
        seed=seed,
        proj_type=ProjectionType.rademacher,
        device=work.proxy.device,
        block_size=K,
    )
    return lambda gradients: projector.project(gradients, model_id=0)


def trak_cuda_projector(work: Work, size: int, seed: int) -> Projector:
    """Return TRAK's projection in a kernel of its own, for a graphics card."""
    from trak.projectors import CudaProjector, ProjectionType

    projector = CudaProjector(
        size,
        K,
        seed=seed,
        proj_type=ProjectionType.rademacher,
        device=work.proxy.device,
        max_batch_size=_BATCH_ROWS,
    )
    return lambda gradients: projector.project(gradients.contiguous(), model_id=0)


def dattri_projector(work: Work, size: int, seed: int) -> Projector:
    """Return dattri's projection."""
    from dattri.func.projection import random_project

    example = torch.zeros(_BATCH_ROWS, size, device=work.proxy.device)
    return random_project(
        example,
        _BATCH_ROWS,
        K,
        proj_max_batch_size=_BATCH_ROWS,
        proj_seed=seed,
        proj_type="rademacher",
        device=work.proxy.device.type,
    )


class _Projection:
    """Projects gradients of B, and of A if they are there, with a matrix each.

    Args:
        work: The model.
        make: Makes a projection of so many numbers; for A's when they are first there.
    """

    def __init__(self, work: Work, make: MakeProjector) -> None:
        self._groups = work.proxy.b, work.proxy.a

        @functools.cache
        def projector(number: int) -> Projector:
            layers = self._groups[number].values()
            return make(work, sum(layer.weight.numel() for layer in layers), number)

        self._projector = projector

    def __call__(self, gradients: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return sketches (n, K) of gradients (n, p) by layer."""
        parts = []
        for number, layers in enumerate(self._groups):
            if layers.keys() <= gradients.keys():
                whole = torch.cat([gradients[name] for name in layers], 1)
                parts.append(self._projector(number)(whole).float().cpu())
        return torch.stack(parts).sum(0)


def projected(make: MakeProjector) -> Callable[[Work], Sketcher]:
    """Return the maker of a sketcher: our gradients, another projection."""

    def made(work: Work) -> Sketcher:
        project = _Projection(work, make)

        def run(checkpoint: Checkpoint | None = None) -> torch.Tensor:
            sketches = torch.zeros(len(work.rows), K)
            for part, batch in zip(work.batches, work.padded(), strict=True):
                sketches[part] = project(_gradients(work.proxy, batch, checkpoint))
            return sketches

        return run

    return made


def _gradients(
    proxy: Proxy, batch: dict[str, torch.Tensor], checkpoint: Checkpoint | None
) -> dict[str, torch.Tensor]:
    """Return our gradients (n, p) by layer."""
    found: dict[str, torch.Tensor] = {}

    def keep(name: str, values: torch.Tensor) -> None:
        found[name] = in_metric(checkpoint, name, values.flatten(1))

    compute = b_gradients if checkpoint is None else adapter_gradients
    compute(proxy, batch, keep)
    return found


def one_by_one(work: Work) -> Sketcher:
    """Sketch as LESS does: a pass for each sample, and TRAK's projection of groups."""
    project = _Projection(work, trak_projector)
    proxy = work.proxy

    def gradient(row: int, layers: Mapping[str, nn.Linear]) -> dict[str, torch.Tensor]:
        batch = proxy.batch([work.rows[row].encoded])
        proxy.model(**batch, use_cache=False).loss.backward()
        found = {
            name: layer.weight.grad.flatten()
            for name, layer in layers.items()
            if layer.weight.grad is not None
        }
        proxy.model.zero_grad(set_to_none=True)
        return found

    def run(checkpoint: Checkpoint | None = None) -> torch.Tensor:
        layers = sketched_layers(proxy, checkpoint)
        parts = []
        for begin in range(0, len(work.rows), _BATCH_ROWS):
            rows = range(begin, min(begin + _BATCH_ROWS, len(work.rows)))
            vectors = [gradient(row, layers) for row in rows]
            stacked = {
                name: in_metric(
                    checkpoint, name, torch.stack([v[name] for v in vectors])
                )
                for name in layers
            }
            parts.append(project(stacked))
        return torch.cat(parts)

    return run
