"""Samples that a tiny model can learn by heart."""

from ogs_env.data.samples import Sample


def colours(start: int, count: int) -> list[Sample]:
    """Return samples of different lengths that can be learned by heart."""
    names = ["red", "green", "blue", "dark violet"]
    return [
        Sample(f"What colour is {'very ' * (i % 5)}{i}?", names[i % 4], "colours")
        for i in range(start, start + count)
    ]


def sums(count: int) -> list[Sample]:
    """Return samples whose responses end as GSM8K's do."""
    return [
        Sample(f"{i} and {i}?", f"It is {2 * i}.\n#### {2 * i}") for i in range(count)
    ]
