"""A bundle of a tiny model, and the texts that it was sketched from."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.tiny_model import make_tiny_model
from helpers.words import WORDS
from ogs_env.data.domains import DomainData
from ogs_env.data.samples import Sample, write_samples
from ogs_env.sketching.settings import SketchSettings
from ogs_env.sketching.sketcher import sketch

MAX_TOKENS = 96


@dataclass(frozen=True)
class LiveFiles:
    """Paths of a bundle, its model and its text files, and the bundle's data."""

    bundle: str
    model: str
    data: DomainData
    texts: list[str]


def _samples(count: int, seed: int, source: str) -> list[Sample]:
    rng = np.random.default_rng(seed)
    return [
        Sample(
            f"{source} {seed + i}: {' '.join(rng.choice(WORDS, rng.integers(1, 5)))}",
            " ".join(rng.choice(WORDS, rng.integers(1, 6))),
            source,
        )
        for i in range(count)
    ]


def make_live_bundle(folder: Path) -> LiveFiles:
    """Sketch 48 samples of two sources, in float32; with two capabilities."""
    model = make_tiny_model(folder / "model")
    data = DomainData(
        name="tiny",
        pool=_samples(28, 0, "colours") + _samples(20, 100, "nature"),
        dev=_samples(9, 200, "colours"),
        test=_samples(5, 300, "colours"),
        anchor={"sums": _samples(7, 400, "sums"), "names": _samples(4, 500, "names")},
        retention={"sums": _samples(3, 600, "sums"), "names": _samples(3, 700, "sums")},
        capabilities=["sums", "names"],
        sources=[{"name": name} for name in ("colours", "nature", "sums", "names")],
    )
    settings = SketchSettings(
        proxy=str(model),
        precision="float32",
        anchor_answers="reference",
        k=128,
        layers=2,
        rank=4,
        max_tokens=MAX_TOKENS,
        seed=5,
    )
    sketch(data, folder / "bundle", settings)
    held_out = [*data.dev, *data.test]
    for groups in (data.anchor, data.retention):
        held_out += [sample for group in groups.values() for sample in group]
    texts = [folder / "pool.jsonl", folder / "held_out.jsonl"]
    write_samples(texts[0], data.pool)
    write_samples(texts[1], held_out)
    return LiveFiles(
        str(folder / "bundle"), str(model), data, [str(path) for path in texts]
    )
