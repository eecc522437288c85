"""Plots of the benchmark."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ogs_env.agents.policies import STREAM
from ogs_env.experiments.benchmark.play import FROM
from ogs_env.experiments.benchmark.records import USER, Record
from ogs_env.experiments.benchmark.report import (
    GREEDY,
    ORACLE,
    Scores,
    normalised,
    oracle_returns,
)
from ogs_env.experiments.plots import COLOURS, RANDOM_COLOUR
from ogs_env.experiments.statistics import performance_profile
from ogs_env.files import whole_file

RANDOM = "random"
_BLUE, _RED, _GREEN, _PINK, _ORANGE, _SKY = COLOURS
# Groups of policies: legend text, colour, marker.
_GROUPS = {
    "oracle": ("oracle", "black", "*"),
    "agent": ("agent trained on this domain", _RED, "s"),
    "transfer": ("agent trained on another domain", _ORANGE, "^"),
    "user": ("user's policy", _GREEN, "v"),
    "slate": ("sees one slate at a time", _BLUE, "o"),
    "stream": ("sees the whole stream", _SKY, "D"),
    "random": ("random", RANDOM_COLOUR, "o"),
}
_LEVELS = 301


def draw(report: Mapping[str, Any], records: Sequence[Record], folder: Path) -> None:
    """Draw all plots of a report.

    Args:
        report: Result of `report.report`.
        records: The report's records.
        folder: Where to write `returns-DOMAIN.png`; with an oracle also
            `profiles.png`, and with agents or users' policies too `agents.png`.
    """
    for domain in report["domains"]:
        name = domain["domain"]
        lines = [one for one in report["table"] if one["domain"] == name]
        draw_returns(domain, lines, folder / f"returns-{name}.png")
    oracle = oracle_returns(report)
    if oracle:
        scores = normalised(records, oracle)
        draw_profiles(scores, _shown(report), folder / "profiles.png")
    if oracle and any(_highlighted(line) for line in report["table"]):
        draw_agents(report, folder / "agents.png")


def draw_returns(
    domain: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], path: Path
) -> None:
    """Draw the return of each policy in a domain with its interval, highest on top.

    Args:
        domain: The domain's entry in the report.
        lines: The domain's lines of the table, the highest first.
        path: The PNG file to write.
    """
    figure = _figure(9, 1.6 + 0.21 * len(lines))
    axes = figure.add_subplot()
    _points(axes, lines, 1.0)
    for name, colour in (("oracle", "black"), ("best", _BLUE)):
        if domain[f"{name}_iqm"] is not None:
            axes.axvline(
                domain[f"{name}_iqm"], color=colour, linewidth=0.9, linestyle=":"
            )
    axes.set_title(
        f"{domain['domain'].title()}: returns of all policies", weight="bold"
    )
    label = "return of an episode: interquartile mean, 95 % interval"
    if domain["room"] is not None:
        room = f"{100 * domain['room']:.0f} %"
        label += f"\nbest with one slate at a time: {domain['best']}, room {room}"
    axes.set_xlabel(label)
    axes.legend(handles=_legend(lines), loc="lower right", fontsize=8)
    _save(figure, path)


def draw_profiles(
    scores: Mapping[str, Sequence[Scores]], shown: Sequence[str], path: Path
) -> None:
    """Draw performance profiles: share of the episodes above each return.

    Args:
        scores: Returns as shares of the oracle's, by policy and task.
        shown: Policies to draw; those without scores are left out.
        path: The PNG file to write.
    """
    figure = _figure(9, 5)
    axes = figure.add_subplot()
    drawn = [name for name in shown if name in scores]
    every = np.concatenate([table.ravel() for n in drawn for table in scores[n]])
    first, last = np.quantile(every, (0.002, 0.998))
    levels = np.linspace(first, last, _LEVELS)
    plain = {ORACLE: "black", RANDOM: RANDOM_COLOUR}
    colours = iter(COLOURS * len(drawn))
    for name in drawn:
        colour = plain[name] if name in plain else next(colours)
        middle, low, high = performance_profile(scores[name], levels)
        axes.plot(100 * levels, 100 * middle, color=colour, linewidth=1.8, label=name)
        axes.fill_between(
            100 * levels, 100 * low, 100 * high, color=colour, alpha=0.15, linewidth=0
        )
    axes.set_title("Performance profiles over all domains", weight="bold")
    axes.set_xlabel("return, % of the oracle's in the same domain")
    axes.set_ylabel("episodes with a higher return, %")
    axes.set_ylim(0, 100)
    axes.margins(x=0)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower left", fontsize=9)
    _save(figure, path)


def draw_agents(report: Mapping[str, Any], path: Path) -> None:
    """Draw agents and users' policies beside random, greedy, best and oracle.

    Args:
        report: Result of `report.report`, with an oracle in every domain.
        path: The PNG file to write.
    """
    panels = []
    for domain in report["domains"]:
        references = {ORACLE, domain["best"], GREEDY, RANDOM}
        panels.append(
            [
                line
                for line in report["table"]
                if line["domain"] == domain["domain"]
                and (_highlighted(line) or line["selector"] in references)
            ]
        )
    rows = [len(lines) for lines in panels]
    figure = _figure(8, 1.2 + 0.5 * len(panels) + 0.22 * sum(rows))
    every: Any = figure.subplots(
        len(panels), squeeze=False, sharex=True, height_ratios=rows
    )[:, 0]
    for axes, domain, lines in zip(every, report["domains"], panels, strict=True):
        _points(axes, lines, 100 / domain["oracle_iqm"])
        axes.axvline(100, color="black", linewidth=0.9, linestyle=":")
        best = 100 * domain["best_iqm"] / domain["oracle_iqm"]
        axes.axvline(best, color=_BLUE, linewidth=0.9, linestyle=":")
        axes.set_title(domain["domain"].title(), weight="bold", fontsize=11)
    axes.set_xlabel("return, % of the oracle's: interquartile mean, 95 % interval")
    lines = [line for panel in panels for line in panel]
    figure.legend(
        handles=_legend(lines), loc="outside lower center", ncols=3, fontsize=8
    )
    _save(figure, path)


def _shown(report: Mapping[str, Any]) -> list[str]:
    """Return the policies to profile: agents, users' policies, oracle, best, random."""
    agents = [line["selector"] for line in report["table"] if _highlighted(line)]
    best = [domain["best"] for domain in report["domains"]]
    return list(dict.fromkeys([ORACLE, *agents, *best, GREEDY, RANDOM]))


