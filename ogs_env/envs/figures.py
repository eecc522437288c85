"""Frames as pictures. They need matplotlib, but no display."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.envs.rendering import (
    History,
    anchor_of,
    mixture_last_step,
    mixture_title,
    selection_title,
    short,
)

if TYPE_CHECKING:
    from ogs_env.envs.mixture import MixtureEnv
    from ogs_env.envs.selection import SelectionEnv

# Okabe and Ito's colours, told apart by the colour-blind too; sources beyond them
# have the same colours with other markers.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#6e6e6e")
_MARKERS = "os^D"
_GREY = "#909090"
_INCHES, _DPI = (10.0, 5.6), 100
# In shares of the figure: left, bottom, width, height.
_LEFT_PANEL = (0.075, 0.11, 0.495, 0.68)
_RIGHT_PANELS = ((0.645, 0.545, 0.335, 0.32), (0.645, 0.11, 0.335, 0.32))
_COLOUR_BAR = (0.075, 0.87, 0.495, 0.02)
_LEFT_LEGEND = {"loc": "lower left", "bbox_to_anchor": (-0.01, 1.0), "ncols": 4}
_RIGHT_LEGEND = {"loc": "upper left", "bbox_to_anchor": (-0.02, 1.04), "ncols": 2}
_LEGEND_PLACES = 12
# More do not fit beside the bars.
_NAMED_CLUSTERS = 24


def selection_picture(env: "SelectionEnv", history: History) -> NDArray[np.uint8]:
    """Return the frame of a `SelectionEnv`, uint8 (560, 1000, 3)."""
    figure = _figure(selection_title(env, history), history.last_step)
    _draw_slate(figure.add_axes(_LEFT_PANEL), env, history)
    losses = history.losses[: len(history.picks) + 1]
    _draw_losses(figure, losses, env.bundle, env.budget)
    figure.axes[-1].set_xlabel("picks of the budget")
    return _pixels(figure)


def mixture_picture(env: "MixtureEnv") -> NDArray[np.uint8]:
    """Return the frame of a `MixtureEnv`, uint8 (560, 1000, 3)."""
    figure = _figure(mixture_title(env), mixture_last_step(env))
    _draw_clusters(figure.add_axes(_LEFT_PANEL), env)
    losses = np.stack(env.losses)
    _draw_losses(figure, losses, env.bundle, env.steps)
    figure.axes[-1].set_xlabel("batches of the budget")
    return _pixels(figure)


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


def _pixels(figure: Any) -> NDArray[np.uint8]:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def _draw_losses(
    figure: Any, losses: NDArray[np.floating], bundle: Bundle, budget: int
) -> None:
    """Draw in two panels how the domain's and the capabilities' losses have changed.

    Args:
        figure: Gets the panels.
        losses: Nats per token (n, 1 + capabilities), the domain's first, at the start
            and after each unit of the budget spent.
        bundle: Whose losses they are.
        budget: Units that there are.
    """
    changes = 100 * (losses / losses[0] - 1)
    panels = [("domain loss", [""], changes[:, :1])]
    panels.append((anchor_of(bundle).title, bundle.capabilities, changes[:, 1:]))
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


def _draw_slate(axes: Any, env: "SelectionEnv", history: History) -> None:
    bundle = env.bundle
    sources = bundle.pool.sources
    picked = sources[[pick.row for pick in history.picks]]
    picks = np.array([pick.seen[:2] for pick in history.picks]).reshape(-1, 2)
    dealt = history.slate >= 0
    slate = history.seen[dealt, :2]
    # With the whole stream's at the start, so that a film's axes keep still.
    stream = np.column_stack(
        [
            bundle.domain_cosines(env.stream),
            bundle.anchor_cosines(env.stream).min(axis=1),
        ]
    )
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

    for source in np.unique(picked):
        _mark(axes, picks[picked == source].T, source, size=6, alpha=0.35)
    places = np.flatnonzero(dealt)
    for place, point in zip(places, slate, strict=True):
        if env.slate[place] >= 0:
            # A mark that covers another covers its number too.
            order = 3 + place / env.slate_size
            style = {"zorder": order, "clip_on": False}
            _mark(axes, point, sources[history.slate[place]], size=12, **style)
            axes.annotate(
                str(place),
                point,
                size=6.5,
                color="white",
                ha="center",
                va="center_baseline",
                **style,
            )
    if history.picks:
        _mark(axes, picks[-1], picked[-1], size=20, marker="*", zorder=5)

    counts = np.bincount(sources[env.stream])
    handles: list[Any] = []
    for source in np.argsort(-counts, kind="stable")[: _LEGEND_PLACES - 2]:
        if counts[source]:
            name = short(bundle.sources[source], 16)
            handles += _mark(axes, ([], []), source, size=8, label=name)
    grey = len(_COLOURS) - 1
    handles += _mark(axes, ([], []), grey, size=6, alpha=0.35, label="picked before")
    handles += _mark(axes, ([], []), grey, size=14, marker="*", label="last pick")
    _legend(axes, handles, **_LEFT_LEGEND)


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


def _draw_clusters(axes: Any, env: "MixtureEnv") -> None:
    """Draw a bar a cluster: how much was drawn, coloured by its domain cosine."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    clusters = np.arange(len(env.left))
    sizes = np.bincount(env.clusters, minlength=len(clusters))
    every = env.bundle.domain_cosines(np.arange(len(env.clusters)))
    cosines = np.bincount(env.clusters, every, len(clusters)) / np.maximum(sizes, 1)
    scale = ScalarMappable(
        Normalize(min(0, cosines.min()), max(0, cosines.max())), "viridis"
    )
    colours = scale.to_rgba(cosines)
    axes.barh(clusters, env.picked_from, color=colours)
    # So that a cluster without a bar has a colour too.
    points = 0 * clusters, clusters
    axes.scatter(*points, s=30, c=colours, marker="s", clip_on=False, zorder=3)
    shares = (env.left + env.picked_from) / len(env.stream)
    marks = axes.plot(
        shares * len(env.picked),
        clusters,
        "|",
        color=_COLOURS[4],
        markersize=10,
        markeredgewidth=2,
        label="if drawn at random",
    )
    if env.last_action is not None:
        point = env.picked_from[env.last_action], env.last_action
        marks += axes.plot(
            *point, "*", color="black", markersize=14, label="last action"
        )
    right = 1.15 * max(3 * env.batch, env.picked_from.max())
    axes.set(xlim=(0, right), ylim=(len(clusters) - 0.5, -0.5))
    axes.set_xlabel("samples drawn of each cluster (in brackets: left)")
    if len(clusters) <= _NAMED_CLUSTERS:
        names = [f"{cluster} ({left})" for cluster, left in enumerate(env.left)]
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
