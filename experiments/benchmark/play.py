"""Playing: who takes part, and what each picks on the same test episodes."""

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from tqdm import tqdm

from ogs_env.agents.policies import (
    STREAM,
    THRESHOLD,
    Policy,
    make_policy,
    selection_env,
)
from ogs_env.agents.selector import SELECTORS
from ogs_env.bundle import Bundle
from ogs_env.errors import InputError, unknown_name
from ogs_env.experiments.benchmark.records import (
    FIGURES,
    Played,
    Record,
    read_record,
    record_file,
    record_files,
)
from ogs_env.files import read_json

FROM = "-from-"
"""What stands in a transferred agent's name between its kind and its domain."""

# Of a bundle's manifest.
_NOT_PLAYED = ("fidelity", "command", "request", "off_domain")


@dataclass(frozen=True)
class Domain:
    """Where is played.

    Attributes:
        name: Of the domain, and of its bundle.
        env: Id of the environment.
        env_kwargs: Its arguments.
    """

    name: str
    env: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)


DOMAINS = {
    name: Domain(name, f"OGS-{name.title()}-v0")
    for name in ("medical", "legal", "financial")
}


@dataclass(frozen=True)
class Agents:
    """Trained agents of one kind and one domain.

    Attributes:
        kind: The name of their kind.
        domain: Where they were trained.
        folders: By training seed, ascending.
        env_kwargs: The environment's arguments in training that shape the game; what
            they were rewarded for does not.
        weights: sha256 of the weights, by the order of the folders.
    """

    kind: str
    domain: str
    folders: dict[int, Path]
    env_kwargs: dict[str, Any]
    weights: list[str]

    def name_in(self, domain: str) -> str:
        """Return what they are called where they play."""
        return self.kind if domain == self.domain else self.kind + FROM + self.domain


def selector_names() -> list[str]:
    """Return the names of all that play without training.

    Every selector plays slate by hand, and over the whole stream; the oracle over the
    stream alone. `random` and `all` do not look, so for them both are the same.
    """
    names = []
    for name in SELECTORS:
        names.append(name)
        if name not in ("random", "all", "oracle"):
            names.append(name + STREAM)
    names.insert(names.index("greedy") + 1, THRESHOLD)
    return names


def find_agents(folder: Path) -> list[Agents]:
    """Find trained agents, laid out as KIND/DOMAIN/seed-N.

    Raises:
        InputError: If there are none, or one does not belong where it is.
    """
    found: dict[tuple[str, str], dict[int, Path]] = {}
    for file in folder.glob("*/*/seed-*/agent.json"):
        kind, domain, seed = file.parts[-4:-1]
        number = seed.removeprefix("seed-")
        if not number.isdecimal():
            raise InputError(f"{file.parent}: expected a folder such as seed-0")
        found.setdefault((kind, domain), {})[int(number)] = file.parent
    if not found:
        raise InputError(
            f"{folder}: holds no trained agents; expected KIND/DOMAIN/seed-N/agent.json"
        )
    return [_agents(*key, dict(sorted(found[key].items()))) for key in sorted(found)]


def _agents(kind: str, domain: str, folders: dict[int, Path]) -> Agents:
    if kind in selector_names():
        raise InputError(f"{kind}: is a selector's name; call these agents otherwise")
    weights, settings = [], []
    for folder in folders.values():
        file = folder / "agent.json"
        told = read_json(file, "trained agent's description")
        if not isinstance(told, dict) or told.get("bundle") != domain:
            trained = told.get("bundle") if isinstance(told, dict) else None
            raise InputError(
                f"{file}: was trained on '{trained}', but lies among agents of "
                f"'{domain}'; expected KIND/DOMAIN/seed-N"
            )
        weights.append(str(told.get("weights_sha256")))
        kwargs = dict(told.get("settings", {}).get("env_kwargs", {}))
        for name in ("bundle", "split", "reward_weights"):
            kwargs.pop(name, None)
        settings.append(kwargs)
    if any(kwargs != settings[0] for kwargs in settings):
        raise InputError(
            f"{next(iter(folders.values())).parent}: its agents were trained in "
            "environments of different settings; give each a kind of its own"
        )
    return Agents(kind, domain, folders, settings[0], weights)


