"""The benchmark's tables: from records to figures, and from figures to Markdown."""

import contextlib
import importlib.metadata
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.policies import STREAM
from ogs_env.errors import InputError
from ogs_env.experiments.benchmark.records import Record
from ogs_env.experiments.statistics import (
    RESAMPLES,
    interquartile_mean,
    interval,
    probability_of_improvement,
)

TABLE = "benchmark.md"
ORACLE = "oracle"
GREEDY = "greedy"
_VERSIONS = ("gymnasium", "numpy", "ogs-env", "scipy", "torch")
_DIGITS = 4

Scores = NDArray[np.float64]


def returns(record: Record) -> Scores:
    """Return the returns (runs, episodes)."""
    return record.figures["return"].astype(np.float64)


def report(records: Sequence[Record]) -> dict[str, Any]:
    """Return all figures of the benchmark, JSON-able.

    `return_iqm` is the interquartile mean of the returns of all runs and episodes,
    `interval` its 95 % interval (`ogs_env.experiments.statistics.interval`). Of a
    domain, `best` is the selector of highest `return_iqm` among those that see one
    slate at a time and are not trained, and

        share_of_oracle = return_iqm / oracle's
        gap_closed      = (return_iqm - best's) / (oracle's - best's)
        room            = (oracle's - best's) / oracle's.

    `improvement_over_greedy` is the probability of improvement. What a missing oracle
    or greedy selector leaves unknown is None. `aggregate` is about those who played
    every domain, their returns divided by the oracle's `return_iqm` there.

    Args:
        records: Of the same episodes.

    Raises:
        InputError: If the records are of different episodes.
    """
    _check_alike(records)
    domains, table = [], []
    for name in _names(records, "domain"):
        head, lines = _domain([one for one in records if one.played.domain == name])
        domains.append({"domain": name, **head})
        table += lines
    played = records[0].played
    last_seed = played.first_seed + played.episodes - 1
    return {
        "episodes": played.episodes,
        "episode_seeds": [played.first_seed, last_seed],
        "split": "test",
        "resamples": RESAMPLES,
        "domains": domains,
        "table": table,
        "aggregate": _aggregate(records, domains),
        "versions": _versions(),
    }


def normalised(
    records: Iterable[Record], oracle: Mapping[str, float]
) -> dict[str, list[Scores]]:
    """Return returns as shares of the oracle's, of those who played every domain.

    Args:
        records: Of any selectors and domains.
        oracle: `return_iqm` of the oracle by domain.

    Returns:
        By selector: a table (runs, episodes) for each domain, in the order of
        `oracle`.
    """
    found: dict[str, dict[str, Scores]] = {}
    for one in records:
        domain = one.played.domain
        if domain in oracle:
            scores = returns(one) / oracle[domain]
            found.setdefault(one.played.selector, {})[domain] = scores
    return {
        selector: [tables[domain] for domain in oracle]
        for selector, tables in found.items()
        if len(tables) == len(oracle)
    }


