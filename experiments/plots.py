"""Plots of fine-tuning results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ogs_env.errors import InputError
from ogs_env.experiments.contrasts import by_selector, mean_change
from ogs_env.files import whole_file

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours, which colour-blind readers can distinguish."""
RANDOM_COLOUR = "#6e6e6e"
MARKERS = "sD^vPX"


def tradeoff(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw learning of the domain against forgetting for each selection.

    Each small point is a run, in percent of the loss before fine-tuning. Runs of the
    same selector share a colour, and a large labelled point is their mean. The
    untouched model is the origin: points to its left have learned the domain, points
    above it have forgotten.

    Args:
        results: Results of `ogs_env.experiments.finetune.finetune`.
        path: The PNG file to write.

    Raises:
        InputError: If there are no results or matplotlib is not installed.
    """
    if not results:
        raise InputError(f"{path}: no results to draw; fine-tune on a selection first")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(
            f"{path}: drawing needs matplotlib; run `pip install 'ogs-env[plots]'`"
        ) from None

    points = changes(results)
    every = [point for runs in points.values() for point in runs]
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    left, right = _limits([x for x, _ in every])
    bottom, top = _limits([y for _, y in every])
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.fill_between((left, 0), bottom, 0, color="#009e73", alpha=0.12, linewidth=0)
    axes.fill_between((left, right), 0, top, color="#d55e00", alpha=0.08, linewidth=0)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axvline(0, color="black", linewidth=0.8)
    _corner(axes, 0, 0, "↙ better: learns the domain, keeps the rest", "#007a50")
    _corner(axes, 0, 1, "learns the domain, forgets the rest", "#a04000")
    _corner(axes, 1, 1, "forgets", "#a04000")
    _corner(axes, 1, 0, "learns nothing", "#606060")
    axes.plot(0, 0, marker="*", markersize=18, color="black", zorder=4)
    _name(axes, "before", 0, 0, "black")
    colours = iter(COLOURS * len(points))
    ordered = sorted(points.items(), key=lambda item: -max(y for _, y in item[1]))
    for number, (selector, runs) in enumerate(ordered):
        colour = RANDOM_COLOUR if selector == "random" else next(colours)
        marker = "o" if selector == "random" else MARKERS[number % len(MARKERS)]
        x, y = (sum(values) / len(runs) for values in zip(*runs, strict=True))
        if len(runs) > 1:
            all_x, all_y = zip(*runs, strict=True)
            axes.scatter(all_x, all_y, s=26, c=colour, marker=marker,
                         alpha=0.5, linewidths=0)  # fmt: skip
        axes.plot(x, y, marker=marker, markersize=12, color=colour,
                  markeredgecolor="white", zorder=3)  # fmt: skip
        count = f" ({len(runs)} runs)" if len(runs) > 1 else ""
        _name(axes, selector + count, x, y, colour)
    axes.set_title("What each selection teaches, and what it costs", weight="bold")
    axes.set_xlabel("← learned more      change of the domain's test loss, %")
    axes.set_ylabel("← retained more      change of the loss on its own answers, %")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda x, _: f"{x:+.3g}" if abs(x) > 1e-9 else "0")
    axes.grid(alpha=0.25)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def changes(
    results: Sequence[Mapping[str, Any]],
) -> dict[str, list[tuple[float, float]]]:
    """Return each selector's changes of (domain, own answers') loss in percent."""
    return {
        selector: [
            (mean_change(run, "test"), mean_change(run, "answers")) for run in runs
        ]
        for selector, runs in by_selector(results).items()
    }


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Return limits that include the values and zero, with room for labels."""
    low, high = min(0.0, *values), max(0.0, *values)
    room = 0.3 * max(high - low, 0.1)
    return low - room, high + room


def _corner(axes: Any, x: int, y: int, text: str, colour: str) -> None:
    """Write the meaning of a corner into it; (0, 0) is the lower left."""
    axes.annotate(
        text,
        (x, y),
        xycoords="axes fraction",
        xytext=(8 - 16 * x, 8 - 16 * y),
        textcoords="offset points",
        ha="right" if x else "left",
        va="top" if y else "bottom",
        color=colour,
        weight="bold" if (x, y) == (0, 0) else "normal",
        style="italic",
    )


def _name(axes: Any, text: str, x: float, y: float, colour: str) -> None:
    """Write a label to the right of a point, with a white outline."""
    from matplotlib.patheffects import withStroke

    axes.annotate(
        text,
        (x, y),
        xytext=(11, 0),
        textcoords="offset points",
        ha="left",
        va="center",
        color=colour,
        weight="bold",
        zorder=5,
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )
