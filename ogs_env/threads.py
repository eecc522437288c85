"""The number of threads that torch uses."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def used_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads of the processor within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
