"""The stream of candidates that an episode deals."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.envs.arguments import check_whole
from ogs_env.errors import InputError, unknown_name

ORDERS = ("blocks", "mixed")
# In blocks, this share of a block's places goes to candidates of any source.
_MIXED_SHARE = 0.25


# Of an episode where the pool has enough.
_SLATE_SIZE, _NUM_SLATES = 16, 16
# A budget is this share of the stream: 48 of 256.
_PICKED = 3 / 16


def episode_counts(
    bundle: Bundle,
    split: str,
    slate_size: int | None,
    num_slates: int | None,
    budget: int | None,
) -> tuple[int, int, int]:
    """Return slate size, slates and budget of an episode.

    Those that are None fit the smaller of the two splits, so that episodes of both are
    alike: 16 slates of 16 where it has 256 candidates, else fewer slates, and below 64
    four slates of fewer candidates. The budget is 3/16 of the stream.

    Args:
        bundle: Whose pool is dealt.
        split: Name of the part that is.
        slate_size: Candidates in a slate.
        num_slates: VectorSlates in the stream; the last alone may be short.
        budget: Picks in an episode.

    Raises:
        InputError: For a number that is not whole and positive, a stream longer
            than the part, or a budget greater than the stream.
    """
    given = {"slate_size": slate_size, "num_slates": num_slates, "budget": budget}
    check_whole({name: count for name, count in given.items() if count is not None})
    least, part = smallest_split(bundle), len(bundle.split(split))
    if slate_size is None:
        slate_size = max(1, min(_SLATE_SIZE, least // 4))
    if num_slates is None:
        num_slates = max(1, min(_NUM_SLATES, least // slate_size))
    if budget is None:
        budget = max(1, round(_PICKED * slate_size * num_slates))
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
    """Return how many samples the smaller of a pool's splits has, if it has any."""
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
        rng: Draws it.
        rows: Pool rows to draw from.
        sources: Source of every row of the pool (not only of `rows`).
        size: Candidates in the stream, at most `len(rows)`.
        order: `"mixed"`: in the order drawn. `"blocks"`: sorted by source, the
            sources in random order; then a random quarter of the places exchange
            their candidates, so about three of four candidates on a slate come from
            its block's source.

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
    found = sources[stream]
    rank = rng.permutation(int(sources.max()) + 1)
    stream = stream[np.argsort(rank[found], kind="stable")]
    places = rng.choice(size, round(_MIXED_SHARE * size), replace=False)
    stream[places] = stream[np.sort(places)]
    return stream


def given_stream(
    options: dict[str, Any], pool: int, budget: int, capacity: int
) -> NDArray[np.int64]:
    """Return the stream that `reset(options={"indices": ...})` asks for.

    Args:
        options: The options of reset.
        pool: Rows in the pool.
        budget: Picks in an episode, the fewest candidates that make sense.
        capacity: Candidates that the slates hold.

    Raises:
        InputError: For another option; indices that are no whole numbers, too few,
            too many, not in the pool or given twice.
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
