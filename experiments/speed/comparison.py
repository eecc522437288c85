"""Ratios of two speeds, measured in turns.

On a busy machine a ratio is more reliable than a rate: the two sides alternate, and the
result is the median over rounds, with the lowest and the highest.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

ROUNDS = 7

# From seconds of measurement to a rate per second.
Rate = Callable[[float], float]


@dataclass(frozen=True)
class Comparison:
    """Two rates to measure in turns.

    Attributes:
        name: What is compared; the ratio is `ours` over `theirs`.
        ours, theirs: The rates.
        unit: What the rates count, such as steps.
        rounds: Number of rounds.
    """

    name: str
    ours: Rate
    theirs: Rate
    unit: str
    rounds: int = ROUNDS


@dataclass(frozen=True)
class Ratio:
    """A measured comparison.

    Attributes:
        name: As that of the comparison.
        ratio: Median over rounds of the first side's rate over the second's.
        low, high: Lowest and highest ratio of a round.
        rounds: Number of rounds.
        rates: Median rates of both sides, per second.
        unit: What the rates count.
    """

    name: str
    ratio: float
    low: float
    high: float
    rounds: int
    rates: tuple[float, float]
    unit: str


@dataclass(frozen=True)
class Cost:
    """What one way of working costs, beside the ratios.

    Attributes:
        name: What is measured.
        values: Figures by name, with their units.
    """

    name: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Remark:
    """A line about what was not measured, or what differs between two sides."""

    text: str


Finding = Comparison | Cost | Remark


def measure(comparison: Comparison, seconds: float) -> Ratio:
    """Measure both sides in turns.

    Args:
        comparison: The two sides. Each works once before the first round.
        seconds: Shortest time of one side in a round.
    """
    sides = comparison.ours, comparison.theirs
    for side in sides:
        side(0)
    rounds = [(sides[0](seconds), sides[1](seconds)) for _ in range(comparison.rounds)]
    ratios = [ours / theirs for ours, theirs in rounds]
    ours, theirs = (median(rates) for rates in zip(*rounds, strict=True))
    return Ratio(
        comparison.name,
        rounded(median(ratios)),
        rounded(min(ratios)),
        rounded(max(ratios)),
        comparison.rounds,
        (rounded(ours), rounded(theirs)),
        comparison.unit,
    )


def rate_of(work: Callable[[], float], now: Callable[[], float]) -> Rate:
    """Return the rate of work that is repeated, at least once.

    Args:
        work: Does the work once, and returns how much it was.
        now: Returns the time in seconds.
    """

    def rate(seconds: float) -> float:
        done, begin, spent = 0.0, now(), 0.0
        while not done or spent < seconds:
            done += work()
            spent = now() - begin
        return done / spent

    return rate


def rounded(value: float) -> float:
    """Round to four digits that count."""
    return float(f"{value:.4g}")
