"""Named random generators: one seed gives independent draws for each purpose."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from ogs_env.errors import InputError

if TYPE_CHECKING:
    import torch

MOST_SEED = 2**32 - 1
"""Largest seed that NumPy's old generator takes, which Stable-Baselines3 seeds."""

# Published results depend on these numbers. A new purpose takes a new one; two that
# share a number draw the same numbers from the same seed.
STREAMS = {
    "reasoning_gym": 1,
    "puzzles": 2,
    "icd10cm": 3,
    "icd10cm_short": 4,
    "domain medical": 10,
    "domain medical-packages": 11,
    "anchor": 12,
    "domain legal": 13,
    "domain financial": 14,
    "warm-up": 20,
    "user data": 30,
    "fine-tuning": 50,
    "subsets": 51,
    "surgery": 52,
    "selectors": 53,
    "questions": 54,
    "prose": 60,
    "selection parts": 60,
    "forgetting limit": 61,
    "own answers": 70,
    "solution pairs": 80,
}


def named_rng(seed: int, name: str, *keys: int) -> np.random.Generator:
    """Return the generator of a seed for one purpose.

    Args:
        seed: The user's seed, 0 or more.
        name: The purpose, a key of `STREAMS`.
        keys: Further numbers, such as a sample's id, for generators within a purpose.

    Raises:
        InputError: If the seed is negative.
    """
    if seed < 0:
        raise InputError(f"seed: {seed}; expected a whole number, 0 or more")
    return np.random.default_rng([seed, STREAMS[name], *keys])


def named_generator(seed: int, name: str) -> "torch.Generator":
    """Return a torch generator that depends only on a seed and a name."""
    import torch

    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
