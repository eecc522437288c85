"""Settings of a measurement of speed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Settings of the parts of `ogs speed`.

    Attributes:
        quick: Measure less.
        threads: Threads of a pass.
        model: The model that is sketched, see `load_model`; None: that of `ogs sketch`.
        samples: Number of texts in a pass.
    """

    quick: bool = False
    threads: int = 1
    model: str | None = None
    samples: int = 64
