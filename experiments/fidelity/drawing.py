"""Tables and plots of the fidelity study."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ogs_env.experiments.fidelity.table import MEASURES, Table, kind_of

# Kinds of subsets with a colour and a marker of their own in all plots.
_KINDS = (
    "best",
    "worst",
    "greedy",
    "less",
    "mixture",
    "source",
    "random",
    "grad-match",
    "oracle",
    "navigator",
    "reward",
)
_MARKERS = "ov^*sDP<>Xp"
_TITLES = {"domain": "domain test loss", "forgetting": "loss on own answers"}
EXPLANATION = """\
Means over the subsets of a kind: real changes of losses, in percent of the loss before
fine-tuning, each with the learner's prediction where it has one; and changes of the
share of right pairs, in percentage points. [Fidelity](../README.md) describes subsets
and measures.
"""
"""What the table of a list shows, as Markdown."""


def markdown(data: Table) -> str:
    """Return a Markdown table of mean real and predicted changes by kind of subset."""
    columns = [
        ("domain test", data.real["test"]),
        ("predicted", data.predicted["domain"]),
        ("own answers", data.real["forgetting"]),
        ("predicted", data.predicted["forgetting"]),
        ("references", data.real["reference"]),
        ("predicted", data.predicted["reference"]),
        ("prose", data.real["prose"]),
        *[item for item in data.real.items() if item[0].startswith("pairs/")],
    ]
    rows = [["subsets", "number", *(title for title, _ in columns)]]
    rows.append(["---"] * len(rows[0]))
    for kind, places in _places_by(kind_of, data).items():
        means = [f"{values[places].mean():+.2f}" for _, values in columns]
        rows.append([kind, str(len(places)), *means])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def plot(data: Table, summary: Mapping[str, Any], file: Path) -> None:
    """Draw predicted against real changes, for the domain and for forgetting.

    Args:
        data: Changes to draw, one point per subset.
        summary: Result of `summarise` for them.
        file: The PNG file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ogs_env.experiments.plots import COLOURS, RANDOM_COLOUR
    from ogs_env.files import whole_file

    figure = Figure(figsize=(10, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{summary['pool']}, {summary['recipe']}", weight="bold")
    families = _places_by(_family, data)
    kinds = list(dict.fromkeys((*_KINDS, *families)))
    colours = [*COLOURS, RANDOM_COLOUR]
    panels: Any = figure.subplots(1, 2)
    for axes, (name, title) in zip(panels, _TITLES.items(), strict=True):
        x, y = data.predicted[name], data.real[MEASURES[name]]
        for family, places in families.items():
            number = kinds.index(family)
            axes.scatter(
                x[places],
                y[places],
                label=family,
                color=colours[number % len(colours)],
                marker=_MARKERS[number % len(_MARKERS)],
                s=28,
            )
        low, high = summary[f"{name}_interval"]
        axes.set(
            xlabel="predicted change, %",
            ylabel="real change, %",
        )
        spearman = f"{summary[f'{name}_spearman']:.2f} [{low:.2f}, {high:.2f}]"
        axes.set_title(f"{title}: Spearman {spearman}", fontsize=11)
        axes.grid(alpha=0.25)
    panels[1].legend(loc="best", frameon=False, fontsize=8)
    with whole_file(file) as temporary:
        figure.savefig(temporary, format="png")


def _places_by(group: Callable[[str], str], data: Table) -> dict[str, list[int]]:
    """Return the places of the subsets of each group, by its name."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(data.names):
        places.setdefault(group(name), []).append(place)
    return places


def _family(name: str) -> str:
    """Return a subset's kind, without the name of a score or of a source."""
    kind = kind_of(name)
    first = kind.partition("-")[0]
    return first if first in ("best", "worst", "source") else kind
