"""Every source by name, collections and generated ones alike."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ogs_env.data import generated, icd10
from ogs_env.data.samples import Sample, without_duplicates
from ogs_env.data.sources import COLLECTIONS
from ogs_env.errors import InputError, unknown_name

_GENERATED: dict[str, tuple[Callable[[int, int], list[Sample]], Callable[..., Any]]] = {
    icd10.NAME: (icd10.icd10cm, icd10.info),
    icd10.SHORT_NAME: (icd10.icd10cm_short, icd10.info),
    generated.GSM_SYMBOLIC: (generated.gsm_symbolic, generated.info),
    generated.PUZZLES: (generated.puzzles, generated.info),
}


def source_names() -> list[str]:
    """Return the names that `load_source` takes."""
    return sorted([*COLLECTIONS, *_GENERATED])


def load_source(
    name: str, count: int, seed: int = 0
) -> tuple[list[Sample], dict[str, Any]]:
    """Load or make samples of one source.

    Args:
        name: Such as `"medquad"`, `"gsm8k_train"`, `"icd10cm"` or `"puzzles"`.
        count: How many, drawn without replacement.
        seed: The same seed gives the same samples.

    Returns:
        (samples, the source for a manifest).

    Raises:
        InputError: If the name is unknown, or the source cannot be had or is smaller.
    """
    if name in _GENERATED:
        make, info = _GENERATED[name]
        return make(count, seed), info(name)
    if name not in COLLECTIONS:
        raise unknown_name("source", name, source_names())
    one = COLLECTIONS[name]
    samples, _ = without_duplicates(one.load())
    if count > len(samples):
        raise InputError(
            f"{name}: {count:,} samples asked for, it has {len(samples):,}; ask for "
            "fewer"
        )
    order = np.random.default_rng([seed, 5]).permutation(len(samples))
    return [samples[number] for number in order[:count]], one.info()