def oracle_returns(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the oracle's `return_iqm` by domain; empty unless it played them all."""
    found = {one["domain"]: one["oracle_iqm"] for one in report["domains"]}
    return {} if None in found.values() else found


def _check_alike(records: Sequence[Record]) -> None:
    """Check that all records are of the same episodes."""
    first = records[0].played
    for record in records:
        one = record.played
        if (one.first_seed, one.episodes) != (first.first_seed, first.episodes):
            raise InputError(
                f"{one.domain} {one.selector}: was played on {one.episodes} episodes "
                f"from seed {one.first_seed}, {first.domain} {first.selector} on "
                f"{first.episodes} from {first.first_seed}; run `ogs benchmark` for "
                "all of them, or with another --out"
            )


def _names(records: Iterable[Record], of: str) -> list[str]:
    return list(dict.fromkeys(getattr(one.played, of) for one in records))


def _domain(records: Sequence[Record]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a domain's head, and a line for each selector, the highest first."""
    lines = [_line(record, records) for record in records]
    lines.sort(key=lambda line: -line["return_iqm"])
    oracle = next((one for one in lines if one["selector"] == ORACLE), None)
    best = next((one for one in lines if _comparable(one)), None)
    top = oracle["return_iqm"] if oracle else None
    base = best["return_iqm"] if best else None
    for line in lines:
        line["share_of_oracle"] = _ratio(line["return_iqm"], top)
        line["gap_closed"] = None
        if top is not None and base is not None and top > base:
            line["gap_closed"] = _ratio(line["return_iqm"] - base, top - base)
    room = None if top is None or base is None else _ratio(top - base, top)
    head = {
        "env": records[0].played.env,
        "best": best["selector"] if best else None,
        "best_iqm": base,
        "oracle_iqm": top,
        "room": room,
    }
    return head, lines


def _comparable(line: Mapping[str, Any]) -> bool:
    """Tell whether a selector sees one slate at a time, untrained."""
    name = line["selector"]
    return not (line["seeds"] or name == ORACLE or name.endswith(STREAM))


def _line(record: Record, records: Sequence[Record]) -> dict[str, Any]:
    scores, figures = returns(record), record.figures
    low, high = interval([scores])
    means = {
        name: round(float(values.mean(dtype=np.float64)), _DIGITS)
        for name, values in figures.items()
        if name not in ("return", "seconds")
    }
    greedy = [returns(one) for one in records if one.played.selector == GREEDY]
    improvement = None
    if greedy:
        improvement = round(probability_of_improvement([scores], greedy), _DIGITS)
    return {
        "domain": record.played.domain,
        "selector": record.played.selector,
        "return_iqm": round(interquartile_mean([scores]), _DIGITS),
        "interval": [round(low, _DIGITS), round(high, _DIGITS)],
        **means,
        "picks": round(float((record.rows >= 0).sum(axis=-1).mean()), _DIGITS),
        "improvement_over_greedy": improvement,
        # The median: a first episode also prepares what all others use.
        "milliseconds": round(1e3 * float(np.median(figures["seconds"])), _DIGITS),
        "seeds": record.played.seeds,
        "env_kwargs": record.played.env_kwargs,
    }


def _aggregate(
    records: Sequence[Record], domains: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return a line for each selector that played every domain, the highest first."""
    scores = normalised(records, oracle_returns({"domains": domains}))
    lines = []
    for selector, tasks in scores.items():
        low, high = interval(tasks)
        improvement = None
        if GREEDY in scores:
            found = probability_of_improvement(tasks, scores[GREEDY])
            improvement = round(found, _DIGITS)
        lines.append(
            {
                "selector": selector,
                "iqm": round(interquartile_mean(tasks), _DIGITS),
                "interval": [round(low, _DIGITS), round(high, _DIGITS)],
                "improvement_over_greedy": improvement,
            }
        )
    return sorted(lines, key=lambda line: -line["iqm"])


def _ratio(part: float, whole: float | None) -> float | None:
    return round(part / whole, _DIGITS) if whole else None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown: what there is to win, each domain, and all."""
    first, last = report["episode_seeds"]
    parts = [
        "# Benchmark",
        f"{report['episodes']} episodes of the test split (seeds {first} to {last}), "
        "the same for everyone. Made by `ogs benchmark`; `ogs benchmark --verify "
        "FOLDER` plays every selection again.",
        "Best is the selector of highest return among those that see one slate at a "
        "time, as an agent does, and are not trained. Room is what the oracle has "
        "over it, as a share of the oracle's return.",
        _rows(
            ("domain", "best", "return", "oracle", "room"),
            [
                (
                    one["domain"],
                    one["best"] or "",
                    _number(one["best_iqm"]),
                    _number(one["oracle_iqm"]),
                    _percent(one["room"]),
                )
                for one in report["domains"]
            ],
        ),
        "Return: interquartile mean over episodes (and training seeds), in points of "
        "percent, with its 95 % bootstrap interval. Its parts are the domain gain and, "
        "by whose answers a bundle's reward is about, the cost, which is taken off "
        "(the model's own), the anchor change (reference answers), or both. Cost is "
        "the selection's forgetting, the largest rise of a capability's loss on the "
        "model's own answers, or without those on reference answers; anchor change is "
        "the least fall of a capability's loss on reference answers. Test and "
        "retention are changes of losses that no reward sees (negative is better). "
        "These are means. Gap closed: 0 % is the best, 100 % the oracle. P(> greedy): "
        "probability of improvement over greedy. Time: choosing, an episode's median. "
        f"`NAME{STREAM}` sees the whole stream before its first pick; `KIND-from-"
        "DOMAIN` was trained there and plays here without training. All returns are "
        "by the environment's own reward, whatever an agent was trained for.",
    ]
    for domain in report["domains"]:
        name = domain["domain"]
        lines = [one for one in report["table"] if one["domain"] == name]
        parts += [f"## {name} ({domain['env']})", _domain_table(lines)]
    if report["aggregate"] and len(report["domains"]) > 1:
        parts += [
            "## All domains",
            "Returns as shares of the oracle's in their domain: interquartile mean "
            "and stratified bootstrap interval; the probability of improvement is "
            "the domains' mean.",
            _rows(
                ("selector", "share of the oracle", "95 % interval", "P(> greedy)"),
                [
                    (
                        one["selector"],
                        _percent(one["iqm"]),
                        f"{_percent(one['interval'][0])} to "
                        f"{_percent(one['interval'][1])}",
                        _number(one["improvement_over_greedy"]),
                    )
                    for one in report["aggregate"]
                ],
            ),
        ]
    return "\n\n".join(parts) + "\n"


def _domain_table(lines: Sequence[Mapping[str, Any]]) -> str:
    names = (
        *("selector", "return", "95 % interval", "of oracle", "gap closed"),
        *("domain gain", "anchor change", "cost", "test", "retention", "picks"),
        *("P(> greedy)", "time, ms", "training seeds"),
    )
    rows = []
    for one in lines:
        low, high = one["interval"]
        rows.append(
            (
                one["selector"],
                _number(one["return_iqm"]),
                f"{low:.2f} to {high:.2f}",
                _percent(one["share_of_oracle"]),
                _percent(one["gap_closed"]),
                _number(one["domain_gain"]),
                _number(one["anchor_change"]),
                _number(one["cost"]),
                _number(one["test_change"]),
                _number(one["retention_change"]),
                f"{one['picks']:.1f}",
                _number(one["improvement_over_greedy"]),
                f"{one['milliseconds']:.1f}",
                str(len(one["seeds"]) or ""),
            )
        )
    return _rows(names, rows)


def _rows(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are numbers or short."""
    lines = [names, ["---", *["---:"] * (len(names) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"
