"""CountSketch: a random projection that preserves inner products."""

import torch

from ogs_env.seeding import named_generator


class CountSketch:
    """Projects vectors, given in named parts, to `k` dimensions.

    Every coordinate is added, with a random sign, to one random bucket (Charikar,
    Chen and Farach-Colton 2002; as a projection for kernels Weinberger et al. 2009,
    arXiv 0902.2206). Signs and buckets are drawn from a seed and the part's name,
    so the order of parts, the batch and the worker do not matter.

    For vectors g and h: E<Sg, Sh> = <g, h>, with a variance of at most
    (|g|^2 |h|^2 + <g, h>^2) / k.

    Args:
        k: Dimensions of a sketch.
        seed: Seed of signs and buckets.
    """

    def __init__(self, k: int, seed: int) -> None:
        self.k = k
        self.seed = seed
        self._parts: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def add(self, out: torch.Tensor, name: str, values: torch.Tensor) -> None:
        """Add the sketch of one part to `out`, in place.

        Args:
            out: float32 (k, n). Samples are columns, so that adding a coordinate
                of all samples touches adjacent memory.
            name: The part's name.
            values: float32 (n, p), the part's coordinates.
        """
        buckets, signs = self._part(name, values.shape[1], values.device)
        out.index_add_(0, buckets, values.T * signs[:, None])

    def _part(
        self, name: str, size: int, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if name not in self._parts:
            generator = named_generator(self.seed, name)
            buckets = torch.randint(self.k, (size,), generator=generator)
            signs = torch.randint(2, (size,), generator=generator) * 2.0 - 1.0
            self._parts[name] = (buckets.to(device), signs.to(device))
        return self._parts[name]
