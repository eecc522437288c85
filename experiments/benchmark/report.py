"""Tables of the benchmark: from records to statistics, and on to Markdown."""

import contextlib
import importlib.metadata
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.agents.policies import STREAM
from ogs_env.errors import InputError
from ogs_env.experiments.benchmark.records import USER, Record
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
    """Return the returns of a record, float64 (runs, episodes)."""
    return record.measures["return"].astype(np.float64)


def report(records: Sequence[Record]) -> dict[str, Any]:
    """Return all statistics of the benchmark, JSON-able.

    `return_iqm` is the interquartile mean of the returns of all runs and episodes,
    `interval` its 95 % interval (`ogs_env.experiments.statistics.interval`). In each
    domain, `best` is the selector of highest `return_iqm` among those that see one
    slate at a time; trained agents and users' policies are excluded. Then

        share_of_oracle = return_iqm / oracle's
        gap_closed      = (return_iqm - best's) / (oracle's - best's)
        room            = (oracle's - best's) / oracle's.

    `improvement_over_greedy` is the probability of improvement. Statistics that need
    the oracle or greedy are None without it. `aggregate` has the policies that played
    every domain, with returns divided by the oracle's `return_iqm` there.

    Args:
        records: Records of the same episodes.

    Raises:
        InputError: If the records are of different episodes.
    """
    _check_alike(records)
    domains, table = [], []
    for name in _names(records, "domain"):
        head, lines = _domain([one for one in records if one.identity.domain == name])
        domains.append({"domain": name, **head})
        table += lines
    identity = records[0].identity
    last_seed = identity.first_seed + identity.episodes - 1
    return {
        "episodes": identity.episodes,
        "episode_seeds": [identity.first_seed, last_seed],
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
    """Return returns as shares of the oracle's, for policies that played every domain.

    Args:
        records: Records of any policies and domains.
        oracle: `return_iqm` of the oracle by domain.

    Returns:
        By policy: a table (runs, episodes) for each domain, in the order of `oracle`.
    """
    shares: dict[str, dict[str, Scores]] = {}
    for one in records:
        domain = one.identity.domain
        if domain in oracle:
            scores = returns(one) / oracle[domain]
            shares.setdefault(one.identity.selector, {})[domain] = scores
    return {
        selector: [tables[domain] for domain in oracle]
        for selector, tables in shares.items()
        if len(tables) == len(oracle)
    }


def oracle_returns(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the oracle's `return_iqm` by domain; empty if one has none."""
    iqms = {one["domain"]: one["oracle_iqm"] for one in report["domains"]}
    return {} if None in iqms.values() else iqms


def _check_alike(records: Sequence[Record]) -> None:
    """Check that all records are of the same episodes."""
    first = records[0].identity
    for record in records:
        one = record.identity
        if (one.first_seed, one.episodes) != (first.first_seed, first.episodes):
            raise InputError(
                f"{one.domain} {one.selector}: was played on {one.episodes} episodes "
                f"from seed {one.first_seed}, {first.domain} {first.selector} on "
                f"{first.episodes} from {first.first_seed}; run `ogs benchmark` for "
                "all of them, or with another --out"
            )


def _names(records: Iterable[Record], of: str) -> list[str]:
    return list(dict.fromkeys(getattr(one.identity, of) for one in records))


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
        "env": records[0].identity.env,
        "best": best["selector"] if best else None,
        "best_iqm": base,
        "oracle_iqm": top,
        "room": room,
    }
    return head, lines


def _comparable(line: Mapping[str, Any]) -> bool:
    """Return whether a policy is a selector that sees one slate at a time."""
    name = line["selector"]
    is_selector = not (line["seeds"] or name.startswith(USER))
    return is_selector and name != ORACLE and not name.endswith(STREAM)


def _line(record: Record, records: Sequence[Record]) -> dict[str, Any]:
    scores, measures = returns(record), record.measures
    low, high = interval([scores])
    means = {
        name: round(float(values.mean(dtype=np.float64)), _DIGITS)
        for name, values in measures.items()
        if name not in ("return", "seconds")
    }
    greedy = [returns(one) for one in records if one.identity.selector == GREEDY]
    improvement = None
    if greedy:
        improvement = round(probability_of_improvement([scores], greedy), _DIGITS)
    return {
        "domain": record.identity.domain,
        "selector": record.identity.selector,
        "return_iqm": round(interquartile_mean([scores]), _DIGITS),
        "interval": [round(low, _DIGITS), round(high, _DIGITS)],
        **means,
        "picks": round(float((record.rows >= 0).sum(axis=-1).mean()), _DIGITS),
        "improvement_over_greedy": improvement,
        # The median, since the first episode also fills caches.
        "milliseconds": round(1e3 * float(np.median(measures["seconds"])), _DIGITS),
        "seeds": record.identity.seeds,
        "env_kwargs": record.identity.env_kwargs,
    }


def _aggregate(
    records: Sequence[Record], domains: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return a line for each policy that played every domain, the highest first."""
    scores = normalised(records, oracle_returns({"domains": domains}))
    lines = []
    for selector, tasks in scores.items():
        low, high = interval(tasks)
        improvement = None
        if GREEDY in scores:
            probability = probability_of_improvement(tasks, scores[GREEDY])
            improvement = round(probability, _DIGITS)
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
    versions = {"python": platform.python_version()}
    for name in _VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown: an overview, each domain, and all domains."""
    first, last = report["episode_seeds"]
    parts = [
        "# Benchmark of all selectors and agents",
        f"{report['episodes']} episodes of the test split (seeds {first} to {last}), "
        "the same for every policy. Written by `ogs benchmark`; `ogs benchmark "
        "--verify FOLDER` replays every selection.",
        "Best is the selector of highest return among those that see one slate at a "
        "time, as an agent does, without training. Room is the oracle's return minus "
        "the best one's, as a share of the oracle's.",
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
        "percent, with its 95 % bootstrap interval. It is the domain gain, minus the "
        "cost where a bundle has the model's own answers, plus the anchor change where "
        "its reward is about reference answers. Cost is the selection's forgetting: "
        "the largest rise of a capability's loss on the model's own answers, or on "
        "reference answers where there are no others; anchor change is the least fall "
        "of a capability's loss on reference answers. Test and retention are changes "
        "of losses that are not part of any reward (negative is better). All columns "
        "from domain gain to picks are means. Gap closed: 0 % is the best, 100 % the "
        "oracle. P(> greedy): probability of improvement over greedy. Time: median "
        "time in the policy per episode. "
        f"`NAME{STREAM}` sees the whole stream before its first pick; `KIND-from-"
        "DOMAIN` was trained in DOMAIN alone. All returns use the environment's "
        "default reward, also those of agents trained with another reward.",
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
    """Return a Markdown table; all columns but the first are right-aligned."""
    lines = [names, ["---", *["---:"] * (len(names) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"
