"""A list of the fidelity study with random results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ogs_env.bundle import Bundle
from ogs_env.experiments.fidelity.results import BASE, result_file
from ogs_env.files import write_json

BEFORE = {
    "test": 2.0,
    "prose": 4.0,
    "reference/maths": 1.25,
    "reference/knowledge": 3.0,
    "own/maths": 1.5,
    "own/knowledge": 2.5,
}
PAIRS = {
    "solutions": {"accuracy": 0.8, "margin": 11.0},
    "grammar": {"accuracy": 0.7, "margin": 2.5},
}
KINDS = {"random": 5, "reward": 4, "best-anchor_gain": 1, "source-alpha": 1}
NAMES = [f"{kind}-{number}" for kind, n in KINDS.items() for number in range(n)]
SEEDS = {"random-0": 2, "reward-0": 3}
"""Subsets that have more than one run."""


def random_measures(rng: np.random.Generator) -> dict[str, Any]:
    """Random results of a run."""
    return {
        "losses": {name: loss * rng.uniform(0.8, 1.1) for name, loss in BEFORE.items()},
        "pairs": {
            name: {
                "accuracy": float(rng.uniform(0.5, 1)),
                "margin": float(rng.normal(scale=9)),
            }
            for name in PAIRS
        },
    }


def write_random_list(
    bundle: Bundle, folder: Path, seed: int = 0, names: Sequence[str] = NAMES
) -> dict[str, list[dict[str, Any]]]:
    """Write random results of random subsets, and the file of the untouched model.

    Returns:
        The results by subset, one for each seed.
    """
    rng = np.random.default_rng(seed)
    results = {
        name: [random_measures(rng) for _ in range(SEEDS.get(name, 1))]
        for name in names
    }
    picks = {
        name: rng.permutation(len(bundle.pool))[: rng.integers(12, 40)].tolist()
        for name in names
    }
    write_list(bundle, folder, picks, results)
    return results


def write_list(
    bundle: Bundle,
    folder: Path,
    picks: Mapping[str, Sequence[int]],
    measured: Mapping[str, Sequence[Mapping[str, Any]]],
    epochs: int = 3,
) -> None:
    """Write the files of a list: `picks` of each subset, and its results."""
    ids = bundle.pool.hex_ids()
    write_json(folder.parent / BASE, {"losses": BEFORE, "pairs": PAIRS})
    for name, runs in measured.items():
        for seed, run in enumerate(runs):
            result = {
                "subset": name,
                "seed": seed,
                "recipe": {"epochs": epochs},
                **run,
                "ids": [ids[row] for row in picks[name]],
            }
            write_json(result_file(folder, name, seed), result)
