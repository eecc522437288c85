"""Trials of a sweep as a picture."""

from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from ogs_env.experiments.plots import COLOURS, RANDOM_COLOUR
from ogs_env.files import whole_file

_COLUMNS = 3


def plot_trials(result: Mapping[str, Any], path: Path) -> None:
    """Draw what the trials reached, in their order and against every parameter.

    Args:
        result: As `ogs_env.experiments.sweep.write_results` writes it.
        path: The PNG file to write.

    Raises:
        InputError: If the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = {
        name: how
        for name, how in result["drawn"].items()
        if len(how.get("values", (0, 1))) > 1
    }
    texts = [name for name, how in drawn.items() if _is_text(how)]
    numbers = [name for name in drawn if name not in texts]
    rows = -(-len(numbers) // _COLUMNS)
    heights = [3.2, *[2.6] * rows]
    heights += [0.8 + 0.3 * len(drawn[name]["values"]) for name in texts]
    figure = Figure(figsize=(9, sum(heights)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(heights), _COLUMNS, height_ratios=heights)
    _history(figure.add_subplot(grid[0, :]), result)
    for number, name in enumerate(numbers):
        axes = figure.add_subplot(grid[1 + number // _COLUMNS, number % _COLUMNS])
        _slice(axes, result, name, drawn[name])
        if number % _COLUMNS == 0:
            axes.set_ylabel(result["metric"])
    for number, name in enumerate(texts):
        axes = figure.add_subplot(grid[1 + rows + number, :])
        _rows_of_texts(axes, result, name, drawn[name]["values"])
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _history(axes: Any, result: Mapping[str, Any]) -> None:
    trials = result["trials"]
    title = f"{result['sweep']}: {len(trials)} trials, {result['method']}"
    axes.set_title(title, loc="left")
    _points(axes, result, list(range(len(trials))))
    whole = [(n, t["value"]) for n, t in enumerate(trials) if not t["pruned"]]
    better = max if result["goal"] == "maximize" else min
    best = list(accumulate((value for _, value in whole), better))
    if whole:
        ends = [*(place for place, _ in whole), len(trials) - 1]
        axes.step(ends, [*best, best[-1]], where="post", color=COLOURS[1], label="best")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False)
    axes.set(xlabel="trial", ylabel=result["metric"])
    axes.xaxis.get_major_locator().set_params(integer=True)


def _slice(
    axes: Any, result: Mapping[str, Any], name: str, how: Mapping[str, Any]
) -> None:
    from matplotlib.ticker import NullFormatter

    values = [trial["parameters"][name] for trial in result["trials"]]
    if "values" in how:
        kinds = how["values"]
        _points(axes, result, [kinds.index(value) for value in values])
        axes.set_xticks(range(len(kinds)), [str(kind) for kind in kinds])
        axes.set_xlim(-0.5, len(kinds) - 0.5)
    else:
        _points(axes, result, values)
        low, high = how["min"], how["max"]
        if how["log"]:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlim(low / (high / low) ** 0.05, high * (high / low) ** 0.05)
        else:
            margin = 0.05 * (high - low)
            axes.set_xlim(low - margin, high + margin)
    axes.set_xlabel(name)


def _rows_of_texts(
    axes: Any, result: Mapping[str, Any], name: str, kinds: list[Any]
) -> None:
    values = [trial["parameters"][name] for trial in result["trials"]]
    _points(axes, result, [kinds.index(value) for value in values], across=True)
    # Of JSON, what it says.
    plain = str.maketrans("", "", '{}"')
    labels = [str(kind).translate(plain) for kind in kinds]
    axes.set_yticks(range(len(kinds)), labels, size=8)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.set_title(name, loc="left", size=10)
    axes.set_xlabel(result["metric"])


def _points(
    axes: Any, result: Mapping[str, Any], places: list[Any], across: bool = False
) -> None:
    pruned = np.array([trial["pruned"] for trial in result["trials"]], np.bool_)
    values = np.array([trial["value"] for trial in result["trials"]])
    at = np.array(places)
    x, y = (values, at) if across else (at, values)
    axes.plot(x[~pruned], y[~pruned], "o", color=COLOURS[0], label="trained")
    if pruned.any():
        axes.plot(x[pruned], y[pruned], "x", color=RANDOM_COLOUR, label="pruned")
    axes.grid(alpha=0.25)


def _is_text(how: Mapping[str, Any]) -> bool:
    return any(isinstance(kind, str) for kind in how.get("values", ()))