def _highlighted(line: Mapping[str, Any]) -> bool:
    """Return whether a line is of agents or of a user's policy."""
    return bool(line["seeds"]) or line["selector"].startswith(USER)


def _group(line: Mapping[str, Any]) -> str:
    """Return the name in `_GROUPS` of a line's policy."""
    name = line["selector"]
    if name.startswith(USER):
        return "user"
    if line["seeds"]:
        return "transfer" if FROM in name else "agent"
    if name in (ORACLE, RANDOM):
        return str(name)
    return "stream" if name.endswith(STREAM) else "slate"


def _points(axes: Any, lines: Sequence[Mapping[str, Any]], scale: float) -> None:
    """Draw a point with its interval for each line, the first on top."""
    for place, line in enumerate(reversed(lines)):
        _, colour, marker = _GROUPS[_group(line)]
        low, high = line["interval"]
        axes.plot([scale * low, scale * high], [place, place], color=colour)
        axes.plot(
            scale * line["return_iqm"],
            place,
            marker=marker,
            color=colour,
            markersize=9 if marker == "*" else 5.5,
            markeredgecolor="white",
            markeredgewidth=0.6,
        )
    names = [line["selector"] for line in reversed(lines)]
    axes.set_yticks(range(len(names)), names, fontsize=9)
    for label, line in zip(axes.get_yticklabels(), reversed(lines), strict=True):
        label.set_weight("bold" if _highlighted(line) else "normal")
    axes.set_ylim(-0.7, len(lines) - 0.3)
    axes.grid(alpha=0.25)


def _legend(lines: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the legend entries of the groups that occur in lines."""
    from matplotlib.lines import Line2D

    groups = {_group(line) for line in lines}
    return [
        Line2D([], [], color=colour, marker=marker, label=text)
        for name, (text, colour, marker) in _GROUPS.items()
        if name in groups
    ]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")
