"""Verify stored benchmark results: replay every selection, compare all measures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from ogs_env.agents.evaluation import play_episode
from ogs_env.agents.policies import selection_env
from ogs_env.envs.base import INVALID_ACTION_PENALTY
from ogs_env.errors import InputError
from ogs_env.experiments.benchmark.play import make
from ogs_env.experiments.benchmark.records import (
    USER,
    Identity,
    Record,
    measures_of,
    read_records,
)
from ogs_env.experiments.benchmark.report import report
from ogs_env.experiments.benchmark.summary import REPORT, read_report

# In points of percent. On another machine sums may differ in the last of the 24 bits of
# a stored float32.
_TOLERANCE = 1e-3
# Versions describe the machine, not the selections.
_NOT_COMPARED = "versions"


class Replay:
    """Policy that replays a selection: picks the next row if it is on the slate."""

    def __init__(self, rows: list[int]) -> None:
        self._rows = rows

    def __call__(
        self, observation: Any, info: dict[str, Any], env: gymnasium.Env[Any, Any]
    ) -> int:
        """Return the place of the next row, or a skip."""
        inner = selection_env(env)
        picked = len(inner.picked)
        if picked < len(self._rows):
            places = np.flatnonzero(inner.slate == self._rows[picked])
            if len(places):
                return int(places[0])
        return inner.slate_size


def verify(folder: Path) -> Iterator[str]:
    """Replay all stored selections, and compute the report from the records.

    Seconds are not compared.

    Args:
        folder: Folder of the results.

    Yields:
        A line for every policy of a domain whose episodes are right, and one for the
        report.

    Raises:
        InputError: At the first difference; it names domain, policy, episode, measure,
            the stored and the replayed value.
    """
    stored_report = read_report(folder)
    records = read_records(folder)
    environments: dict[str, gymnasium.Env[Any, Any]] = {}
    for record in records:
        identity = record.identity
        key = repr((identity.env, identity.env_kwargs))
        if key not in environments:
            environments[key] = make(identity.env, identity.env_kwargs)
        verify_record(record, environments[key])
        episodes = identity.runs * identity.episodes
        yield f"OK {identity.domain} {identity.selector}: {episodes} episodes"
    _compare(stored_report, report(records), folder / REPORT)
    yield f"OK {folder / REPORT}: {len(stored_report['table'])} lines"


def verify_record(record: Record, env: gymnasium.Env[Any, Any]) -> None:
    """Replay a record's selections in `env`.

    Invalid actions, which only users' policies take, are not recorded; each has lowered
    the return by `INVALID_ACTION_PENALTY`.

    Raises:
        InputError: At the first difference.
    """
    identity = record.identity
    for run in range(identity.runs):
        for number in range(identity.episodes):
            rows = [row for row in record.rows[run, number].tolist() if row >= 0]
            seed = identity.first_seed + number
            episode = play_episode(env, Replay(rows), seed)
            place = _place(identity, run, number)
            picked = selection_env(env).picked
            if picked != rows:
                raise InputError(
                    f"{place}: rows: stored {rows[len(picked)]} as pick "
                    f"{len(picked) + 1} of {len(rows)}, found on no later slate"
                )
            for name, replayed in measures_of(episode).items():
                if name == "seconds":
                    continue
                stored = float(record.measures[name][run, number])
                gap = replayed - stored
                if name == "return" and identity.selector.startswith(USER) and gap > 0:
                    invalid_actions = round(gap / INVALID_ACTION_PENALTY)
                    gap -= invalid_actions * INVALID_ACTION_PENALTY
                if not abs(gap) <= _TOLERANCE:
                    raise InputError(
                        f"{place}: {name}: stored {stored:.6g}, found {replayed:.6g}"
                    )


def _place(identity: Identity, run: int, episode: int) -> str:
    """Return domain, policy, training seed and episode, for an error line."""
    agent = f", training seed {identity.seeds[run]}" if identity.seeds else ""
    return (
        f"{identity.domain} {identity.selector}{agent}, episode {episode} "
        f"(seed {identity.first_seed + episode})"
    )


def _compare(stored: Any, computed: Any, file: Path) -> None:
    """Compare the stored report with the one computed from the records."""
    stored_values, computed_values = dict(_leaves(stored)), dict(_leaves(computed))
    for place in dict.fromkeys([*stored_values, *computed_values]):
        if place.startswith(_NOT_COMPARED):
            continue
        one = stored_values.get(place, "nothing")
        other = computed_values.get(place, "nothing")
        if not _same(one, other):
            raise InputError(f"{file}: {place}: stored {one}, found {other}")


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of a JSON structure with its path, words joined by spaces."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{place} {name}".strip())
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for line in value:
            names = [line[n] for n in ("domain", "selector") if n in line]
            yield from _leaves(line, " ".join([place, *names]))
    else:
        yield place, value


def _same(one: Any, other: Any) -> bool:
    """Return whether two values are equal, numbers up to `_TOLERANCE`."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return all(_same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= _TOLERANCE
    return bool(one == other)
