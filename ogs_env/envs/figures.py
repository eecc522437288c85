"""Frames of environments as pictures. They need matplotlib, but no display."""

import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ogs_env.envs.snapshots import (
    MixtureSnapshot,
    Sample,
    SelectionSnapshot,
    Snapshot,
    short,
)

# The palette of Okabe and Ito, which colour-blind readers can distinguish. Further
# sources repeat its colours with other markers.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#6e6e6e")
_MARKERS = "os^D"
_GREY = "#909090"
_INCHES, _DPI = (10.0, 5.6), 100
# Shares of the figure: left, bottom, width, height.
_LEFT_PANEL = (0.075, 0.11, 0.495, 0.68)
_RIGHT_PANELS = ((0.645, 0.545, 0.335, 0.32), (0.645, 0.11, 0.335, 0.32))
_COLOUR_BAR = (0.075, 0.87, 0.495, 0.02)
_LEFT_LEGEND = {"loc": "lower left", "bbox_to_anchor": (-0.01, 1.0), "ncols": 4}
_RIGHT_LEGEND = {"loc": "upper left", "bbox_to_anchor": (-0.02, 1.04), "ncols": 2}
_LEGEND_PLACES = 12
# More tick labels do not fit beside the bars.
_NAMED_CLUSTERS = 24


def picture(snapshot: SelectionSnapshot | MixtureSnapshot) -> NDArray[np.uint8]:
    """Return a frame as a picture, uint8 (560, 1000, 3).

    Raises:
        gymnasium.error.DependencyNotInstalled: Without matplotlib.
    """
    figure = _figure(snapshot.title, snapshot.last_step)
    axes = figure.add_axes(_LEFT_PANEL)
    if isinstance(snapshot, SelectionSnapshot):
        unit = "picks"
        _draw_slate(axes, snapshot)
    else:
        unit = "batches"
        _draw_clusters(axes, snapshot)
    _draw_losses(figure, snapshot)
    figure.axes[-1].set_xlabel(f"{unit} of the budget")
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def _figure(title: str, event: str) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise gymnasium.error.DependencyNotInstalled(
            "render_mode 'rgb_array' needs matplotlib; run "
            "`pip install 'ogs-env[plots]'`"
        ) from None
    figure = Figure(figsize=_INCHES, dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.02, 0.945, title, size=11, weight="bold", parse_math=False)
    figure.text(0.98, 0.945, event, size=10, ha="right")
    return figure


