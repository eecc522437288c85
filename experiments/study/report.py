"""Table and picture of the study."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ogs_env.agents.screening import SCREENED
from ogs_env.experiments.plots import COLOURS, RANDOM_COLOUR
from ogs_env.experiments.study.methods import AUTO, NAVIGATORS, ORACLE, SURGERY
from ogs_env.experiments.study.summary import summaries
from ogs_env.files import whole_file, write_json, write_text

TABLE, PICTURE, SUMMARY = "table.md", "trade-off.png", "summary.json"
_OF_ENVIRONMENT = (ORACLE, *NAVIGATORS, AUTO)
_DIFFERENCE = "domain_change_less_random"
_FAR = 12.0
"""Largest difference in the picture, points."""
_PANELS = 3
"""Most panels in a row of the picture."""
_MARKERS = "os^Dv<>*X"
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

    panels = {panel: _drawn(own) for panel, own in sorted(by_panel(entries).items())}
    columns = min(len(panels), _PANELS)
    rows = math.ceil(len(panels) / columns)
    size = 5.6 * columns, 5.2 * rows + 1
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    drawn = (entry["method"] for own in panels.values() for entry in own)
    styles = _styles(dict.fromkeys(drawn))
    handles: dict[str, Any] = {}
    for number, ((domain, target), own) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.axhline(0, color="0.8", zorder=0)
        axes.axvline(0, color="0.8", zorder=0)
        handles["random"] = axes.scatter(0, 0, s=80, c=RANDOM_COLOUR, marker="P")
        points = [(0.0, 0.0)]
        for entry in own:
            style = styles[entry["method"]]
            handles[entry["method"]] = _draw(axes, entry, *style)
            points.append(_place(entry))
        axes.set_title(f"{domain.title()}, {target}", weight="bold")
        axes.set_xlabel("← learns more than random    domain test loss, points")
        axes.set_ylabel("← forgets less than random    loss on own answers, points")
        axes.grid(alpha=0.25)
        places, heights = zip(*points, strict=True)
        axes.set_xlim(*_limits(places))
        axes.set_ylim(*_limits(heights))
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=2 * columns + 1
    )
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Return an axis's limits around the points; wide intervals of few are cut."""
    margin = 0.15 * (max(values) - min(values)) + 0.5
    return min(values) - margin, max(values) + margin


def _drawn(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the entries of a panel that the picture shows."""
    fewest = min(2, max(entry["pools"] for entry in entries))
    return [
        entry for entry in entries if _DIFFERENCE in entry and entry["pools"] >= fewest
    ]


def _styles(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return colours, by kind of method, and markers, another for each of a kind."""
    used: Counter[str] = Counter()
    styles = {}
    for name in names:
        colour = _colour(name)
        styles[name] = colour, _MARKERS[used[colour] % len(_MARKERS)]
        used[colour] += 1
    return styles


def _place(entry: Mapping[str, Any]) -> tuple[float, float]:
    x, y = entry[_DIFFERENCE], entry["forgetting_less_random"]
    return min(max(x, -_FAR), _FAR), min(max(y, -_FAR), _FAR)


def _draw(axes: Any, entry: Mapping[str, Any], colour: str, marker: str) -> Any:
    """Draw a point with its intervals; return what stands for it in the legend."""
    x, y = _place(entry)
    x_errors, y_errors = (
        [[max(value - low, 0)], [max(high - value, 0)]]
        for value, (low, high) in (
            (x, entry["domain_less_random_interval"]),
            (y, entry["forgetting_less_random_interval"]),
        )
    )
    differences = entry[_DIFFERENCE], entry["forgetting_less_random"]
    if (x, y) != differences:
        axes.annotate(
            f"({differences[0]:+.0f}, {differences[1]:+.0f})",
            (x, y),
            (-6, 6 - 20 * len(axes.texts)),  # below, if there is one already
            textcoords="offset points",
            ha="right",
            color=colour,
        )
    axes.errorbar(
        x, y, xerr=x_errors, yerr=y_errors, color=colour, fmt="none", elinewidth=0.7
    )
    return axes.scatter(x, y, s=60, color=colour, marker=marker, zorder=3)


def _colour(method: str) -> str:
    """Return the colour of a method's kind."""
    environment, surgery, _, _, other, _ = COLOURS
    method = method.removeprefix(SCREENED)
    if method.startswith("random") or method == "all":
        return RANDOM_COLOUR
    if method in SURGERY:
        return surgery
    return environment if method in _OF_ENVIRONMENT else other
