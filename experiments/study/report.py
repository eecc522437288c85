"""Table and picture of the study."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ogs_env.experiments.plots import COLOURS, RANDOM_COLOUR
from ogs_env.experiments.study.methods import SURGERY
from ogs_env.experiments.study.summary import ALL_DOMAINS, summaries
from ogs_env.files import whole_file, write_json, write_text

TABLE, PICTURE, SUMMARY = "table.md", "trade-off.png", "summary.json"
_OF_ENVIRONMENT = ("oracle", "navigator", "imitation", "auto")
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
        f"{entry['select_seconds']:.0f}",
        ""
        if entry["train_seconds_ratio"] is None
        else f"{entry['train_seconds_ratio']:.2f}",
    ]


def _number(entry: Mapping[str, Any], name: str, interval: str) -> str:
    if name not in entry:
        return ""
    low, high = entry[interval]
    return f"{entry[name]:+.1f} [{low:+.1f}, {high:+.1f}]"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f}"


def plot(entries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw both changes of every method, one panel for each domain and target.

    Args:
        entries: Result of `summaries`.
        path: PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = by_panel(e for e in entries if e["domain"] != ALL_DOMAINS)
    size = 6.4 * len(panels), 5.6
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for number, ((domain, target), own) in enumerate(sorted(panels.items()), start=1):
        axes = figure.add_subplot(1, len(panels), number)
        for entry in own:
            _point(axes, entry)
        axes.axhline(0, color="0.8", zorder=0)
        axes.axvline(0, color="0.8", zorder=0)
        axes.set_title(f"{domain.title()}, {target}", weight="bold")
        axes.set_xlabel("← learned more      domain test loss, %")
        axes.set_ylabel("← retained more      loss on own answers, %")
        axes.grid(alpha=0.25)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _point(axes: Any, entry: Mapping[str, Any]) -> None:
    x, y = entry["domain_change"], entry["forgetting"]
    (left, right), (low, high) = entry["domain_interval"], entry["forgetting_interval"]
    colour = _colour(entry["method"])
    axes.errorbar(
        x,
        y,
        xerr=[[x - left], [right - x]],
        yerr=[[y - low], [high - y]],
        color=colour,
        marker="o",
        markersize=7,
        elinewidth=0.8,
        alpha=0.9,
    )
    axes.annotate(
        entry["method"],
        (x, y),
        xytext=(6, 5),
        textcoords="offset points",
        color=colour,
        fontsize=9,
    )


def _colour(method: str) -> str:
    """Return the colour of a method's kind."""
    environment, surgery, _, _, other, _ = COLOURS
    if method.startswith("random") or method == "all":
        return RANDOM_COLOUR
    if method in SURGERY:
        return surgery
    return environment if method in _OF_ENVIRONMENT else other
