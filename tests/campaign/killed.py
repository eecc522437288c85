"""Commands that are killed at random moments, and started again until they end."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.campaign.inputs import SKETCHING, TUNING, Inputs
from tests.helpers.forked import ERRORS, start_ogs

OUT = "run"
_SHARES = {"sketch": 0.28, "adapt": 0.24, "train": 0.2, "finetune": 0.28}
_LONGEST = 600.0  # seconds until an undisturbed command counts as hanging
_PRELOADED = [
    "ogs_env.experiments.adapt",
    "ogs_env.experiments.adapter_training",
    "ogs_env.experiments.finetune_command",
    "ogs_env.experiments.train",
    "ogs_env.sketching.command",
    "ogs_env.sketching.sketcher",
    "itables",
    "matplotlib.pyplot",
    "plotly.graph_objects",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
]
"""What the commands import, which takes longer than they do."""


def run(inputs: Inputs, kills: int, folder: Path) -> dict[str, Any]:
    """Kill commands and return the figures.

    Args:
        inputs: Valid inputs.
        kills: Number of kills, of all commands together.
        folder: Folder of the runs.
    """
    get_context("forkserver").set_forkserver_preload(_PRELOADED)
    folder.mkdir(parents=True)
    start_ogs(["--version"], folder).join()  # imports what all others share
    commands, failures = {}, []
    ends = _rounded_ends(kills)
    for name, words in _commands(inputs).items():
        command = _Command(name, words, folder / name)
        command.kill_often(ends[name])
        commands[name] = command.figures()
        failures += command.failures
    return {
        "kills": sum(own["kills"] for own in commands.values()),
        "commands": commands,
        "failed": len(failures),
        "failures": failures,
    }


def _rounded_ends(kills: int) -> dict[str, int]:
    """Return the number of kills of each command."""
    total, before, counts = 0.0, 0, {}
    for name, share in _SHARES.items():
        total += share
        counts[name] = round(total * kills) - before
        before = round(total * kills)
    return counts


def _commands(inputs: Inputs) -> dict[str, list[str]]:
    text = {file.stem: str(file) for file in inputs.text("").glob("*.jsonl")}
    model = str(inputs.model)
    return {
        "sketch": [
            *("sketch", text["candidates"], "--domain", text["domain"]),
            *("--anchor", text["anchor"], "--proxy", model, *SKETCHING),
            *("--trajectory", "--checkpoints", "0", "2", "5"),
        ],
        "adapt": [
            *("adapt", text["pool"], "--domain", text["domain"]),
            *("--anchor", text["anchor"], "--budget", "8", "--compare", "random"),
            *("--proxy", model, "--model", model, *TUNING, "--train-steps", "1000"),
        ],
        "train": [
            *("train", "--bundle", str(inputs.folder / "bundle"), "--steps", "4000"),
            *("--n-envs", "8", "--evaluation-episodes", "8", "--episodes", "10"),
        ],
        "finetune": [
            *("finetune", str(inputs.folder / "selection"), "--test", text["test"]),
            *("--retention", text["retention"], "--model", model, *TUNING),
            *("--epochs", "16"),  # 32 steps, of which every tenth is a checkpoint
        ],
    }


class _Command:
    """A command, its undisturbed run and its killed runs."""

    def __init__(self, name: str, words: list[str], folder: Path) -> None:
        # All runs have the same folder, because an agent's settings hold its bundle's.
        self.name, self.folder = name, folder
        self.words = [*words, "--out", OUT]
        self.failures: list[dict[str, Any]] = []
        self.kills = self.ends = 0
        self.moments: list[float] = []
        self.folder.mkdir()
        self.expected = self._whole()
        begin = time.monotonic()
        self._finish()
        self.seconds = time.monotonic() - begin
        self._compare("undisturbed")

    def _whole(self) -> dict[str, bytes]:
        """Return the files of a process of its own, with another order of hashes."""
        done = subprocess.run(
            [sys.executable, "-m", "ogs_env.cli", *self.words],
            cwd=self.folder,
            env={**os.environ, "PYTHONHASHSEED": "1"},
            capture_output=True,
            text=True,
            timeout=_LONGEST,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{self.name}: {done.stderr[-1000:]}")
        files = contents(self.folder / OUT)
        shutil.rmtree(self.folder / OUT)
        return files

    def kill_often(self, kills: int) -> None:
        """Kill the command until there are so many kills."""
        draw = random.Random(self.name)
        while self.kills < kills:
            self._kill_and_end(min(draw.randint(1, 3), kills - self.kills), draw)
            print(
                f"killed: {self.name}, {self.kills} of {kills} kills, {self.ends} "
                f"runs ended, {len(self.failures)} failed",
                flush=True,
            )

    def _kill_and_end(self, kills: int, draw: random.Random) -> None:
        """Kill a run some times, then let it end; compare its files."""
        complete: set[str] = set()
        moments = []
        for _ in range(kills):
            moments.append(draw.random())
            process = start_ogs(self.words, self.folder)
            process.join(moments[-1] * self.seconds)
            if not process.is_alive():
                moments.pop()
                break  # what earlier runs left took less time
            process.kill()
            process.join()
            present = contents(self.folder / OUT)
            now = {name for name in present if present[name] == self.expected.get(name)}
            if lost := complete - now:
                self._fail(f"lost after kills at {moments}: {', '.join(sorted(lost))}")
            complete = now
        self.kills += len(moments)
        self.moments += moments
        self.ends += 1
        self._finish()
        self._compare(f"killed at {', '.join(f'{moment:.3f}' for moment in moments)}")

    def _finish(self) -> None:
        """Run the command to its end."""
        process = start_ogs(self.words, self.folder)
        process.join(_LONGEST)
        if process.is_alive():
            process.kill()
            process.join()
        if process.exitcode != 0:
            errors = (self.folder / ERRORS).read_text()[-1000:]
            self._fail(f"status {process.exitcode}: {errors}")

    def _compare(self, what: str) -> None:
        """Compare the files with the expected ones; remove them if they are equal."""
        out = self.folder / OUT
        present = contents(out)
        names = sorted(
            name
            for name in present.keys() | self.expected.keys()
            if present.get(name) != self.expected.get(name)
        )
        if names:
            self._fail(f"{what}: differs in {', '.join(names)}")
            out.rename(self.folder / f"kept-{len(self.failures)}")
        else:
            shutil.rmtree(out)

    def _fail(self, what: str) -> None:
        self.failures.append({"command": self.name, "what": what})
        print(f"killed: {self.name}, {what}", flush=True)

    def figures(self) -> dict[str, Any]:
        """Return the figures."""
        return {
            "kills": self.kills,
            "runs_ended": self.ends,
            "files_compared": len(self.expected),
            "undisturbed_seconds": round(self.seconds, 1),
            "moments": [round(moment, 3) for moment in sorted(self.moments)],
            "words": self.words,
        }


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files of a folder by name, without what always differs.

    Left out are durations, the random ids in a page, and the order of an adapter's
    modules, which PEFT writes as a set.
    """
    return {
        str(path.relative_to(folder)): _comparable(path)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "seconds.json"
    }


def _comparable(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".html":
        return _VARIABLE.sub(b"", content)
    if path.suffix == ".json":
        try:
            value = json.loads(content)
        except ValueError:
            return content  # of a killed run
        return json.dumps(_comparable_value(value), indent=2).encode()
    return content


_VARIABLE = re.compile(
    rb"[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|seconds</td><td>[\d.]+"
)


def _comparable_value(value: Any) -> Any:
    if isinstance(value, dict):
        own = {key: member for key, member in value.items() if key != "seconds"}
        if "target_modules" in own:
            own["target_modules"] = sorted(own["target_modules"])
        return {key: _comparable_value(member) for key, member in own.items()}
    if isinstance(value, list):
        return [_comparable_value(member) for member in value]
    return value
