"""Gradient surgery: keep the gradient of a batch from conflicting with the anchor's.

Each method changes the gradient of the domain's batch, so that a step does not raise
the loss on anchor samples to first order. The anchor's own gradient is used for the
projection only and never added: the model trains on the same samples as without
surgery.
"""

from collections.abc import Mapping, Sequence

import torch

from ogs_env.lm.adapter import Proxy
from ogs_env.lm.passes import add_gradients
from ogs_env.lm.trunk import TrunkStates
from ogs_env.seeding import named_rng

BATCH = 8
"""Anchor samples of a capability in a step."""
STORED = 32
"""Anchor samples of a capability whose gradients OGD stores."""


def agem(gradient: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """Project a gradient by A-GEM.

    If g . a < 0, with a the mean of the anchor gradients, g - (g . a / a . a) a
    (Chaudhry, Ranzato, Rohrbach, Elhoseiny 2019, arXiv 1812.00420, equation 11).

    Args:
        gradient: float32 (weights,).
        anchors: float32 (capabilities, weights).
    """
    return _without_conflict(gradient, anchors.mean(dim=0))


def pcgrad(
    gradient: torch.Tensor, anchors: torch.Tensor, order: Sequence[int]
) -> torch.Tensor:
    """Project a gradient by PCGrad, off each anchor gradient in turn.

    Yu, Kumar, Gupta, Levine, Hausman, Finn 2020, arXiv 2001.06782, algorithm 1, for the
    task of the domain.

    Args:
        gradient: float32 (weights,).
        anchors: float32 (capabilities, weights).
        order: Capabilities in a random order.
    """
    for number in order:
        gradient = _without_conflict(gradient, anchors[number])
    return gradient


def upgrad(gradient: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """Project a gradient onto those that conflict with no anchor gradient.

    The nearest vector with a non-negative inner product with each: UPGrad of TorchJD
    (Quinton and Rey 2024, arXiv 2406.16232) with all preference for the domain, which
    is GEM (Lopez-Paz and Ranzato 2017, arXiv 1706.08840).

    Args:
        gradient: float32 (weights,).
        anchors: float32 (capabilities, weights).
    """
    from torchjd.aggregation import UPGrad

    preference = torch.zeros(1 + len(anchors), device=gradient.device)
    preference[0] = 1
    jacobian = torch.cat([gradient[None], anchors])
    projected: torch.Tensor = UPGrad(pref_vector=preference)(jacobian)
    return projected


def orthogonal_basis(gradients: torch.Tensor) -> torch.Tensor:
    """Return an orthonormal basis (rank, weights) of gradients (n, weights)."""
    # From the small Gram matrix; directions of almost no length are left out.
    values, vectors = torch.linalg.eigh(gradients @ gradients.T)
    kept = values > 1e-6 * values.max()
    scaled = vectors[:, kept] / values[kept].sqrt()
    return scaled.T @ gradients


def ogd(gradient: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Project a gradient by OGD: remove its part in the span of stored gradients.

    Farajtabar, Azizan, Mott, Li 2020, arXiv 1910.07104, algorithm 1.

    Args:
        gradient: float32 (weights,).
        basis: float32 (rank, weights), orthonormal rows.
    """
    return gradient - (basis @ gradient) @ basis


def _without_conflict(gradient: torch.Tensor, anchor: torch.Tensor) -> torch.Tensor:
    product = gradient @ anchor
    if product >= 0:
        return gradient
    return gradient - product / (anchor @ anchor) * anchor


class Surgery:
    """Changes the gradient of a proxy's adapter in each step.

    Args:
        method: `"agem"`, `"pcgrad"`, `"upgrad"` or `"ogd"`.
        proxy: The model, with its untouched adapter: OGD stores gradients now.
        texts: Samples with those of the anchor.
        anchors: Rows of the anchor samples by capability.
        seed: Seed of the anchor batches.
    """

    def __init__(
        self,
        method: str,
        proxy: Proxy,
        texts: TrunkStates,
        anchors: Mapping[str, Sequence[int]],
        seed: int,
    ) -> None:
        self._texts = texts
        self._weights = [
            layer.weight for layer in [*proxy.a.values(), *proxy.b.values()]
        ]
        self._anchors = [list(rows) for rows in anchors.values()]
        self._rng = named_rng(seed, "surgery")
        self._method = method
        if method == "ogd":
            stored = [
                self._gradient([row])
                for rows in self._anchors
                for row in self._rng.permutation(rows)[:STORED].tolist()
            ]
            self._basis = orthogonal_basis(torch.stack(stored))

    def __call__(self) -> None:
        """Change the gradient that the adapter's weights have now."""
        gradient = self._flat()
        changed = self._changed(gradient)
        begin = 0
        for weight in self._weights:
            part = changed[begin : begin + weight.numel()]
            weight.grad = part.view_as(weight).clone()
            begin += weight.numel()

    def _changed(self, gradient: torch.Tensor) -> torch.Tensor:
        if self._method == "ogd":
            return ogd(gradient, self._basis)
        for weight in self._weights:
            weight.grad = None
        batches = [self._rng.choice(rows, BATCH).tolist() for rows in self._anchors]
        if self._method == "agem":
            every = [row for batch in batches for row in batch[: BATCH // len(batches)]]
            return agem(gradient, self._gradient(every)[None])
        anchors = torch.stack([self._gradient(batch) for batch in batches])
        if self._method == "upgrad":
            return upgrad(gradient, anchors)
        return pcgrad(gradient, anchors, self._rng.permutation(len(anchors)).tolist())

    def _gradient(self, rows: Sequence[int]) -> torch.Tensor:
        """Return the gradient (weights,) of the mean loss of rows."""
        shares = {row: rows.count(row) / len(rows) for row in rows}
        add_gradients(self._texts, list(shares), shares)
        gradient = self._flat()
        for weight in self._weights:
            weight.grad = None
        return gradient

    def _flat(self) -> torch.Tensor:
        """Return the gradient (weights,) that the adapter's weights have now."""
        gradients = [weight.grad for weight in self._weights]
        return torch.cat([part.flatten() for part in gradients if part is not None])