def make(env: str, env_kwargs: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    """Make a registered environment on the test split.

    Raises:
        InputError: If the id is unknown or an argument is wrong.
    """
    # An id of the form `module:id` would import the module.
    if env not in gymnasium.registry or not env.startswith("OGS-"):
        known = [name for name in gymnasium.registry if name.startswith("OGS-")]
        raise unknown_name("environment", env, known)
    kwargs = {**env_kwargs, "split": "test"}
    return gymnasium.make(env, disable_env_checker=True, **kwargs)


def bundle_digest(bundle: Bundle) -> str:
    """Return what tells a bundle that plays otherwise: sha256 of its manifest.

    The manifest has the sha256 of every file. Left out are what a study says about
    the bundle's fidelity, how it was asked for, and its off-domain trajectory, which is
    there for domains drawn from it alone.
    """
    manifest = {n: v for n, v in bundle.manifest.items() if n not in _NOT_PLAYED}
    manifest["files"] = {
        name: entry
        for name, entry in manifest["files"].items()
        if not name.startswith("off_domain-")
    }
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def play_episode(
    env: gymnasium.Env[Any, Any], policy: Policy, seed: int
) -> tuple[list[int], dict[str, float]]:
    """Play one episode.

    Args:
        env: A `SelectionEnv`, wrapped or not.
        policy: Any callable from (observation, info, env) to an action.
        seed: Seed of the episode's stream.

    Returns:
        The picked rows in order, and the figures named in `records.FIGURES`.
    """
    observation, info = env.reset(seed=seed)
    figures = dict.fromkeys(FIGURES, 0.0)
    over = False
    while not over:
        started = time.perf_counter()
        action = policy(observation, info, env)
        figures["seconds"] += time.perf_counter() - started
        observation, reward, terminated, truncated, info = env.step(action)
        terms = info["reward_terms"]
        figures["return"] += float(reward)
        figures["domain_gain"] += terms["domain_gain"]
        figures["anchor_change"] += terms["anchor_gain"]
        figures["cost"] += info["cost"]
        over = terminated or truncated
    figures["test_change"] = info["test_change"]
    figures["retention_change"] = info["retention_change"]
    return list(selection_env(env).picked), figures


def play(
    domains: Sequence[Domain],
    selectors: Sequence[str],
    agents: Sequence[Agents],
    episodes: range,
    folder: Path,
) -> None:
    """Let everyone play the same episodes of every domain, and keep the records.

    What is kept already is not played again: a record of the same episodes, settings,
    bundle and agents. A selector that cannot play, for want of texts, is told on
    stderr and left out.

    Args:
        domains: Where is played.
        selectors: Names of those that need no training: see `selector_names`.
        agents: Trained ones; each plays every domain.
        episodes: Their seeds, one after the other.
        folder: Of the results.

    Raises:
        InputError: For an unknown selector, an agent that does not fit, or a folder
            that holds records of other episodes.
    """
    for name in selectors:
        if name not in selector_names():
            raise unknown_name("selector", name, selector_names())
    _check_folder(folder, episodes)
    waiting = [
        entrant
        for domain in domains
        for entrant in _entrants(domain, selectors, agents, episodes)
        if not _is_kept(entrant.played, folder)
    ]
    total = sum(one.played.runs * one.played.episodes for one in waiting)
    left_out: set[tuple[str, str]] = set()
    with tqdm(total=total, unit="episode", desc="benchmark") as bar:
        for entrant in waiting:
            domain_name, name = entrant.played.domain, entrant.played.selector
            key = domain_name, name.removesuffix(STREAM)
            bar.set_postfix_str(f"{domain_name} {name}")
            if key in left_out:
                continue
            try:
                record = _play(entrant, episodes, bar)
            except (InputError, ModuleNotFoundError) as error:
                if entrant.folders:
                    raise
                left_out.add(key)
                reason = " ".join(str(error).split())
                text = f"ogs: note: {' '.join(key)} is left out: {reason}"
                bar.write(text, file=sys.stderr)
            else:
                record.write(folder)


def _check_folder(folder: Path, episodes: range) -> None:
    """Check that records of other episodes are neither mixed in nor written over."""
    for file in record_files(folder):
        played = read_record(file).played
        if (played.first_seed, played.episodes) != (episodes.start, len(episodes)):
            raise InputError(
                f"{file}: is of {played.episodes} episodes from seed "
                f"{played.first_seed}, not of {len(episodes)} from {episodes.start}; "
                f"give --episodes {played.episodes}, or another --out"
            )


@dataclass(frozen=True)
class _Entrant:
    """Who is to play what, where, and the folders of its agents."""

    env: gymnasium.Env[Any, Any]
    played: Played
    folders: list[Path]


def _entrants(
    domain: Domain, selectors: Sequence[str], agents: Sequence[Agents], episodes: range
) -> Iterator[_Entrant]:
    env = make(domain.env, domain.env_kwargs)
    usual = Played(
        domain=domain.name,
        selector="",
        env=domain.env,
        env_kwargs=domain.env_kwargs,
        bundle=bundle_digest(selection_env(env).bundle),
        first_seed=episodes.start,
        episodes=len(episodes),
    )
    for name in selectors:
        yield _Entrant(env, replace(usual, selector=name), [])
    for one in agents:
        kwargs = {**domain.env_kwargs, **one.env_kwargs}
        played = replace(
            usual,
            selector=one.name_in(domain.name),
            env_kwargs=kwargs,
            seeds=list(one.folders),
            agents=one.weights,
        )
        own = make(domain.env, kwargs) if one.env_kwargs else env
        yield _Entrant(own, played, list(one.folders.values()))


def _is_kept(played: Played, folder: Path) -> bool:
    file = record_file(folder, played)
    return file.is_file() and read_record(file).played == played


def _play(entrant: _Entrant, episodes: range, bar: "tqdm[Any]") -> Record:
    """Play the episodes once for each run."""
    inner = selection_env(entrant.env)
    shape = entrant.played.runs, len(episodes)
    small = len(inner.bundle.pool) <= np.iinfo(np.int16).max
    rows = np.full((*shape, inner.budget), -1, np.int16 if small else np.int32)
    figures = {name: np.empty(shape, np.float32) for name in FIGURES}
    for run, policy in enumerate(_policies(entrant)):
        for number, seed in enumerate(episodes):
            picked, found = play_episode(entrant.env, policy, seed)
            rows[run, number, : len(picked)] = picked
            for name, value in found.items():
                figures[name][run, number] = value
            bar.update()
    return Record(entrant.played, rows, figures)


def _policies(entrant: _Entrant) -> Iterator[Policy]:
    """Yield who plays each run."""
    if not entrant.folders:
        yield make_policy(
            entrant.played.selector, entrant.env, np.random.default_rng(0)
        )
        return
    from ogs_env.agents.navigator import Navigator, one_thread

    bundle = selection_env(entrant.env).bundle
    for folder in entrant.folders:
        agent = Navigator.load(folder)
        if not agent.network.skips or agent.description["space"] != bundle.space:
            raise InputError(
                f"{folder}: cannot play {entrant.played.env}; expected an agent that "
                f"was trained in a SelectionEnv and in sketch space '{bundle.space}'"
            )
        agent.check_columns(bundle, folder)
        with one_thread():  # as long as it plays
            yield agent
