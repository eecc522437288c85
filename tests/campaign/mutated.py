"""Commands on damaged files: each succeeds, or refuses its input in one line."""

import hashlib
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ogs_env.bundle_files import MANIFEST, MANIFEST_HASH
from ogs_env.cli import main
from tests.campaign.inputs import TRAINING, TUNING, Inputs, words_of
from tests.campaign.mutations import Mutation, mutated
from tests.campaign.processes import Outcome, run_forked

LIMIT = 20.0
"""Seconds after which a command is interrupted."""
# Of twenty cases, the number of each group.
_SHARES = {
    "texts": 5,
    "bundles": 5,
    "agents": 2,
    "selections": 2,
    "settings": 3,
    "notes": 3,
}

Words = Callable[[Inputs, Path], list[str]]


@dataclass(frozen=True)
class Target:
    """A file that is damaged, and a command that reads it.

    Attributes:
        file: The file, in the case's folder.
        kind: Kind of its content, as for `mutated`.
        copied: What the case's folder gets: a name there for each of the inputs.
        words: Returns the command line, given inputs and the case's folder.
        sealed_in: File there that has the sha256 of `file`.
    """

    file: str
    kind: str
    copied: dict[str, str]
    words: Words
    sealed_in: str | None = None


def run(inputs: Inputs, count: int, out: Path) -> dict[str, Any]:
    """Run cases and return the figures.

    Args:
        inputs: Valid inputs.
        count: Number of cases.
        out: Folder in which the cases that fail are kept.
    """
    _finish(inputs)
    targets = _targets(inputs)
    order = [group for group, share in _SHARES.items() for _ in range(share)]
    random.Random(0).shuffle(order)
    shutil.rmtree(out, ignore_errors=True)
    seen: Counter[str] = Counter()
    outcomes: dict[str, Counter[str]] = {group: Counter() for group in _SHARES}
    failures: list[dict[str, Any]] = []
    slow = []
    for number in range(count):
        group = order[number % len(order)]
        target = targets[group][seen[group] % len(targets[group])]
        seen[group] += 1
        case = _Case(inputs, target, number, out / f"case-{number:04d}")
        verdict, outcome = case.run()
        slow.append((round(outcome.seconds, 1), target.file, case.mutation.name))
        outcomes[group][verdict if verdict in _GOOD else "failed"] += 1
        if verdict in _GOOD:
            shutil.rmtree(case.folder)
        else:
            failures.append(case.report(verdict, outcome))
        if (number + 1) % 50 == 0 or number + 1 == count:
            print(f"mutated: {number + 1} of {count}, {len(failures)} failed")
    kinds = Counter(failure["verdict"] for failure in failures)
    return {
        "cases": count,
        "outcomes": {group: dict(own) for group, own in outcomes.items()},
        "failed": len(failures),
        "failures_by_kind": dict(kinds.most_common()),
        "slowest": sorted(slow, reverse=True)[:10],
        "failures": failures,
    }


_GOOD = ("succeeded", "refused", "interrupted at work")


class _Case:
    """One damaged file and the command that reads it."""

    def __init__(
        self, inputs: Inputs, target: Target, number: int, folder: Path
    ) -> None:
        self.target, self.folder, self.number = target, folder, number
        for name, source in target.copied.items():
            _copy(inputs.folder / source, folder / name)
        draw = random.Random(f"case {number}")
        file = folder / target.file
        others = [path.read_bytes() for path in _files(inputs.folder)]
        before = file.read_bytes()
        self.mutation = self._damage(before, others, draw)
        file.write_bytes(self.mutation.content)
        if target.sealed_in and draw.random() < 0.7:
            _seal(folder / target.sealed_in, before, self.mutation.content)
        self.words = target.words(inputs, folder)

    def _damage(
        self, content: bytes, others: list[bytes], draw: random.Random
    ) -> Mutation:
        while True:
            mutation = mutated(content, self.target.kind, others, draw)
            if mutation.content != content:
                return mutation

    def run(self) -> tuple[str, Outcome]:
        """Run the command; return the verdict and the outcome."""
        before = _tree(self.folder)
        outcome = run_forked(self.words, self.folder, LIMIT)
        after = _tree(self.folder)
        return _verdict(outcome, before, after), outcome

    def report(self, verdict: str, outcome: Outcome) -> dict[str, Any]:
        return {
            "case": self.number,
            "verdict": verdict,
            "file": self.target.file,
            "mutation": self.mutation.name,
            "command": self.words,
            "status": outcome.status,
            "seconds": round(outcome.seconds, 1),
            "stderr_tail": outcome.errors[-1500:],
            "folder": str(self.folder),
        }


def _verdict(outcome: Outcome, before: dict[str, str], after: dict[str, str]) -> str:
    """Return one of `_GOOD`, or what is wrong."""
    errors = outcome.errors
    if "Traceback (most recent call last)" in errors:
        return _raised(errors)
    if outcome.stopped:
        # More steps or a larger model may be asked for: work that goes on.
        is_clean = outcome.status == 130 and "interrupted" in errors
        return "interrupted at work" if is_clean else f"hangs: {outcome.status}"
    if outcome.status == 0:
        left = [name for name in after if name.endswith((".part", ".lock"))]
        left = [name for name in left if name not in before]
        return f"leaves {left[0]}" if left else "succeeded"
    if outcome.status != 2:
        return f"status {outcome.status}"
    lines = re.findall(r"(?:^|[\r\n])ogs: error: .*", errors)
    if len(lines) != 1:
        return f"{len(lines)} error lines"
    changed = sorted(
        name
        for name in before.keys() | after.keys()
        if before.get(name) != after.get(name)
    )
    return f"refused, but changes {_general(changed[0])}" if changed else "refused"


def _general(name: str) -> str:
    return re.sub(r"[0-9a-f]{16}|\.\d+\.part", "*", name)


def _raised(errors: str) -> str:
    """Return the first exception of a traceback, and where the package raised it."""
    first = re.split(r"\n(?:The above exception|During handling) ", errors)[0]
    frame = (
        r'File "[^"]*?/((?:ogs_env|agents|experiments)/[^"]+)", line (\d+), in (\S+)'
    )
    frames = re.findall(frame, first)
    raised = re.findall(r"^(\w[\w.]*)(?::|$)", first, re.MULTILINE)
    place = "{}:{} {}".format(*frames[-1]) if frames else "?"
    return f"{raised[-1] if raised else '?'} at {place}"


def _finish(inputs: Inputs) -> None:
    """Make finished outputs, whose notes are damaged."""
    for name, words in _finished_words(inputs).items():
        if not (inputs.folder / name).exists() and main(words) != 0:
            raise RuntimeError(f"{name}: `ogs {' '.join(words)}` failed")


def _finished_words(inputs: Inputs) -> dict[str, list[str]]:
    outs = {name: str(inputs.folder / name) for name in ("tuned", "swept", "studied")}
    return {
        "tuned": _finetune(inputs, inputs.folder / "selection", outs["tuned"]),
        "swept": ["sweep", str(inputs.folder / "sweep.yaml"), "--out", outs["swept"]],
        "studied": [
            *("study", str(inputs.folder / "study.yaml"), "--out", outs["studied"])
        ],
    }


def _finetune(
    inputs: Inputs,
    selection: Path,
    out: str,
    test: Path | None = None,
    retention: Path | None = None,
) -> list[str]:
    return [
        *("finetune", str(selection), "--test", str(test or inputs.text("test.jsonl"))),
        *("--retention", str(retention or inputs.text("retention.jsonl"))),
        *("--model", str(inputs.model), *TUNING, "--out", out),
    ]


def _targets(inputs: Inputs) -> dict[str, list[Target]]:
    return {
        "texts": [*_texts()],
        "bundles": [*_bundles(inputs)],
        "agents": [*_agents()],
        "selections": [*_selections()],
        "settings": [*_settings()],
        "notes": [*_notes(inputs)],
    }


def _out(case: Path) -> list[str]:
    return ["--out", str(case / "out")]


def _texts() -> Iterator[Target]:
    formats = {
        "domain.jsonl": "lines",
        "array.json": "json",
        "alpaca.jsonl": "lines",
        "chat.jsonl": "lines",
        "packed.jsonl.gz": "bytes",
        "table.parquet": "bytes",
    }
    for name, kind in formats.items():
        yield _sketched(name, kind, "domain.jsonl")
    yield _sketched("pool.jsonl", "lines", "pool.jsonl")
    yield _sketched("anchor.jsonl", "lines", "anchor.jsonl")
    own = {"texts.jsonl": "texts/pool.jsonl"}

    def selected(inputs: Inputs, case: Path) -> list[str]:
        return [
            *("select", "--agent", "less", "--bundle", str(inputs.folder / "bundle")),
            *("--budget", "8", "--texts", str(case / "texts.jsonl"), *_out(case)),
        ]

    yield Target("texts.jsonl", "lines", own, selected)
    for role in ("test", "retention"):

        def tuned(inputs: Inputs, case: Path, role: str = role) -> list[str]:
            file = {role: case / f"{role}.jsonl"}
            selection = inputs.folder / "selection"
            return _finetune(inputs, selection, str(case / "out"), **file)

        file = f"{role}.jsonl"
        yield Target(file, "lines", {file: f"texts/{file}"}, tuned)


def _sketched(name: str, kind: str, role: str) -> Target:
    """Return a file of texts that `ogs sketch` reads in place of another."""

    def words(inputs: Inputs, case: Path) -> list[str]:
        known = words_of(inputs)["bundle"][:-2]
        own, replaced = str(case / name), str(inputs.text(role))
        return [own if word == replaced else word for word in known] + _out(case)

    return Target(name, kind, {name: f"texts/{name}"}, words)


