"""Learning curves as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ogs_env.experiments.plots import COLOURS, RANDOM_COLOUR
from ogs_env.files import whole_file


def plot_training(
    agents: Sequence[Mapping[str, Any]],
    references: Mapping[str, float],
    cost_limit: float | None,
    path: Path,
) -> None:
    """Draw how agents learned: their evaluations, one line a seed.

    Under a cost limit two more panels show what evaluated and training episodes cost,
    and the multiplier.

    Args:
        agents: Of each, `seed` and `training` with `curve` and `kept`.
        references: Mean returns of other policies by name, drawn as levels.
        cost_limit: The limit, or None.
        path: The PNG file to write.

    Raises:
        InputError: If the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = 1 if cost_limit is None else 3
    figure = Figure(figsize=(7, 1 + 3 * panels), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    for number, agent in enumerate(agents):
        curve = agent["training"]["curve"]
        steps = [point["steps"] for point in curve]
        look: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "marker": "o"}
        label = f"seed {agent['seed']}"
        axes[0].plot(steps, [p["return"] for p in curve], label=label, **look)
        kept = agent["training"]["kept"]
        axes[0].plot(kept["steps"], kept["return"], "*", color=look["color"], ms=15)
        if cost_limit is not None:
            axes[1].plot(steps, [p["cost"] for p in curve], **look)
            trained = [p["training_cost"] for p in curve]
            axes[1].plot(steps, trained, color=look["color"], linestyle=":")
            axes[2].plot(steps, [p["multiplier"] for p in curve], **look)
    for name, level in references.items():
        axes[0].axhline(level, color=RANDOM_COLOUR, linewidth=0.8, linestyle="--")
        axes[0].annotate(
            name,
            (1, level),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 2),
            textcoords="offset points",
            ha="right",
            color=RANDOM_COLOUR,
            size=9,
        )
    axes[0].set(title="Evaluations on the test split; a star is kept", ylabel="return")
    axes[0].legend(loc="best", ncols=min(len(agents), 3))
    if cost_limit is not None:
        axes[1].axhline(cost_limit, color="black", linewidth=1)
        axes[1].set(ylabel="cost of an episode, %", ylim=(0, None))
        axes[1].set_title("line: evaluated, dotted: in training, black: the limit")
        axes[2].set(ylabel="multiplier of the cost")
    axes[-1].set_xlabel("environment steps; of imitation, examples learned from")
    axes[-1].xaxis.set_major_formatter(lambda x, _: f"{x / 1000:,.0f}k" if x else "0")
    for one in axes:
        one.grid(alpha=0.25)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")
