"""Playing every stored selection again: are the figures what they should be?"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from ogs_env.agents.policies import selection_env
from ogs_env.errors import InputError
from ogs_env.experiments.benchmark.play import make, play_episode
from ogs_env.experiments.benchmark.records import FIGURES, Played, Record, read_records
from ogs_env.experiments.benchmark.report import report
from ogs_env.experiments.benchmark.summary import REPORT, read_report

# In points of percent. Another machine's sums may differ in their last bits, which a
# figure has 24 of.
_TOLERANCE = 1e-3
# They tell of the machine, not of the selections.
_NOT_COMPARED = "versions"


class Replay:
    """Plays a stored selection: the next row if it lies on the table, else a skip."""

    def __init__(self, rows: list[int]) -> None:
        self._rows = rows

    def __call__(
        self, observation: Any, info: dict[str, Any], env: gymnasium.Env[Any, Any]
    ) -> int:
        """Return the place of the next row, or that of skipping."""
        inner = selection_env(env)
        picked = len(inner.picked)
        if picked < len(self._rows):
            places = np.flatnonzero(inner.slate == self._rows[picked])
            if len(places):
                return int(places[0])
        return inner.slate_size


def verify(folder: Path) -> Iterator[str]:
    """Play all stored selections again, and compute the report from them.

    Seconds cannot be repeated, and are not.

    Args:
        folder: Of the results.

    Yields:
        A line for every selector of a domain whose episodes are right, and one for
        the report.

    Raises:
        InputError: At the first figure that is not what was found; it names domain,
            selector, episode, field, the stored and the found value.
    """
    told = read_report(folder)
    records = read_records(folder)
    environments: dict[str, gymnasium.Env[Any, Any]] = {}
    for record in records:
        played = record.played
        key = repr((played.env, played.env_kwargs))
        if key not in environments:
            environments[key] = make(played.env, played.env_kwargs)
        verify_record(record, environments[key])
        episodes = played.runs * played.episodes
        yield f"OK {played.domain} {played.selector}: {episodes} episodes"
    _compare(told, report(records), folder / REPORT)
    yield f"OK {folder / REPORT}: {len(told['table'])} lines"


def verify_record(record: Record, env: gymnasium.Env[Any, Any]) -> None:
    """Play a record's selections again in `env`.

    Raises:
        InputError: At the first difference.
    """
    played = record.played
    for run in range(played.runs):
        for episode in range(played.episodes):
            stored = [row for row in record.rows[run, episode].tolist() if row >= 0]
            seed = played.first_seed + episode
            picked, figures = play_episode(env, Replay(stored), seed)
            place = _place(played, run, episode)
            if picked != stored:
                raise InputError(
                    f"{place}: rows: stored {stored[len(picked)]} as pick "
                    f"{len(picked) + 1} of {len(stored)}, found on no later table"
                )
            for name in FIGURES:
                if name == "seconds":
                    continue
                kept = float(record.figures[name][run, episode])
                if not abs(kept - figures[name]) <= _TOLERANCE:
                    raise InputError(
                        f"{place}: {name}: stored {kept:.6g}, found {figures[name]:.6g}"
                    )


def _place(played: Played, run: int, episode: int) -> str:
    agent = f", training seed {played.seeds[run]}" if played.seeds else ""
    return (
        f"{played.domain} {played.selector}{agent}, episode {episode} "
        f"(seed {played.first_seed + episode})"
    )


def _compare(stored: Any, found: Any, file: Path) -> None:
    """Compare the stored report with the one that the records make."""
    kept, made = (dict(_leaves(one)) for one in (stored, found))
    for place in dict.fromkeys([*kept, *made]):
        if place.startswith(_NOT_COMPARED):
            continue
        one, other = kept.get(place, "nothing"), made.get(place, "nothing")
        if not _same(one, other):
            raise InputError(f"{file}: {place}: stored {one}, found {other}")


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of a JSON structure with its place in words."""
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
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return all(_same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= _TOLERANCE
    return bool(one == other)
