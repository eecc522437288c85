"""Streams: the candidates of an episode in the order in which they are dealt."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.envs.arguments import check_whole
from ogs_env.errors import InputError, unknown_name

ORDERS = ("blocks", "mixed")
# With order "blocks", this share of the places exchange their candidates.
_MIXED_SHARE = 0.25

# Defaults for pools that are large enough.
_SLATE_SIZE, _NUM_SLATES = 16, 16
# The default budget over the stream's candidates: 48 of 256.
_BUDGET_SHARE = 3 / 16


def episode_counts(
    bundle: Bundle,
    split: str,
    slate_size: int | None,
    num_slates: int | None,
    budget: int | None,
) -> tuple[int, int, int]:
    """Return the slate size, number of slates and budget of an episode.

    Defaults depend on the size of the smaller split, so they are the same for both
    splits: 16 slates of 16 from 256 candidates on, fewer slates of 16 from 64 on, and
    four smaller slates below that. The default budget is 3/16 of the stream.

    Args:
        bundle: Bundle of the pool.
        split: Name of the split that is dealt.
        slate_size: Candidates in a slate; None for the default.
        num_slates: Slates in the stream; None for the default. Only the last slate
            may be short.
        budget: Picks in an episode; None for the default.

    Raises:
        InputError: For a number that is not whole and positive, a stream longer
            than the split, or a budget greater than the stream.
    """
    given = {"slate_size": slate_size, "num_slates": num_slates, "budget": budget}
    check_whole({name: count for name, count in given.items() if count is not None})
    least, part = smallest_split(bundle), len(bundle.split(split))
    if slate_size is None:
        slate_size = max(1, min(_SLATE_SIZE, least // 4))
    if num_slates is None:
        num_slates = max(1, min(_NUM_SLATES, least // slate_size))
    if budget is None:
        budget = max(1, round(_BUDGET_SHARE * slate_size * num_slates))
    if (num_slates - 1) * slate_size >= part:
        raise InputError(
            f"a stream of {num_slates} slates of {slate_size} is "
            f"{num_slates * slate_size} candidates, but split '{split}' has {part}; "
            "use fewer slates or a smaller slate_size"
        )
    stream = min(part, num_slates * slate_size)
    if budget > stream:
        raise InputError(
            f"budget: {budget} picks from a stream of {stream} candidates; expected "
            f"at most {stream}"
        )
    return slate_size, num_slates, budget


def smallest_split(bundle: Bundle) -> int:
    """Return the number of samples in the smallest split that is not empty."""
    sizes = [len(bundle.split(name)) for name in ("train", "test")]
    return min(size for size in sizes if size)


def deal(
    rng: np.random.Generator,
    rows: NDArray[np.int64],
    sources: NDArray[np.integer],
    size: int,
    order: str,
) -> NDArray[np.int64]:
    """Draw a stream without replacement.

    Args:
        rng: Random generator.
        rows: Pool rows to draw from.
        sources: Source of every row of the pool, not only of `rows`.
        size: Candidates in the stream, at most `len(rows)`.
        order: `"mixed"` for the order of the draw. `"blocks"` sorts by source, with
            the sources in random order; then a random quarter of the places exchange
            their candidates, so about three quarters of a slate come from the source
            of its block.

    Returns:
        Pool rows (size,).

    Raises:
        InputError: For an unknown order.
    """
    if order not in ORDERS:
        raise unknown_name("order", order, ORDERS)
    stream = rng.choice(rows, size, replace=False)
    if order == "mixed":
        return stream
    rank = rng.permutation(int(sources.max()) + 1)
    stream = stream[np.argsort(rank[sources[stream]], kind="stable")]
    places = rng.choice(size, round(_MIXED_SHARE * size), replace=False)
    stream[places] = stream[np.sort(places)]
    return stream


def given_stream(
    options: dict[str, Any], pool: int, budget: int, capacity: int
) -> NDArray[np.int64]:
    """Return the stream given by `reset(options={"indices": ...})`.

    Args:
        options: The options of `reset`.
        pool: Rows in the pool.
        budget: Smallest number of candidates: the picks of an episode.
        capacity: Largest number of candidates: the places of all slates.

    Raises:
        InputError: For an unknown option; indices that are not whole numbers, too
            few, too many, outside the pool or repeated.
    """
    for name in options:
        if name != "indices":
            raise unknown_name("reset option", name, ("indices",))
    stream = np.asarray(options["indices"])
    if stream.ndim != 1 or (stream.dtype.kind not in "iu" and stream.size):
        raise InputError(
            f"reset option 'indices': expected a list of whole numbers, found "
            f"{stream.dtype} of shape {stream.shape}"
        )
    if not budget <= len(stream) <= capacity:
        raise InputError(
            f"reset option 'indices': {len(stream)} candidates; expected at least the "
            f"budget {budget} and at most num_slates * slate_size = {capacity}"
        )
    if stream.min() < 0 or stream.max() >= pool:
        wrong = stream[(stream < 0) | (stream >= pool)][0]
        raise InputError(
            f"reset option 'indices': {wrong} is no row of the pool; expected 0 to "
            f"{pool - 1}"
        )
    values, counts = np.unique(stream, return_counts=True)
    if counts.max() > 1:
        raise InputError(
            f"reset option 'indices': row {values[counts.argmax()]} is given "
            f"{counts.max()} times; a stream is dealt without replacement"
        )
    return stream.astype(np.int64)
