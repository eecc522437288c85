"""Run the benchmark: play the same test episodes with every selector and agent."""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from tqdm import tqdm

from ogs_env.agents import evaluation
from ogs_env.agents.evaluation import Policy, as_policy, load_policy, play_episode
from ogs_env.agents.policies import STREAM, THRESHOLD, make_policy, selection_env
from ogs_env.agents.selector import SELECTORS
from ogs_env.bundle import Bundle
from ogs_env.errors import InputError, unknown_name
from ogs_env.experiments.benchmark.records import (
    MEASURES,
    USER,
    Identity,
    Record,
    measures_of,
    read_record,
    record_file,
    record_files,
)
from ogs_env.files import read_json, sha256_of

FROM = "-from-"
"""Separator in the name of an agent group that plays another domain than its own."""

# Entries of a bundle's manifest that do not change an episode.
_WITHOUT_EFFECT = ("fidelity", "command", "request")


@dataclass(frozen=True)
class Domain:
    """A domain of the benchmark.

    Attributes:
        name: Name of the domain and of its bundle.
        env: Id of the environment.
        env_kwargs: Arguments of the environment.
    """

    name: str
    env: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)


DOMAINS = {
    name: Domain(name, f"OGS-{name.title()}-v0")
    for name in ("medical", "legal", "financial")
}


@dataclass(frozen=True)
class AgentGroup:
    """Trained agents of one kind and one domain, which differ in their training seed.

    Attributes:
        kind: Name of the kind.
        domain: Domain of the training.
        folders: Folder of each agent by training seed, ascending.
        env_kwargs: Arguments of the training environment, without the bundle, the
            split and the reward weights.
        weights: sha256 of each agent's weights, in the order of `folders`.
    """

    kind: str
    domain: str
    folders: dict[int, Path]
    env_kwargs: dict[str, Any]
    weights: list[str]

    def name_in(self, domain: str) -> str:
        """Return the group's name in the results of a domain."""
        return self.kind if domain == self.domain else self.kind + FROM + self.domain


@dataclass(frozen=True)
class UserPolicy:
    """A policy that a user adds to the benchmark.

    Attributes:
        name: Name in the results.
        policy: What `ogs_env.agents.evaluate` accepts.
        sha256: Of the model's file; empty for Python code, of which no hash tells
            whether it has changed, so its episodes are always played again.
    """

    name: str
    policy: Any
    sha256: str


def selector_names() -> list[str]:
    """Return the names of all policies without training.

    Every selector plays slate by slate, and with the whole stream known; the oracle
    with the stream alone. `random` and `all` ignore the candidates' contents, so both
    variants are the same and have one name.
    """
    names = []
    for name in SELECTORS:
        names.append(name)
        if name not in ("random", "all", "oracle"):
            names.append(name + STREAM)
    names.insert(names.index("greedy") + 1, THRESHOLD)
    return names


def find_user_policies(sources: Sequence[str]) -> list[UserPolicy]:
    """Load users' policies.

    Args:
        sources: `MODULE:NAME` or the zip file of a Stable-Baselines3 model, see
            `ogs_env.agents.evaluation.load_policy`.

    Raises:
        InputError: If one cannot be loaded, or two have the same name.
    """
    policies: dict[str, UserPolicy] = {}
    for source in dict.fromkeys(sources):
        is_model = source.endswith(".zip")
        # Stable-Baselines3 would name another file, with a second `.zip`.
        if is_model and not Path(source).is_file():
            raise InputError(f"policy {source}: cannot be loaded: no such file")
        policy = load_policy(source)
        name = USER + (Path(source).stem if is_model else source.replace(":", "."))
        if name in policies:
            raise InputError(
                f"policy {source}: another policy is called '{name}' too; rename one"
            )
        digest = sha256_of(Path(source)) if is_model else ""
        policies[name] = UserPolicy(name, policy, digest)
    return list(policies.values())


def find_agents(folder: Path) -> list[AgentGroup]:
    """Find trained agents, laid out as KIND/DOMAIN/seed-N.

    Raises:
        InputError: If there are none, or one was trained on another domain than its
            folder names.
    """
    groups: dict[tuple[str, str], dict[int, Path]] = {}
    for file in folder.glob("*/*/seed-*/agent.json"):
        kind, domain, seed = file.parts[-4:-1]
        number = seed.removeprefix("seed-")
        if not number.isdecimal():
            raise InputError(f"{file.parent}: expected a folder such as seed-0")
        groups.setdefault((kind, domain), {})[int(number)] = file.parent
    if not groups:
        raise InputError(
            f"{folder}: holds no trained agents; expected KIND/DOMAIN/seed-N/agent.json"
        )
    return [_agents(*key, dict(sorted(groups[key].items()))) for key in sorted(groups)]


def _agents(kind: str, domain: str, folders: dict[int, Path]) -> AgentGroup:
    """Read the descriptions of a group's agents and check that they belong together."""
    if kind in selector_names():
        raise InputError(f"{kind}: is a selector's name; give the agents another kind")
    weights, settings = [], []
    for folder in folders.values():
        file = folder / "agent.json"
        description = read_json(file, "trained agent's description")
        if not isinstance(description, dict) or description.get("bundle") != domain:
            known = isinstance(description, dict)
            trained = description.get("bundle") if known else None
            raise InputError(
                f"{file}: was trained on '{trained}', but is in the folder of "
                f"'{domain}'; expected KIND/DOMAIN/seed-N"
            )
        weights.append(str(description.get("weights_sha256")))
        kwargs = dict(description.get("settings", {}).get("env_kwargs", {}))
        for name in ("bundle", "split", "reward_weights"):
            kwargs.pop(name, None)
        settings.append(kwargs)
    if any(kwargs != settings[0] for kwargs in settings):
        raise InputError(
            f"{next(iter(folders.values())).parent}: its agents were trained in "
            "environments of different settings; use one kind for each setting"
        )
    return AgentGroup(kind, domain, folders, settings[0], weights)


