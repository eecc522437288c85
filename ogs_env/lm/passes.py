"""Losses and gradients of many samples, in passes of bounded memory."""

from collections.abc import Mapping, Sequence

import torch

from ogs_env.lm.trunk import TrunkStates, length_batches

PASS_TOKENS, GPU_PASS_TOKENS = 768, 16_384
"""Maximum number of tokens of one pass, including padding; bounds the memory.

A GPU needs large passes, since each has hundreds of small kernels.
"""


def add_gradients(
    texts: TrunkStates, rows: Sequence[int], shares: Mapping[int, float]
) -> list[float]:
    """Add the gradient of a weighted sum of losses to the adapter's `grad`.

    Samples of similar length share a pass, to save padding; gradients add up.

    Args:
        texts: The samples.
        rows: Rows of `texts`.
        shares: The weight of each row's loss.

    Returns:
        The loss of each sample, nats per response token, in order.
    """
    by_row: dict[int, float] = {}
    for batch in passes(texts, rows):
        losses = texts.losses(batch)
        weights = torch.tensor([shares[row] for row in batch])
        (losses * weights.to(losses.device)).sum().backward()
        by_row.update(zip(batch, losses.tolist(), strict=True))
    return [by_row[row] for row in rows]


def measure(texts: TrunkStates, rows: Sequence[int]) -> list[float]:
    """Return the loss of each sample, nats per response token, in order."""
    by_row: dict[int, float] = {}
    with torch.no_grad():
        for batch in passes(texts, rows):
            by_row.update(zip(batch, texts.losses(batch).tolist(), strict=True))
    return [by_row[row] for row in rows]


def passes(texts: TrunkStates, rows: Sequence[int]) -> list[list[int]]:
    """Split rows into passes of similar length, of at most `pass_tokens` tokens."""
    most = pass_tokens(texts.proxy.device)
    return length_batches({row: texts.tokens(row) for row in rows}, rows, most)


def pass_tokens(device: torch.device) -> int:
    """Return the maximum number of tokens of one pass on a device."""
    return PASS_TOKENS if device.type == "cpu" else GPU_PASS_TOKENS
