"""What the environment predicts against what fine-tuning did."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ogs_env.errors import InputError
from ogs_env.experiments.fidelity.results import BASE, read_results
from ogs_env.experiments.fidelity.terms import Terms, read_terms
from ogs_env.files import read_json
from ogs_env.learners.fitted import default_learner

Array = NDArray[np.float64]
_RESAMPLES = 2000
MEASURES = {"domain": "test", "forgetting": "forgetting", "reference": "reference"}
"""What is predicted, by the name of what was measured."""


@dataclass(frozen=True)
class Table:
    """Real and predicted changes, one row a subset; percent of the first loss.

    Attributes:
        names: Of the subsets.
        real: By what was measured, means over seeds (subsets,): `test`, `prose`,
            `own/NAME` and `reference/NAME` of each capability; `forgetting`, the
            largest of own answers' rises; `reference`, the largest of references'
            rises; `pairs/NAME`, the change of the share of pairs that are right,
            points of percent, and `margin/NAME`, that of the mean log-probability
            ratio, nats.
        repeats: The same with the changes of each subset's seeds.
        predicted: `domain`, `forgetting`, `reference`, and each `own/NAME` and
            `reference/NAME`.
        naive: Predictors that need no learner.
    """

    names: list[str]
    real: dict[str, Array]
    repeats: dict[str, list[Array]]
    predicted: dict[str, Array]
    naive: dict[str, Array]


def table(folder: Path) -> Table:
    """Read the results in a folder, and the learner's terms beside them.

    Args:
        folder: With one file a run, and the terms; the untouched model's losses lie
            above it.
    """
    results, terms = read_results(folder), read_terms(folder)
    if list(results) != terms.subsets:
        raise InputError(
            f"{folder}: its terms are about other subsets than its runs; run "
            "`ogs fidelity --terms`"
        )
    base = read_json(folder.parent / BASE, "untouched model's losses")
    changes = [[_changes(run, base) for run in runs] for runs in results.values()]
    repeats = {
        name: [np.array([one[name] for one in runs]) for runs in changes]
        for name in changes[0][0]
    }
    return Table(
        terms.subsets,
        {name: np.array([one.mean() for one in v]) for name, v in repeats.items()},
        repeats,
        predict(terms, default_learner(terms.steps, terms.norms)),
        terms.naive,
    )


def predict(terms: Terms, learner: dict[str, Any]) -> dict[str, Array]:
    """Return what a learner predicts for each subset, in percent.

    Args:
        terms: Of the subsets.
        learner: A manifest's `learner` entry.
    """
    responses = {
        "domain": learner["domain"],
        **{f"reference/{name}": learner["anchor"] for name in terms.capabilities},
        **{f"own/{name}": learner["answers"] for name in terms.capabilities},
    }
    found = {
        name: 100 * terms.change(name, response) / terms.start[name]
        for name, response in responses.items()
    }
    return found | _worst(found)


def _changes(run: dict[str, Any], base: dict[str, Any]) -> dict[str, float]:
    found = {
        name: 100 * (loss / base["losses"][name] - 1)
        for name, loss in run["losses"].items()
    }
    for name, pairs in run["pairs"].items():
        before = base["pairs"][name]
        found[f"pairs/{name}"] = 100 * (pairs["accuracy"] - before["accuracy"])
        found[f"margin/{name}"] = pairs["margin"] - before["margin"]
    return found | _worst(found)


def _worst(changes: dict[str, Any]) -> dict[str, Any]:
    """Return how the capability stands that is worst, for both kinds of answers."""
    kinds = {"forgetting": "own/", "reference": "reference/"}
    return {
        name: np.max([v for key, v in changes.items() if key.startswith(kind)], axis=0)
        for name, kind in kinds.items()
    }


def correlation(predicted: Array, real: Array) -> dict[str, Any]:
    """Return Spearman and Pearson correlations and Spearman's 95 % interval.

    The interval is the bootstrap's over subsets (percentiles, 2,000 resamples).
    """
    rng = np.random.default_rng(0)
    draws = [
        spearman(predicted[chosen], real[chosen])
        for chosen in rng.integers(len(real), size=(_RESAMPLES, len(real)))
    ]
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return {
        "spearman": round(spearman(predicted, real), 3),
        "interval": [round(float(low), 3), round(float(high), 3)],
        "pearson": round(float(stats.pearsonr(predicted, real).statistic), 3),
    }


def ceiling(repeats: Sequence[Array]) -> float:
    """Return the highest correlation that seed noise allows any predictor.

    The square root of the reliability: of the variance of the subsets' means, the
    part that is not noise (Spearman 1904). The noise of one run comes from the
    subsets that were trained with several seeds.

    Raises:
        InputError: If none was.
    """
    several = [one for one in repeats if len(one) > 1]
    if not several:
        raise InputError("no subset was trained with two seeds; run with --seeds 2")
    noise = sum(((one - one.mean()) ** 2).sum() for one in several)
    noise /= sum(len(one) - 1 for one in several)
    in_means = noise * np.mean([1 / len(one) for one in repeats])
    spread = np.var([one.mean() for one in repeats], ddof=1)
    return round(float(np.sqrt(max(0.0, 1 - in_means / spread))), 3)


def paired(found: Table, first: str, second: str) -> dict[str, Any]:
    """Compare two kinds of subset that were picked from the same candidates.

    Returns:
        For each set the mean difference first - second, in points of percent, and
        its 95 % interval by Student's t over the pairs, if there are two or more;
        `pairs`, how many.
    """
    places = {name: place for place, name in enumerate(found.names)}
    numbers = [
        name.removeprefix(f"{first}-")
        for name in found.names
        if name.startswith(f"{first}-")
        and f"{second}-{name.removeprefix(f'{first}-')}" in places
    ]
    result: dict[str, Any] = {"pairs": len(numbers)}
    if len(numbers) < 2:
        return result
    for name, real in found.real.items():
        gaps = np.array(
            [
                real[places[f"{first}-{n}"]] - real[places[f"{second}-{n}"]]
                for n in numbers
            ]
        )
        mean = float(gaps.mean())
        half = stats.t.ppf(0.975, len(gaps) - 1) * stats.sem(gaps)
        result[name] = {
            "difference": round(mean, 3),
            "interval": [round(mean - half, 3), round(mean + half, 3)],
        }
    return result


def summarise(folder: Path) -> dict[str, Any]:
    """Return what one line of `ogs fidelity --summary` says about a pool and recipe.

    Args:
        folder: Of a pool's list; its name tells the list.
    """
    found = table(folder)
    summary: dict[str, Any] = {
        "pool": folder.parent.name,
        "recipe": folder.name,
        "subsets": len(found.names),
        "refitted": False,
    }
    for name, measured in MEASURES.items():
        result = correlation(found.predicted[name], found.real[measured])
        summary[f"{name}_spearman"] = result["spearman"]
        summary[f"{name}_interval"] = result["interval"]
        summary[f"{name}_pearson"] = result["pearson"]
        if any(len(one) > 1 for one in found.repeats[measured]):
            summary[f"{name}_ceiling"] = ceiling(found.repeats[measured])
    for name, measured in MEASURES.items():
        summary[f"{name}_naive"] = {
            naive: round(spearman(values, found.real[measured]), 3)
            for naive, values in found.naive.items()
        }
    pairs = paired(found, "reward", "random")
    if pairs["pairs"] > 1:
        summary["reward_less_random"] = pairs
    return summary


def markdown(found: Table) -> str:
    """Return a Markdown table of the kinds of subset: means of real and predicted."""
    kinds: dict[str, list[int]] = {}
    for place, name in enumerate(found.names):
        kinds.setdefault(name.rsplit("-", 1)[0], []).append(place)
    columns = {
        "domain test": found.real["test"],
        "predicted": found.predicted["domain"],
        "own answers": found.real["forgetting"],
        "predicted ": found.predicted["forgetting"],
        "references": found.real["reference"],
        "predicted  ": found.predicted["reference"],
        "prose": found.real["prose"],
        **{name: v for name, v in found.real.items() if name.startswith("pairs/")},
    }
    lines = [
        "| subsets | number | " + " | ".join(map(str.strip, columns)) + " |",
        "|---" * (2 + len(columns)) + "|",
    ]
    for kind, places in kinds.items():
        cells = [kind, str(len(places))]
        cells += [f"{values[places].mean():+.2f}" for values in columns.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(found: Table, summary: dict[str, Any], file: Path) -> None:
    """Draw predicted against real changes, for the domain and for forgetting."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ogs_env.experiments.plots import COLOURS, RANDOM_COLOUR
    from ogs_env.files import whole_file

    figure = Figure(figsize=(10, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    kinds = list(dict.fromkeys(name.split("-")[0] for name in found.names))
    colours = dict(zip(kinds, [*COLOURS, RANDOM_COLOUR], strict=False))
    markers = "os^Dv*P<>X"
    panels: Any = figure.subplots(1, 2)
    titles = {"domain": "domain test loss", "forgetting": "loss on own answers"}
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        x, y = found.predicted[name], found.real[MEASURES[name]]
        for number, kind in enumerate(kinds):
            places = [
                n for n, one in enumerate(found.names) if one.split("-")[0] == kind
            ]
            axes.scatter(
                x[places],
                y[places],
                label=kind,
                color=colours.get(kind, RANDOM_COLOUR),
                marker=markers[number % len(markers)],
                s=28,
            )
        low, high = summary[f"{name}_interval"]
        axes.set(
            xlabel="predicted change, %",
            ylabel="real change, %",
            title=f"{title}: Spearman {summary[f'{name}_spearman']:.2f} "
            f"[{low:.2f}, {high:.2f}]",
        )
        axes.grid(alpha=0.25)
    panels[1].legend(loc="best", frameon=False, fontsize=8)
    with whole_file(file) as temporary:
        figure.savefig(temporary, format="png")


def spearman(first: Array, second: Array) -> float:
    """Return Spearman's rank correlation."""
    return float(stats.spearmanr(first, second).statistic)