def make(env: str, env_kwargs: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    """Make a registered environment on the test split.

    Raises:
        InputError: If the id is unknown or an argument is wrong.
    """
    # Gymnasium imports the module of an id of the form `module:id`; records are data
    # and must not run code.
    if env not in gymnasium.registry or not env.startswith("OGS-"):
        known = [name for name in gymnasium.registry if name.startswith("OGS-")]
        raise unknown_name("environment", env, known)
    return evaluation.make(env, {**env_kwargs, "split": "test"})


def bundle_digest(bundle: Bundle) -> str:
    """Return a hash of what determines a bundle's episodes: sha256 of its manifest.

    The manifest has the sha256 of every file. Left out are the results of the fidelity
    study, and the command and request that built the bundle.
    """
    manifest = {n: v for n, v in bundle.manifest.items() if n not in _WITHOUT_EFFECT}
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def play(
    domains: Sequence[Domain],
    selectors: Sequence[str],
    agents: Sequence[AgentGroup],
    episodes: range,
    folder: Path,
    policies: Sequence[UserPolicy] = (),
) -> None:
    """Play the same episodes of every domain with every policy and write the records.

    A record of the same episodes, settings, bundle and agents that exists already is
    not played again. A selector that cannot run because its texts are missing is
    skipped with a note on stderr.

    Args:
        domains: Domains to play in.
        selectors: Names of selectors, see `selector_names`.
        agents: Groups of trained agents; each plays every domain.
        episodes: Seeds of the episodes, consecutive.
        folder: Folder of the results.
        policies: Users' policies; each plays every domain.

    Raises:
        InputError: For an unknown selector, an agent or policy that does not fit, or a
            folder that holds records of other episodes.
    """
    for name in selectors:
        if name not in selector_names():
            raise unknown_name("selector", name, selector_names())
    _check_folder(folder, episodes)
    jobs = [
        job
        for domain in domains
        for job in _jobs(domain, selectors, agents, episodes, policies)
        if not _is_recorded(job, folder)
    ]
    total = sum(job.identity.runs * job.identity.episodes for job in jobs)
    skipped: set[tuple[str, str]] = set()
    with tqdm(total=total, unit="episode", desc="benchmark") as bar:
        for job in jobs:
            domain_name, name = job.identity.domain, job.identity.selector
            key = domain_name, name.removesuffix(STREAM)
            bar.set_postfix_str(f"{domain_name} {name}")
            if key in skipped:
                continue
            try:
                record = _play(job, episodes, bar)
            except (InputError, ModuleNotFoundError) as error:
                if job.folders or job.user_policy:
                    raise
                skipped.add(key)
                reason = " ".join(str(error).split())
                text = f"ogs: note: {' '.join(key)} is left out: {reason}"
                bar.write(text, file=sys.stderr)
            else:
                record.write(folder)


def _check_folder(folder: Path, episodes: range) -> None:
    """Check that a folder holds no records of other episodes."""
    for file in record_files(folder):
        identity = read_record(file).identity
        if (identity.first_seed, identity.episodes) != (episodes.start, len(episodes)):
            raise InputError(
                f"{file}: is of {identity.episodes} episodes from seed "
                f"{identity.first_seed}, not of {len(episodes)} from {episodes.start}; "
                f"give --episodes {identity.episodes}, or another --out"
            )


@dataclass(frozen=True)
class _Job:
    """Episodes to play for one record.

    Attributes:
        env: The environment.
        identity: What the record will be about.
        folders: Folders of the agents, one for each run; empty for others.
        user_policy: The user's policy, if the record is about one.
    """

    env: gymnasium.Env[Any, Any]
    identity: Identity
    folders: list[Path] = field(default_factory=list)
    user_policy: UserPolicy | None = None


def _jobs(
    domain: Domain,
    selectors: Sequence[str],
    agents: Sequence[AgentGroup],
    episodes: range,
    policies: Sequence[UserPolicy],
) -> Iterator[_Job]:
    """Yield the jobs of a domain."""
    env = make(domain.env, domain.env_kwargs)
    common = Identity(
        domain=domain.name,
        selector="",
        env=domain.env,
        env_kwargs=domain.env_kwargs,
        bundle=bundle_digest(selection_env(env).bundle),
        first_seed=episodes.start,
        episodes=len(episodes),
    )
    for name in selectors:
        yield _Job(env, replace(common, selector=name))
    for group in agents:
        kwargs = {**domain.env_kwargs, **group.env_kwargs}
        identity = replace(
            common,
            selector=group.name_in(domain.name),
            env_kwargs=kwargs,
            seeds=list(group.folders),
            agents=group.weights,
        )
        agents_env = make(domain.env, kwargs) if group.env_kwargs else env
        yield _Job(agents_env, identity, folders=list(group.folders.values()))
    for policy in policies:
        hashes = [policy.sha256] if policy.sha256 else []
        identity = replace(common, selector=policy.name, agents=hashes)
        yield _Job(env, identity, user_policy=policy)


def _is_recorded(job: _Job, folder: Path) -> bool:
    """Return whether the folder holds the job's record already."""
    if job.user_policy and not job.user_policy.sha256:
        return False
    file = record_file(folder, job.identity)
    return file.is_file() and read_record(file).identity == job.identity


def _play(job: _Job, episodes: range, bar: "tqdm[Any]") -> Record:
    """Play the episodes once for each run."""
    inner = selection_env(job.env)
    shape = job.identity.runs, len(episodes)
    small = len(inner.bundle.pool) <= np.iinfo(np.int16).max
    rows = np.full((*shape, inner.budget), -1, np.int16 if small else np.int32)
    measures = {name: np.empty(shape, np.float32) for name in MEASURES}
    for run, policy in enumerate(_policies(job)):
        for number, seed in enumerate(episodes):
            episode = play_episode(job.env, policy, seed)
            rows[run, number, : len(inner.picked)] = inner.picked
            for name, value in measures_of(episode).items():
                measures[name][run, number] = value
            bar.update()
    return Record(job.identity, rows, measures)


def _policies(job: _Job) -> Iterator[Policy]:
    """Yield the policy of each run."""
    rng = np.random.default_rng(0)
    if job.user_policy:
        with evaluation.one_thread_for(job.user_policy.policy):
            yield as_policy(job.user_policy.policy, job.env, rng)
        return
    if not job.folders:
        yield make_policy(job.identity.selector, job.env, rng)
        return
    from ogs_env.agents.navigator import Navigator, one_thread

    for folder in job.folders:
        agent = Navigator.load(folder)
        agent.check_env(job.env, folder)
        with one_thread():  # until the next run
            yield agent
