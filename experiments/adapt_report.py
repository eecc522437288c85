"""The report of `ogs adapt`: one HTML page that opens offline."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import itables
import numpy as np
import pandas
import plotly.graph_objects as go
from itables.javascript import generate_init_offline_itables_html
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.data.samples import Sample
from ogs_env.experiments.contrasts import (
    MEASURED,
    by_selector,
    change,
    contrasts,
    lines,
)
from ogs_env.experiments.plots import COLOURS, RANDOM_COLOUR
from ogs_env.experiments.statistics import t_half_width
from ogs_env.files import write_text
from ogs_env.selection import Selection

REJECTED = 500
"""Samples that were not selected, at most, in the table."""
_LONGEST = 300  # characters of a text in the table
_STYLE = """
body { font-family: system-ui, sans-serif; max-width: 1100px; margin: 2em auto;
       padding: 0 1em; color: #222; line-height: 1.5; }
h2 { margin-top: 2em; }
table.plain { border-collapse: collapse; }
table.plain td, table.plain th { padding: .2em 1em .2em 0; text-align: left; }
td { vertical-align: top; }
"""


def write_report(
    path: Path,
    *,
    results: Sequence[Mapping[str, Any]],
    comparison: Mapping[str, Mapping[str, float]],
    selections: Mapping[str, Selection],
    pool: Bundle,
    texts: Mapping[str, Sample],
    settings: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> None:
    """Write the page.

    Args:
        path: The HTML file.
        results: Results of `finetune`, the chosen selector's first.
        comparison: Value in the environment by selector: `mean`, `low`, `high`.
        selections: By name, the chosen selector's first.
        pool: What was selected from.
        texts: The pool's samples by id.
        settings: Names and values that are shown.
        seconds: Of each stage.
    """
    chosen = next(iter(selections))
    table = itables.to_html_datatable(
        _samples(pool, selections[chosen], texts),
        connected=False,
        showIndex=False,
        classes="display compact",
        layout={"topEnd": "search", "topStart": "pageLength", "bottomEnd": "paging"},
        lengthMenu=[10, 25, 100],
        autoWidth=False,
        maxBytes=0,  # no limit: nothing is left out
        maxRows=0,
        maxColumns=0,
        text_in_header_can_be_selected=False,  # a click on it sorts
    )
    library = generate_init_offline_itables_html(itables.options.dt_bundle)
    figures = (
        (
            "What each selection teaches, and what it makes the model forget",
            "Change of the loss by fine-tuning, in percent. Left is better for the "
            "domain; lower is less forgotten: the loss on answers that the model gave "
            "before it was fine-tuned. Of several runs of a selector, the large point "
            "is the mean, with a 95 % interval (Student's t); of a single run, the "
            "interval is over the measured samples (bootstrap).",
            _tradeoff(results),
        ),
        (
            "Selectors in the environment",
            "Value of what each selects from ten random parts of the pool: the fall of "
            "the domain loss less what is forgotten by its weight, points of percent, "
            "as the environment predicts it, with a 95 % interval (bootstrap over "
            "parts).",
            _comparison(comparison, chosen),
        ),
        (
            "What was selected, by source",
            "Samples of each source.",
            _sources(selections),
        ),
    )
    parts = [
        f"<h1>{html.escape(path.parent.name)}: selected by {html.escape(chosen)}</h1>",
        _losses(results),
        *(f"<p>{html.escape(line)}</p>" for line in lines(contrasts(results), chosen)),
    ]
    for number, (title, text, figure) in enumerate(figures):
        parts += [f"<h2>{title}</h2>", f"<p>{text}</p>"]
        # The library once, with the first figure.
        parts.append(figure.to_html(full_html=False, include_plotlyjs=number == 0))
    parts += [
        "<h2>Samples</h2>",
        f"<p>All samples that {html.escape(chosen)} selected, and up to {REJECTED} "
        "others. Cosines are those of a sample's gradient with the mean gradient of "
        "the domain and of the anchor (the least over its capabilities), at the "
        "untouched model. Click on a column to sort by it.</p>",
        library,
        table,
        "<h2>Settings and times</h2>",
        _plain(settings),
        _plain({f"{name}, seconds": spent for name, spent in seconds.items()}),
    ]
    body = "\n".join(parts)
    write_text(
        path,
        f"<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        f"<title>ogs adapt: {html.escape(path.parent.name)}</title>"
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n",
    )


def _losses(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of losses before and after."""
    names = {
        "test": "domain test loss",
        "answers": "own answers",
        "retention": "references",
    }
    head = "".join(f"<th>{name}</th>" for name in ("selection", *names.values()))
    rows = []
    for result in results:
        cells = [html.escape(result["selection"])]
        for role in names:
            old, new = (result[t][role]["per_sample"] for t in ("before", "after"))
            own = change(result, role)
            cells.append(
                f"{old:.3f} &rarr; {new:.3f} ({own['mean']:+.1f} % "
                f"[{own['low']:+.1f}, {own['high']:+.1f}])"
            )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table class='plain'><tr>{head}</tr>{''.join(rows)}</table>"


def _tradeoff(results: Sequence[Mapping[str, Any]]) -> Any:
    figure = go.Figure()
    figure.add_hline(0, line_color="#999").add_vline(0, line_color="#999")
    colours = iter(COLOURS * len(results))
    for selector, own in by_selector(results).items():
        colour = RANDOM_COLOUR if selector == "random" else next(colours)
        changes = [[change(result, role) for role in MEASURED] for result in own]
        points = np.array([[one["mean"] for one in pair] for pair in changes])
        mean = points.mean(axis=0)
        if len(own) > 1:
            half = t_half_width(points)
            below = above = half
            figure.add_scatter(
                x=points[:, 0],
                y=points[:, 1],
                mode="markers",
                marker={"color": colour, "size": 6, "opacity": 0.5},
                showlegend=False,
                hoverinfo="x+y",
            )
        else:
            below = mean - [one["low"] for one in changes[0]]
            above = [one["high"] for one in changes[0]] - mean
        bars = [
            {"type": "data", "symmetric": False, "array": [up], "arrayminus": [down]}
            for up, down in zip(above, below, strict=True)
        ]
        figure.add_scatter(
            x=mean[:1],
            y=mean[1:],
            mode="markers+text",
            name=selector,
            text=[selector],
            textposition="top center",
            marker={"color": colour, "size": 13},
            error_x=bars[0],
            error_y=bars[1],
        )
    figure.update_layout(
        template="plotly_white",
        xaxis_title="domain test loss, change in %",
        yaxis_title="loss on own answers, change in %",
    )
    return figure


def _comparison(comparison: Mapping[str, Mapping[str, float]], chosen: str) -> Any:
    names = sorted(comparison, key=lambda name: comparison[name]["mean"])
    means = np.array([comparison[name]["mean"] for name in names])
    ends = [np.array([comparison[n][end] for n in names]) for end in ("low", "high")]
    bars = go.Bar(
        x=means,
        y=names,
        orientation="h",
        marker_color=[COLOURS[0] if name == chosen else "#bbb" for name in names],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": ends[1] - means,
            "arrayminus": means - ends[0],
        },
    )
    return go.Figure(bars).update_layout(
        template="plotly_white",
        xaxis_title="value in the environment, points of percent",
        height=120 + 24 * len(names),
    )


