"""What `ogs speed` prints, and its results as a table of the documentation."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ogs_env.errors import InputError
from ogs_env.experiments.speed.comparison import Cost, Ratio, Remark
from ogs_env.files import read_object

HEADING = "part          ratio   lowest  highest  name (rates of both sides, a second)"
_KEYS = ("ratio", "low", "high", "rounds")


def line_of(part: str, result: Ratio | Cost | Remark) -> str:
    """Return a line of the table that is printed."""
    if isinstance(result, Remark):
        return f"{part:<12} {result.text}"
    if isinstance(result, Cost):
        figures = ", ".join(f"{k} {v:,}" for k, v in result.values.items())
        return f"{part:<12} {'':>26}  {result.name}: {figures}"
    ours, theirs = result.rates
    numbers = f"{result.ratio:>7.4g}  {result.low:>7.4g}  {result.high:>7.4g}"
    rates = f"({ours:,} against {theirs:,} {result.unit})"
    return f"{part:<12}{numbers}  {result.name} {rates}"


def read_results(file: Path) -> dict[str, Any]:
    """Read the results of `ogs speed`, by part.

    Raises:
        InputError: If the file is missing or holds something else.
    """
    results = read_object(file, "result of `ogs speed`")
    for part, found in results.items():
        if not isinstance(found, dict) or not isinstance(found.get("ratios"), list):
            raise InputError(
                f"{file}: {part} has no ratios; expected a result of `ogs speed`; "
                "name another --result"
            )
    return results


def summary(
    results: Mapping[str, Any], parts: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Yield part, name, ratio, lowest, highest and rounds of each ratio.

    Args:
        results: As `read_results` returns.
        parts: Parts to yield; all if empty.
    """
    for part in parts or results:
        for ratio in results.get(part, {}).get("ratios", []):
            numbers = {key: ratio[key] for key in _KEYS}
            yield {"part": part, "name": ratio["name"], **numbers}


def table(results: Mapping[str, Any]) -> str:
    """Return the ratios as a table in Markdown, for docs/speed.md."""
    lines = [
        "| part | first / second | ratio | lowest to highest |",
        "|---|---|---|---|",
    ]
    for line in summary(results):
        spread = f"{line['low']:.3g} to {line['high']:.3g}"
        numbers = f"{line['ratio']:.3g} | {spread}"
        lines.append(f"| {line['part']} | {line['name']} | {numbers} |")
    return "\n".join(lines)
