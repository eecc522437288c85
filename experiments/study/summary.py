"""Summaries of the study's runs: means over pools with 95 % intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.errors import InputError
from ogs_env.experiments.statistics import percent_change, t_half_width
from ogs_env.experiments.study.methods import RANDOM, SURGERY, parse_method
from ogs_env.experiments.study.results import BASE, read_runs

RESAMPLES = 4000
ALL_DOMAINS = "all"
"""Entries of this domain are means over the pools of all domains."""


def summaries(folder: Path) -> list[dict[str, Any]]:
    """Summarise a study: one entry for each domain, target and method.

    Args:
        folder: Folder of the study's results.

    Returns:
        By domain (and `all`, of methods that have runs of all domains), target and
        method, JSON-able: `share` of the pool that is trained on; `pools` and `runs`;
        `domain_change`, the change of the loss on the domain's test samples, percent,
        with `domain_interval`; `forgetting`, the rise of the loss on own answers,
        percent, of the capability where it rose most, with `forgetting_interval`; for
        both, with `_less_random`, the difference to random selections of the same
        pools (of surgery, to plain training on the same samples); `accuracy_change`
        and `pairs_change`, percentage points; `gsm8k_before` and `gsm8k_after`, the
        share of right answers, of runs with generated answers;
        `select_seconds`, CPU seconds with sketching; and `train_seconds_ratio`, CPU
        seconds of training over those of the random selections that it is compared
        with; both of runs without a GPU, None if there are none. Means are over pools
        of the mean over runs. Intervals are Student's t over pools; of a single pool a
        bootstrap over its measured texts.

    Raises:
        InputError: If there are no runs.
    """
    runs: dict[tuple[str, str, str], list[_Run]] = {}
    for file, result, base in read_runs(folder):
        try:
            run = _Run(result, base)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{file}: is no result of a run for the measures in {BASE}.json "
                f"({type(error).__name__}: {error}); delete it, or both, and run "
                "`ogs study` again"
            ) from None
        for domain in (run.pool[0], ALL_DOMAINS):
            runs.setdefault((domain, run.target, run.kind), []).append(run)
    domains: dict[str, set[str]] = {}
    for domain, target, _ in runs:
        if domain != ALL_DOMAINS:
            domains.setdefault(target, set()).add(domain)

    def is_shown(domain: str, target: str, own: Sequence[_Run]) -> bool:
        # Of a single domain, the mean over all domains would be the same again.
        covered = {run.pool[0] for run in own}
        return domain != ALL_DOMAINS or 1 < len(covered) == len(domains[target])

    return [
        _summary(domain, own, _random(own, runs.get((domain, target, RANDOM), [])))
        for (domain, target, _), own in runs.items()
        if is_shown(domain, target, own)
    ]


def _random(runs: Sequence["_Run"], random: Sequence["_Run"]) -> list["_Run"]:
    """Return the random selections that a method's runs are compared with.

    Surgery is compared with plain training on the samples that it trains on.
    """
    if runs[0].kind not in SURGERY:
        return list(random)
    trained = {run.selected for run in runs}
    return [run for run in random if run.selected in trained]


class _Run:
    """A run with its changes against the untouched target.

    Args:
        result: Content of its result file.
        base: Measures of the untouched target.
    """

    def __init__(self, result: Mapping[str, Any], base: Mapping[str, Any]) -> None:
        self.pool = result["domain"], result["draw"]
        self.target = result["target"]
        self.kind = parse_method(result["method"]).kind
        self.selected = result["ids_sha256"]
        before, after = (
            {name: np.array(own, float) for name, own in of["losses"].items()}
            for of in (base, result)
        )
        for name in before:
            if before[name].shape != after[name].shape:
                raise ValueError(f"another number of texts in {name}")
        self.domain_losses = before["test"], after["test"]
        own = {name: (before[name], after[name]) for name in before if "own/" in name}
        worst = max(own, key=lambda name: percent_change(*own[name]))
        self.answer_losses = own[worst]
        self.accuracy_change = _points(base["accuracy"], result["accuracy"])
        pairs = [
            _points(base["pairs"][name]["accuracy"], measured["accuracy"])
            for name, measured in result["pairs"].items()
        ]
        self.pairs_change = float(
            np.mean([change for change in pairs if change is not None])
        )
        self.gsm8k = base["gsm8k"], result["gsm8k"]
        self.samples, self.pool_size = result["samples"], result["recipe"]["pool_size"]
        # The processor's time says nothing of work on a GPU.
        self.is_timed = result.get("device", "cpu") == "cpu"
        self.select_seconds = float(result["select_seconds"])
        self.train_seconds = float(result["train_seconds"])


def _points(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else 100 * (after - before)


def _summary(
    domain: str, runs: Sequence[_Run], random: Sequence[_Run]
) -> dict[str, Any]:
    """Summarise the runs of a method with those of random selections."""
    first = runs[0]
    pools = sorted({run.pool for run in runs})
    entry: dict[str, Any] = {
        "domain": domain,
        "target": first.target,
        "method": first.kind,
        "share": round(first.samples / first.pool_size, 4),
        "pools": len(pools),
        "runs": len(runs),
    }
    for name, losses in (
        ("domain_change", "domain_losses"),
        ("forgetting", "answer_losses"),
    ):
        values = [
            [getattr(run, losses) for run in runs if run.pool == pool] for pool in pools
        ]
        others = [
            [getattr(run, losses) for run in random if run.pool == pool]
            for pool in pools
        ]
        entry |= _with_interval(name, values, None)
        if first.kind != RANDOM and all(others):
            entry |= _with_interval(f"{name}_less_random", values, others)
    for name in ("accuracy_change", "pairs_change"):
        changes = [getattr(run, name) for run in runs]
        entry[name] = None if None in changes else round(float(np.mean(changes)), 3)
    for place, name in enumerate(("gsm8k_before", "gsm8k_after")):
        shares = [run.gsm8k[place] for run in runs if None not in run.gsm8k]
        entry[name] = round(float(np.mean(shares)), 4) if shares else None
    timed = [run for run in runs if run.is_timed]
    entry["select_seconds"] = (
        round(float(np.mean([run.select_seconds for run in timed])), 1)
        if timed
        else None
    )
    timed_pools = {run.pool for run in timed}
    plain = [r.train_seconds for r in random if r.is_timed and r.pool in timed_pools]
    own = [run.train_seconds for run in timed]
    entry["train_seconds_ratio"] = (
        round(float(np.mean(own) / np.mean(plain)), 3) if plain else None
    )
    return entry


Losses = tuple[NDArray[np.float64], NDArray[np.float64]]


def _with_interval(
    name: str,
    values: Sequence[Sequence[Losses]],
    others: Sequence[Sequence[Losses]] | None,
) -> dict[str, Any]:
    """Return a mean change and its interval, by pool the losses before and after."""

    def change(runs: Sequence[Losses], weights: NDArray[np.float64] | None) -> Any:
        changes = []
        for before, after in runs:
            each = np.full(len(before), 1 / len(before)) if weights is None else weights
            changes.append(100 * ((each @ after) / (each @ before) - 1))
        return np.mean(changes, axis=0)

    def difference(pool: int, weights: NDArray[np.float64] | None = None) -> Any:
        own = change(values[pool], weights)
        return own if others is None else own - change(others[pool], weights)

    means = np.array([difference(pool) for pool in range(len(values))])
    mean = float(means.mean())
    if len(means) > 1:
        error = t_half_width(means)
        low, high = mean - error, mean + error
    else:
        texts = len(values[0][0][0])
        draws = np.random.default_rng(0).multinomial(
            texts, np.full(texts, 1 / texts), size=RESAMPLES
        )
        low, high = np.quantile(difference(0, draws / texts), [0.025, 0.975])
    return {
        name: round(mean, 3),
        f"{name.replace('_change', '')}_interval": [
            round(float(low), 3),
            round(float(high), 3),
        ],
    }