def _sources(selections: Mapping[str, Selection]) -> Any:
    names = list(selections)
    sources = sorted({s for own in selections.values() for s in own.sources})
    counts = [
        go.Bar(
            name=source,
            x=names,
            y=[selections[name].sources.count(source) for name in names],
        )
        for source in sources
    ]
    return go.Figure(counts).update_layout(
        template="plotly_white", barmode="stack", yaxis_title="samples"
    )


def _samples(pool: Bundle, selection: Selection, texts: Mapping[str, Sample]) -> Any:
    """Return a data frame of selected and rejected samples."""
    ids = pool.pool.hex_ids()
    row_of = {id_: row for row, id_ in enumerate(ids)}
    selected = [row_of[id_] for id_ in selection.ids]
    rank = {row: number + 1 for number, row in enumerate(selected)}
    others = np.setdiff1d(np.arange(len(ids)), selected)
    shown = np.random.default_rng(0).permutation(others)[:REJECTED]
    rows: NDArray[np.int64] = np.concatenate([selected, shown]).astype(int)
    scores = dict(zip(selected, selection.scores, strict=True))
    samples = [texts[ids[row]] for row in rows]
    return pandas.DataFrame(
        {
            "selected": ["yes" if row in rank else "no" for row in rows],
            "rank": pandas.array([rank.get(row) for row in rows], "Int64"),
            "score": [scores.get(row) for row in rows],
            "source": [sample.source for sample in samples],
            "domain cosine": pool.domain_cosines(rows).round(3),
            "anchor cosine": pool.anchor_cosines(rows).min(axis=1).round(3),
            "loss": pool.pool.losses[rows].round(2),
            "tokens": pool.pool.tokens[rows],
            "prompt": [_cut(sample.prompt) for sample in samples],
            "response": [_cut(sample.response) for sample in samples],
        }
    )


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _plain(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(str(name))}</td><td>{html.escape(str(value))}</td></tr>"
        for name, value in values.items()
    )
    return f"<table class='plain'>{rows}</table>"