def _draw_losses(figure: Any, snapshot: Snapshot) -> None:
    """Add two panels: the changes of the domain's and of the capabilities' losses."""
    losses, budget = snapshot.losses, snapshot.budget
    changes = 100 * (losses / losses[0] - 1)
    panels: list[tuple[str, tuple[str, ...], Any]] = [
        ("domain loss", ("",), changes[:, :1]),
        (
            "loss on own answers" if snapshot.own_answers else "anchor loss",
            snapshot.capabilities,
            changes[:, 1:],
        ),
    ]
    for place, (title, names, curves) in zip(_RIGHT_PANELS, panels, strict=True):
        axes = figure.add_axes(place)
        low, high = min(curves.min(), -0.5), max(curves.max(), 0.5)
        room = 0.12 * (high - low)
        axes.set(xlim=(0, budget), ylim=(low - room, high + room))
        axes.axhline(0, color=_GREY, linewidth=0.8)
        _plain(axes)
        for number, (name, curve) in enumerate(zip(names, curves.T, strict=True)):
            colour = _COLOURS[number % len(_COLOURS)]
            label = f"{short(name, 10)} " if name else ""
            label += f"{curve[-1]:+.2f}%"
            style = {"color": colour, "clip_on": False}
            axes.plot(curve, linewidth=1.8, **style)
            axes.plot(len(curve) - 1, curve[-1], "o", label=label, **style)
        if len(names) == 1:
            title = f"{title}: {label}"
        else:
            points = axes.lines[2:13:2]
            # The legend is above the curves, two names a row.
            axes.set_ylim(top=high + room * (1 + math.ceil(len(points) / 2)))
            _legend(axes, points, **_RIGHT_LEGEND)
        axes.set_title(title, loc="left", size=10, parse_math=False)
        step = -(-budget // 4)
        axes.set_xticks([*range(0, budget - step // 2, step), budget])
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:+.3g}%" if y else "0")


def _draw_slate(axes: Any, snapshot: SelectionSnapshot) -> None:
    """Draw the slate and the picks by their domain and anchor cosines."""
    sources = np.array([pick.source for pick in snapshot.picks])
    picks = _cosines(snapshot.picks)
    slate = _cosines([sample for sample in snapshot.slate if sample])
    # The limits include the whole stream, so that they stay the same in an episode.
    stream = snapshot.stream_cosines
    every = np.concatenate([np.zeros((1, 2)), stream, slate, picks])
    low, high = every.min(axis=0), every.max(axis=0)
    room = 0.07 * np.maximum(high - low, 0.01)
    (left, bottom), (right, top) = low - room, high + room
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.axhline(0, color=_GREY, linewidth=0.8)
    axes.axvline(0, color=_GREY, linewidth=0.8)
    _plain(axes)
    axes.set_xlabel("cosine with the domain's gradient    (helps →)")
    axes.set_ylabel("least cosine with an anchor's gradient    (spares →)")

    for source in np.unique(sources):
        _mark(axes, picks[sources == source].T, source, size=6, alpha=0.35)
    for place, sample in enumerate(snapshot.slate):
        if sample and snapshot.available[place]:
            # A mark that covers another covers its number too.
            order = 3 + place / len(snapshot.slate)
            style = {"zorder": order, "clip_on": False}
            point = sample.features[:2]
            _mark(axes, point, sample.source, size=12, **style)
            axes.annotate(
                str(place),
                point,
                size=6.5,
                color="white",
                ha="center",
                va="center_baseline",
                **style,
            )
    if snapshot.picks:
        _mark(axes, picks[-1], sources[-1], size=20, marker="*", zorder=5)

    counts = np.bincount(snapshot.stream_sources)
    handles: list[Any] = []
    for source in np.argsort(-counts, kind="stable")[: _LEGEND_PLACES - 2]:
        if counts[source]:
            name = short(snapshot.sources[source], 16)
            handles += _mark(axes, ([], []), source, size=8, label=name)
    grey = len(_COLOURS) - 1
    handles += _mark(axes, ([], []), grey, size=6, alpha=0.35, label="picked before")
    handles += _mark(axes, ([], []), grey, size=14, marker="*", label="last pick")
    _legend(axes, handles, **_LEFT_LEGEND)


def _cosines(samples: Sequence[Sample]) -> NDArray[np.floating]:
    """Return the domain and anchor cosines of samples (n, 2)."""
    return np.array([sample.features[:2] for sample in samples]).reshape(-1, 2)


def _mark(
    axes: Any, point: Any, source: int, *, size: float, **style: Any
) -> Sequence[Any]:
    """Mark a point in its source's colour."""
    marker = _MARKERS[source // len(_COLOURS) % len(_MARKERS)]
    style = {"marker": marker, "clip_on": False, **style}
    return axes.plot(
        *point,
        color=_COLOURS[source % len(_COLOURS)],
        markersize=size,
        markeredgecolor="black" if style["marker"] == "*" else "white",
        linestyle="",
        **style,
    )


def _draw_clusters(axes: Any, snapshot: MixtureSnapshot) -> None:
    """Draw a bar for each cluster: samples drawn, coloured by its domain cosine."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    left, drawn, cosines = snapshot.left, snapshot.drawn, snapshot.cosines
    clusters = np.arange(len(left))
    scale = ScalarMappable(
        Normalize(min(0, cosines.min()), max(0, cosines.max())), "viridis"
    )
    colours = scale.to_rgba(cosines)
    axes.barh(clusters, drawn, color=colours)
    # A cluster without a bar shows its colour too.
    points = 0 * clusters, clusters
    axes.scatter(*points, s=30, c=colours, marker="s", clip_on=False, zorder=3)
    sizes = left + drawn
    marks = axes.plot(
        sizes / sizes.sum() * drawn.sum(),
        clusters,
        "|",
        color=_COLOURS[4],
        markersize=10,
        markeredgewidth=2,
        label="if drawn at random",
    )
    if snapshot.last_cluster is not None:
        point = drawn[snapshot.last_cluster], snapshot.last_cluster
        marks += axes.plot(
            *point, "*", color="black", markersize=14, label="last action"
        )
    right = 1.15 * max(3 * snapshot.batch, drawn.max())
    axes.set(xlim=(0, right), ylim=(len(clusters) - 0.5, -0.5))
    axes.set_xlabel("samples drawn of each cluster (in brackets: left)")
    if len(clusters) <= _NAMED_CLUSTERS:
        names = [f"{cluster} ({count})" for cluster, count in enumerate(left)]
        axes.set_yticks(clusters, names, size=8)
    _plain(axes)
    _legend(axes, marks, loc="lower right")
    bar = axes.figure.colorbar(
        scale, cax=axes.figure.add_axes(_COLOUR_BAR), orientation="horizontal"
    )
    bar.set_label("mean cosine with the domain's gradient (positive: helps)", size=8)
    bar.ax.tick_params(labelsize=8)


def _plain(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def _legend(axes: Any, handles: Sequence[Any], **where: Any) -> None:
    legend = axes.legend(
        handles=handles,
        fontsize=8,
        handlelength=1.5,
        framealpha=0.8,
        edgecolor="none",
        handletextpad=0.3,
        columnspacing=1.2,
        **where,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
