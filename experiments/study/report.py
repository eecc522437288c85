"""Table and picture of the study."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ogs_env.agents.screening import SCREENED
from ogs_env.experiments.plots import COLOURS, RANDOM_COLOUR
from ogs_env.experiments.study.methods import SURGERY
from ogs_env.experiments.study.summary import summaries
from ogs_env.files import whole_file, write_json, write_text

TABLE, PICTURE, SUMMARY = "table.md", "trade-off.png", "summary.json"
_OF_ENVIRONMENT = ("oracle", "navigator", "imitation", "auto")
_DIFFERENCE = "domain_change_less_random"
_FAR = 12.0
"""Largest difference in the picture, points."""
_PANELS = 3
"""Most panels in a row of the picture."""
_COLUMNS = (
    "method",
    "share",
    "pools, runs",
    "domain loss, %",
    "less random",
    "own answers, %",
    "less random",
    "accuracy, points",
    "pairs, points",
    "selecting, s",
    "training, ratio",
)


class _Label(NamedTuple):
    text: str
    x: float
    y: float
    colour: str


def write_report(folder: Path) -> Path:
    """Write table, summary and picture of a study's results into its folder.

    Returns:
        The table's file.
    """
    entries = summaries(folder)
    write_json(folder / SUMMARY, entries)
    write_text(folder / TABLE, table(entries))
    plot(entries, folder / PICTURE)
    return folder / TABLE


def by_panel(
    entries: Iterable[Mapping[str, Any]],
) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Return entries by domain and target, largest fall of the domain's loss first."""
    panels: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in sorted(entries, key=lambda entry: entry["domain_change"]):
        panels.setdefault((entry["domain"], entry["target"]), []).append(entry)
    return panels


def table(entries: Iterable[Mapping[str, Any]]) -> str:
    """Return a Markdown table for each domain and target."""
    parts = []
    for (domain, target), own in sorted(by_panel(entries).items()):
        lines = [
            f"### {domain.title()}, {target}\n",
            f"| {' | '.join(_COLUMNS)} |",
            "|---" * len(_COLUMNS) + "|",
        ]
        lines += [f"| {' | '.join(_cells(entry))} |" for entry in own]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _cells(entry: Mapping[str, Any]) -> list[str]:
    return [
        entry["method"],
        f"{entry['share']:.0%}",
        f"{entry['pools']}, {entry['runs']}",
        _number(entry, "domain_change", "domain_interval"),
        _number(entry, "domain_change_less_random", "domain_less_random_interval"),
        _number(entry, "forgetting", "forgetting_interval"),
        _number(entry, "forgetting_less_random", "forgetting_less_random_interval"),
        _signed(entry["accuracy_change"]),
        _signed(entry["pairs_change"]),
        _plain(entry["select_seconds"], 0),
        _plain(entry["train_seconds_ratio"], 2),
    ]


def _plain(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _number(entry: Mapping[str, Any], name: str, interval: str) -> str:
    if name not in entry:
        return ""
    low, high = entry[interval]
    return f"{entry[name]:+.1f} [{low:+.1f}, {high:+.1f}]"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f}"


def plot(entries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw methods' differences to random selections, a panel for each domain.

    Points beyond `_FAR` are drawn there, with their value. Methods with a single pool
    are left out if others have several.

    Args:
        entries: Result of `summaries`.
        path: PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = by_panel(entries)
    columns = min(len(panels), _PANELS)
    rows = math.ceil(len(panels) / columns)
    size = 5.6 * columns, 5.6 * rows
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for number, ((domain, target), own) in enumerate(sorted(panels.items()), start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.axhline(0, color="0.8", zorder=0)
        axes.axvline(0, color="0.8", zorder=0)
        axes.plot(0, 0, "o", color=RANDOM_COLOUR)
        labels = [_Label("random", 0, 0, RANDOM_COLOUR)]
        fewest = min(2, max(entry["pools"] for entry in own))
        labels += [
            _point(axes, entry)
            for entry in own
            if _DIFFERENCE in entry and entry["pools"] >= fewest
        ]
        axes.set_title(f"{domain.title()}, {target}", weight="bold")
        axes.set_xlabel("← learns more than random    domain test loss, points")
        axes.set_ylabel("← forgets less than random    loss on own answers, points")
        axes.grid(alpha=0.25)
        _limit(axes, labels)
        _annotate(axes, labels)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _point(axes: Any, entry: Mapping[str, Any]) -> _Label:
    """Draw a point with its intervals; return its label."""
    colour = _colour(entry["method"])
    differences = entry[_DIFFERENCE], entry["forgetting_less_random"]
    x, y = (min(max(value, -_FAR), _FAR) for value in differences)
    x_errors, y_errors = (
        [[max(value - low, 0)], [max(high - value, 0)]]
        for value, (low, high) in (
            (x, entry["domain_less_random_interval"]),
            (y, entry["forgetting_less_random_interval"]),
        )
    )
    axes.errorbar(
        x, y, xerr=x_errors, yerr=y_errors, color=colour, fmt="o", elinewidth=0.7
    )
    label = entry["method"]
    if (x, y) != differences:
        label += f" ({differences[0]:+.0f}, {differences[1]:+.0f})"
    return _Label(label, x, y, colour)


def _limit(axes: Any, labels: Sequence[_Label]) -> None:
    """Limit the axes to the points; wide intervals of few pools are cut."""
    for set_limits, values in (
        (axes.set_xlim, [label.x for label in labels]),
        (axes.set_ylim, [label.y for label in labels]),
    ):
        margin = 0.15 * (max(values) - min(values)) + 0.5
        set_limits(min(values) - margin, max(values) + margin)


def _annotate(axes: Any, labels: Sequence[_Label]) -> None:
    """Write labels beside points, moved up where they would overlap, with a line."""
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    written: list[tuple[float, float]] = []
    for label, x, y, colour in sorted(labels, key=lambda label: label.y):
        at = y + 0.015 * (high - low)
        for other_x, other in written:
            is_near = abs(other_x - x) < 0.25 * (right - left)
            if is_near and abs(at - other) < 0.035 * (high - low):
                at = other + 0.035 * (high - low)
        written.append((x, at))
        text_x = x + 0.012 * (right - left)
        is_right = x > left + 0.75 * (right - left)
        axes.annotate(
            label,
            (x, y),
            (text_x, at),
            color=colour,
            fontsize=9,
            ha="right" if is_right else "left",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.5},
        )


def _colour(method: str) -> str:
    """Return the colour of a method's kind."""
    environment, surgery, _, _, other, _ = COLOURS
    method = method.removeprefix(SCREENED)
    if method.startswith("random") or method == "all":
        return RANDOM_COLOUR
    if method in SURGERY:
        return surgery
    return environment if method in _OF_ENVIRONMENT else other
