"""What the environment predicts against what fine-tuning did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ogs_env.bundle import Bundle
from ogs_env.errors import InputError
from ogs_env.experiments.fidelity.results import BASE, read_results, rows_of
from ogs_env.files import read_json
from ogs_env.learners.surrogate import SurrogateLearner

Array = NDArray[np.float64]
_RESAMPLES = 2000


@dataclass(frozen=True)
class Table:
    """Real and predicted changes, one row a subset; percent of the first loss.

    Attributes:
        names: Of the subsets.
        rows: Their pool rows in order.
        real: By set (`test`, `retention`, `prose` and, where it was measured,
            `knowledge`): means over seeds (subsets,).
        repeats: By set: the changes of each subset's seeds.
        predicted: `domain`, `retention` and, where the bundle has it, `knowledge`, by
            the learner from dev and from each capability's anchor.
        naive: The first two from mean cosines at the untouched model.
    """

    names: list[str]
    rows: list[list[int]]
    real: dict[str, Array]
    repeats: dict[str, list[Array]]
    predicted: dict[str, Array]
    naive: dict[str, Array]


def table(bundle: Bundle, folder: Path) -> Table:
    """Read the results in a folder and predict each.

    Args:
        bundle: What they are about.
        folder: With one file a run; the untouched model's losses lie above it.
    """
    results = read_results(folder)
    base = read_json(folder.parent / BASE, "untouched model's losses")["losses"]
    names = list(results)
    # What the first runs did not measure yet is left out.
    measured = set(base).intersection(
        *(run["losses"] for runs in results.values() for run in runs)
    )
    repeats = {
        name: [
            np.array([100 * (run["losses"][name] / base[name] - 1) for run in runs])
            for runs in results.values()
        ]
        for name in base
        if name in measured
    }
    rows = [rows_of(bundle, runs[0]["ids"]) for runs in results.values()]
    predictions = [predict(bundle, subset) for subset in rows]
    picks = [np.array(subset) for subset in rows]
    naive = {
        "domain": [-bundle.domain_cosines(one).mean() for one in picks],
        "retention": [-bundle.anchor_cosines(one)[:, 0].mean() for one in picks],
    }
    return Table(
        names,
        rows,
        {name: np.array([one.mean() for one in v]) for name, v in repeats.items()},
        repeats,
        {name: np.array([one[name] for one in predictions]) for name in predictions[0]},
        {name: np.array(values) for name, values in naive.items()},
    )


def predict(bundle: Bundle, rows: Sequence[int]) -> dict[str, float]:
    """Return what the learner makes of picks in order, in percent.

    The change of the dev loss is called `domain`, that of the first capability's
    anchor loss (maths in the named domains) `retention`, those of others by their
    names. The real ones are of test and retention samples.
    """
    learner = SurrogateLearner(bundle)
    domain, anchors = learner.domain_loss(), learner.anchor_losses()
    for row in rows:
        learner.update(row)
    changes = 100 * (learner.anchor_losses() / anchors - 1)
    names = ["retention", *bundle.capabilities[1:]]
    return {
        "domain": 100 * (learner.domain_loss() / domain - 1),
        **dict(zip(names, changes.tolist(), strict=True)),
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


def summarise(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """Return what one line of `ogs fidelity --summary` says about a domain.

    Greedy picks are compared with random ones on the list `rewarded`, where that was
    run: it has the picks of the reward as it is now.
    """
    found = table(bundle, folder)
    rewarded = folder.parent / "rewarded"
    greedy = table(bundle, rewarded) if rewarded.is_dir() else found
    domain = correlation(found.predicted["domain"], found.real["test"])
    retention = correlation(found.predicted["retention"], found.real["retention"])
    general = correlation(found.predicted["retention"], found.real["prose"])
    naive = {
        name: round(spearman(found.naive[name], found.real[real]), 3)
        for name, real in (("domain", "test"), ("retention", "retention"))
    }
    summary = {
        "domain": bundle.name,
        "subsets": len(found.names),
        "domain_spearman": domain["spearman"],
        "domain_interval": domain["interval"],
        "retention_spearman": retention["spearman"],
        "retention_interval": retention["interval"],
        "ceiling_domain": ceiling(found.repeats["test"]),
        "ceiling_retention": ceiling(found.repeats["retention"]),
        "naive_domain": naive["domain"],
        "naive_retention": naive["retention"],
        "domain_pearson": domain["pearson"],
        "retention_pearson": retention["pearson"],
        "general_text_spearman": general["spearman"],
        "greedy_less_random": paired(greedy, "greedy", "random"),
        "agent_less_random": paired(found, "agent", "random"),
    }
    for name in found.real.keys() & found.predicted.keys() - {"retention"}:
        of_capability = correlation(found.predicted[name], found.real[name])
        summary[f"{name}_spearman"] = of_capability["spearman"]
        summary[f"{name}_interval"] = of_capability["interval"]
    return summary


def markdown(found: Table) -> str:
    """Return a Markdown table of the kinds of subset: means of real and predicted."""
    kinds: dict[str, list[int]] = {}
    for place, name in enumerate(found.names):
        kinds.setdefault(name.rsplit("-", 1)[0], []).append(place)
    lines = [
        "| subsets | number | test | predicted | retention | predicted | prose |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, places in kinds.items():
        cells = [kind, str(len(places))]
        for values in (
            found.real["test"],
            found.predicted["domain"],
            found.real["retention"],
            found.predicted["retention"],
            found.real["prose"],
        ):
            cells.append(f"{values[places].mean():+.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(found: Table, summary: Mapping[str, Any], file: Path) -> None:
    """Draw predicted against real changes, for domain and retention."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ogs_env.experiments.plots import COLOURS, RANDOM_COLOUR
    from ogs_env.files import whole_file

    figure = Figure(figsize=(10, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    kinds = list(dict.fromkeys(name.split("-")[0] for name in found.names))
    colours = dict(zip(kinds, [*COLOURS, RANDOM_COLOUR], strict=False))
    panels: Any = figure.subplots(1, 2)
    for axes, name, real in zip(
        panels, ("domain", "retention"), ("test", "retention"), strict=True
    ):
        x, y = found.predicted[name], found.real[real]
        low, high = min(x.min(), y.min()) - 0.3, max(x.max(), y.max()) + 0.3
        axes.plot([low, high], [low, high], color="black", linewidth=0.8, zorder=1)
        for kind in kinds:
            places = [
                n for n, one in enumerate(found.names) if one.split("-")[0] == kind
            ]
            axes.scatter(
                x[places],
                y[places],
                label=kind,
                color=colours.get(kind, RANDOM_COLOUR),
                s=28,
            )
        axes.set(
            xlim=(low, high),
            ylim=(low, high),
            xlabel="predicted change of the loss, %",
            ylabel="real change of the loss, %",
            title=f"{name}: Spearman {summary[f'{name}_spearman']:.2f} "
            f"[{summary[f'{name}_interval'][0]:.2f}, "
            f"{summary[f'{name}_interval'][1]:.2f}]",
        )
        axes.set_aspect("equal")
        axes.grid(alpha=0.25)
    panels[1].legend(loc="upper left", frameon=False, fontsize=8)
    with whole_file(file) as temporary:
        figure.savefig(temporary, format="png")


def spearman(first: Array, second: Array) -> float:
    """Return Spearman's rank correlation."""
    return float(stats.spearmanr(first, second).statistic)
