"""Passes over many samples: losses, gradients, a step of the optimizer."""

from collections.abc import Mapping, Sequence

import torch

from ogs_env.sketching.trunk import TrunkStates, length_batches

PASS_TOKENS = 768
"""Tokens, padding included, of one pass: bounds the memory of activations."""


def train_step(
    texts: TrunkStates,
    batch: Sequence[int],
    optimizer: torch.optim.Optimizer,
    weights: Sequence[torch.Tensor],
) -> None:
    """Make one optimizer step on the token mean of a batch's losses."""
    counts = {row: texts.samples[row].response_tokens for row in batch}
    total = sum(counts[row] for row in batch)
    add_gradients(texts, batch, {row: counts[row] / total for row in batch})
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    optimizer.zero_grad()


def add_gradients(
    texts: TrunkStates, rows: Sequence[int], shares: Mapping[int, float]
) -> list[float]:
    """Add the gradient of a weighted sum of losses to the adapter's `grad`.

    Samples of like length pass together: the sum of the parts' gradients is the
    whole's, and little is padding.

    Args:
        texts: Holds the samples.
        rows: Which.
        shares: The weight of each row's loss.

    Returns:
        The loss of each sample, nats per response token, in order.
    """
    found: dict[int, float] = {}
    for part in parts(texts, rows):
        losses = texts.losses(part)
        of_part = torch.tensor([shares[row] for row in part])
        (losses * of_part.to(losses.device)).sum().backward()
        found.update(zip(part, losses.tolist(), strict=True))
    return [found[row] for row in rows]


def measure(texts: TrunkStates, rows: Sequence[int]) -> list[float]:
    """Return the loss of each sample, nats per response token, in order."""
    found: dict[int, float] = {}
    with torch.no_grad():
        for part in parts(texts, rows):
            found.update(zip(part, texts.losses(part).tolist(), strict=True))
    return [found[row] for row in rows]


def parts(texts: TrunkStates, rows: Sequence[int]) -> list[list[int]]:
    """Part rows into passes of like length, none too large for the memory."""
    return length_batches({row: texts.tokens(row) for row in rows}, rows, PASS_TOKENS)