def _bundles(inputs: Inputs) -> Iterator[Target]:
    def with_agent(agent: str) -> Words:
        def words(inputs: Inputs, case: Path) -> list[str]:
            name = str(inputs.folder / "agent") if agent == "trained" else agent
            bundle = str(case / "bundle")
            return [
                *("select", "--agent", name, "--bundle", bundle),
                *("--budget", "8", *_out(case)),
            ]

        return words

    def trained(inputs: Inputs, case: Path) -> list[str]:
        return ["train", "--bundle", str(case / "bundle"), *TRAINING, *_out(case)]

    commands = [trained, *map(with_agent, ("oracle", "trained", "greedy"))]
    tensors = sorted(file.name for file in (inputs.folder / "bundle").glob("*.safe*"))
    own = {"bundle": "bundle"}
    for number, name in enumerate(tensors):
        # The manifest is read first and has the most fields.
        command = commands[number % len(commands)]
        checksum = f"bundle/{MANIFEST_HASH}"
        yield Target("bundle/manifest.json", "json", own, command, checksum)
        sealed = "bundle/manifest.json"
        yield Target(f"bundle/{name}", "tensors", own, command, sealed)


def _agents() -> Iterator[Target]:
    def words(inputs: Inputs, case: Path) -> list[str]:
        return [
            *("select", "--agent", str(case / "agent")),
            *("--bundle", str(inputs.folder / "bundle"), "--budget", "8", *_out(case)),
        ]

    own = {"agent": "agent"}
    yield Target("agent/agent.json", "json", own, words)
    sealed = "agent/agent.json"
    yield Target("agent/policy.safetensors", "tensors", own, words, sealed)


def _selections() -> Iterator[Target]:
    def words(inputs: Inputs, case: Path) -> list[str]:
        return _finetune(inputs, case / "selection", str(case / "out"))

    own = {"selection": "selection"}
    yield Target("selection/selection.json", "json", own, words)
    yield Target("selection/selection.jsonl", "lines", own, words)


def _settings() -> Iterator[Target]:
    def trained(inputs: Inputs, case: Path) -> list[str]:
        file = str(case / "train.yaml")
        return ["train", "--config", file, "--episodes", "2", *_out(case)]

    def named(command: str) -> Words:
        return lambda inputs, case: [
            *(command, str(case / f"{command}.yaml"), *_out(case))
        ]

    yield Target("train.yaml", "yaml", {"train.yaml": "train.yaml"}, trained)
    yield Target("sweep.yaml", "yaml", {"sweep.yaml": "sweep.yaml"}, named("sweep"))
    # A study with the same settings is finished at once.
    study = {"study.yaml": "study.yaml", "out": "studied"}
    yield Target("study.yaml", "yaml", study, named("study"))


def _notes(inputs: Inputs) -> Iterator[Target]:
    """Yield what the same command reads in the folder of an earlier run."""

    def tuned(inputs: Inputs, case: Path) -> list[str]:
        return _finetune(inputs, inputs.folder / "selection", str(case / "out"))

    own = {"out": "tuned"}
    yield Target("out/selection/run.json", "json", own, tuned)
    yield Target("out/selection/result.json", "json", own, tuned)

    def sketched(inputs: Inputs, case: Path) -> list[str]:
        # A bundle is named after its folder.
        return [*words_of(inputs)["bundle"][:-1], str(case / "bundle")]

    own = {"bundle": "bundle"}
    yield Target("bundle/manifest.json", "json", own, sketched)

    def trained(inputs: Inputs, case: Path) -> list[str]:
        return [*words_of(inputs)["agent"][:-1], str(case / "out")]

    own = {"out": "agent"}
    yield Target("out/agent.json", "json", own, trained)
    yield Target("out/policy.safetensors", "tensors", own, trained, "out/agent.json")

    def swept(inputs: Inputs, case: Path) -> list[str]:
        return ["sweep", str(inputs.folder / "sweep.yaml"), *_out(case)]

    own = {"out": "swept"}
    yield Target("out/sweep.json", "json", own, swept)
    yield Target("out/study.journal", "lines", own, swept)

    def studied(inputs: Inputs, case: Path) -> list[str]:
        return ["study", str(inputs.folder / "study.yaml"), *_out(case)]

    own = {"out": "studied"}
    yield Target("out/settings.json", "json", own, studied)
    yield Target("out/targets/tiny.json", "json", own, studied)


def _seal(file: Path, before: bytes, after: bytes) -> None:
    """Give a file the new sha256 of another, so that its content is read."""
    old, new = (hashlib.sha256(content).hexdigest() for content in (before, after))
    content = file.read_bytes()
    sealed = content.replace(old.encode(), new.encode())
    file.write_bytes(sealed)
    if file.name == MANIFEST:
        _seal(file.with_name(MANIFEST_HASH), content, sealed)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _tree(folder: Path) -> dict[str, str]:
    """Return hashes of all files of a folder by name; folders have an empty one."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        )
        for path in folder.rglob("*")
        if path.name not in ("stdout", "stderr")
    }
