"""Frames of environments as text; `render` draws a frame in any render mode."""

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ogs_env.envs import figures
from ogs_env.envs.snapshots import (
    MixtureHistory,
    MixtureSnapshot,
    SelectionHistory,
    SelectionSnapshot,
    Snapshot,
    short,
)

RENDER_MODES = ("human", "ansi", "rgb_array")

# Widths in characters; no line of a frame is longer than 96.
_BAR = 30
_SPARK = 44
_SPARKS = "▁▂▃▄▅▆▇█"
# A sparkline's scale spans at least this share of the first value.
_LEAST_SPREAD = 0.005


def render(
    mode: str | None, history: SelectionHistory | MixtureHistory | None
) -> str | NDArray[np.uint8] | None:
    """Return the frame that an environment's `render` returns.

    Args:
        mode: One of `RENDER_MODES`; without one, it warns.
        history: Record of the episode; None before the first reset.

    Returns:
        Text in mode "ansi", uint8 (560, 1000, 3) in mode "rgb_array", else None.

    Raises:
        gymnasium.error.ResetNeeded: If there is no history.
    """
    if mode is None:
        gymnasium.logger.warn("render_mode is None: make(..., render_mode='ansi')")
        return None
    if history is None:
        raise gymnasium.error.ResetNeeded("nothing to render: call reset() first")
    if mode == "rgb_array":
        return figures.picture(history.snapshot())
    return text(history.snapshot()) if mode == "ansi" else None


def text(snapshot: SelectionSnapshot | MixtureSnapshot) -> str:
    """Return a frame as text, no line longer than 96 characters."""
    full = round(snapshot.spent / snapshot.budget * _BAR)
    bar = "█" * full + "░" * (_BAR - full)
    header = [snapshot.title, f"budget [{bar}]   {snapshot.last_step}"]
    if isinstance(snapshot, SelectionSnapshot):
        state = [*_slate(snapshot), "", *_last_pick(snapshot)]
    else:
        state = _clusters(snapshot)
    lines = [*header, "", *state, "", *_losses(snapshot)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def sparkline(values: NDArray[np.floating], points: int) -> str:
    """Draw a curve in one line, 44 characters when it has all its points.

    Args:
        values: The first (n,) points of the curve, n >= 1, above 0. The least value
            has the lowest bar; the scale spans at least half a percent of the first.
        points: Points of the whole curve.
    """
    places = np.linspace(0, points - 1, _SPARK).round().astype(int)
    shown = values[places[places < len(values)]]
    spread = max(float(np.ptp(values)), _LEAST_SPREAD * float(values[0]))
    levels = (shown - values.min()) / spread * (len(_SPARKS) - 1)
    return "".join(_SPARKS[level] for level in levels.round().astype(int))


def _losses(snapshot: Snapshot) -> list[str]:
    """Draw each loss as a sparkline over the budget, with its change."""
    label = "own answers" if snapshot.own_answers else "anchor"
    names = [short(f"{label}: {name}", 22) for name in snapshot.capabilities]
    names = ["domain", *names]
    width = max(map(len, names))
    title = f"{'':{width}}  {'loss, nats per token':{_SPARK}}"
    lines = [f"{title}    start     now    change"]
    for name, values in zip(names, snapshot.losses.T, strict=True):
        line = sparkline(values, snapshot.budget + 1)
        lines.append(
            f"{name:{width}}  {line:{_SPARK}}  {values[0]:7.4f}  {values[-1]:7.4f}  "
            f"{100 * (values[-1] / values[0] - 1):+7.2f}%"
        )
    return lines


def _slate(snapshot: SelectionSnapshot) -> list[str]:
    """Draw the slate: one line a place, so that all frames have the same height."""
    lines = [
        "   place  sample            domain cos  anchor cos   norm   loss tokens  "
        "nearest  source",
    ]
    for place, sample in enumerate(snapshot.slate):
        if sample is None:
            lines.append(f"   {place:5d}  (empty)")
            continue
        mark = " "
        if not snapshot.available[place]:
            mark = ">" if place == snapshot.picks[-1].place else "x"
        domain, anchor, norm, loss, tokens, nearest = sample.features
        lines.append(
            f" {mark} {place:5d}  {sample.name}  {domain:+10.3f}  "
            f"{anchor:+10.3f} {norm:+6.2f} {loss:+6.2f} {tokens:+6.2f}  "
            f"{nearest:+7.3f}  {short(snapshot.sources[sample.source], 14)}"
        )
    lines.append(
        "   (> last pick, x picked before; norm, loss, tokens: in deviations from the "
        "proxy's usual)"
    )
    return lines


def _last_pick(snapshot: SelectionSnapshot) -> list[str]:
    if not snapshot.picks:
        return ["last pick: none yet", ""]
    pick = snapshot.picks[-1]
    domain, anchor = pick.features[:2]
    gains = [
        f"{term.replace('_', ' ')} {snapshot.last_terms[term]:+.3f}%"
        for term in (
            "domain_gain",
            "forgetting" if snapshot.own_answers else "anchor_gain",
        )
    ]
    return [
        f"last pick: {pick.name} of {short(snapshot.sources[pick.source], 30)}, "
        f"slate {pick.slate_number + 1}, place {pick.place}",
        f"           cosine with domain {domain:+.3f}, anchor {anchor:+.3f}; "
        + ", ".join(gains),
    ]


def _clusters(snapshot: MixtureSnapshot) -> list[str]:
    """Draw the clusters: one line each, with a bar for its share of the mixture."""
    lines = ["   cluster   left  domain cos    Orth    Conf    norm  drawn  share"]
    for cluster, features in enumerate(snapshot.features):
        _, orth, conf, norm, domain, share = features
        mark = ">" if cluster == snapshot.last_cluster else " "
        lines.append(
            f" {mark} {cluster:7d}  {snapshot.left[cluster]:5d}  {domain:+10.3f}  "
            f"{orth:6.3f}  {conf:+6.3f}  {norm:+6.2f}  {snapshot.drawn[cluster]:5d}  "
            f"{share:5.0%}  " + "█" * round(share * 20)
        )
    lines.append(
        "   (> last action; means over what is left; norm: deviations from the usual)"
    )
    return lines
