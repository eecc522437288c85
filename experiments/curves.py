"""Plot learning curves."""

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
    """Draw the evaluations of agents over training, one line per seed.

    With a cost limit, two more panels show the cost of evaluation and training
    episodes, and the multiplier.

    Args:
        agents: For each agent `seed`, and `training` with `curve` and `kept`.
        references: Mean returns of other policies by name, drawn as horizontal lines.
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
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "marker": "o"}
        label = f"seed {agent['seed']}"
        axes[0].plot(steps, [p["return"] for p in curve], label=label, **style)
        best = agent["training"]["kept"]
        axes[0].plot(best["steps"], best["return"], "*", color=style["color"], ms=15)
        if cost_limit is not None:
            axes[1].plot(steps, [p["cost"] for p in curve], **style)
            trained = [p["training_cost"] for p in curve]
            axes[1].plot(steps, trained, color=style["color"], linestyle=":")
            axes[2].plot(steps, [p["multiplier"] for p in curve], **style)
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
    axes[0].set(
        title="Evaluations on the test split; star: best model", ylabel="return"
    )
    axes[0].legend(loc="best", ncols=min(len(agents), 3))
    if cost_limit is not None:
        axes[1].axhline(cost_limit, color="black", linewidth=1)
        axes[1].set(ylabel="cost of an episode, %", ylim=(0, None))
        axes[1].set_title("solid: evaluation, dotted: training, black: limit")
        axes[2].set(ylabel="cost multiplier")
    axes[-1].set_xlabel("environment steps; for imitation, examples")
    axes[-1].xaxis.set_major_formatter(lambda x, _: f"{x / 1000:,.0f}k" if x else "0")
    for one in axes:
        one.grid(alpha=0.25)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")
