"""Valid inputs of the commands: a tiny model, texts, and what the commands make."""

import gzip
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from ogs_env.cli import main
from tests.helpers.tiny_model import make_tiny_model
from tests.helpers.words import WORDS

SKETCHING = (
    *("--precision", "float32", "--k", "16", "--rank", "2", "--layers", "1"),
    *("--max-tokens", "64"),
)
TUNING = ("--epochs", "1", "--batch", "4", "--layers", "1", "--max-tokens", "64")
TRAINING = (
    *("--steps", "32", "--n-envs", "2", "--n-steps", "4", "--batch-size", "4"),
    *("--evaluations", "1", "--evaluation-episodes", "2", "--episodes", "2"),
)


@dataclass(frozen=True)
class Inputs:
    """Folders and files that are valid inputs.

    Attributes:
        folder: The folder of all others; its files are named relative to it.
    """

    folder: Path

    @property
    def model(self) -> Path:
        """A random Llama of three layers."""
        return self.folder / "model"

    def text(self, name: str) -> Path:
        """A file of samples."""
        return self.folder / "texts" / name


def words_of(inputs: Inputs) -> dict[str, list[str]]:
    """Return the command lines that make the folders, in their order."""
    proxy = ("--proxy", str(inputs.model))
    texts = {name: str(inputs.text(f"{name}.jsonl")) for name in TEXTS}
    bundle, agent = str(inputs.folder / "bundle"), str(inputs.folder / "agent")
    return {
        "bundle": [
            *("sketch", texts["pool"], "--domain", texts["domain"]),
            *("--anchor", texts["anchor"], *proxy, *SKETCHING),
            *("--trajectory", "--checkpoints", "0", "2", "--out", bundle),
        ],
        "agent": ["train", "--bundle", bundle, *TRAINING, "--out", agent],
        "selection": [
            *("select", "--agent", "less", "--bundle", bundle, "--budget", "8"),
            *("--texts", texts["pool"], "--out", str(inputs.folder / "selection")),
        ],
    }


def make_inputs(folder: Path) -> Inputs:
    """Write all inputs to a new folder."""
    inputs = Inputs(folder)
    make_tiny_model(inputs.model)
    inputs.text("pool.jsonl").parent.mkdir(parents=True)
    for number, (name, count) in enumerate(TEXTS.items()):
        records = _records(name, count, seed=number)
        _write_lines(inputs.text(f"{name}.jsonl"), records)
    _write_other_formats(inputs)
    for name, words in words_of(inputs).items():
        if main(words) != 0:
            raise RuntimeError(f"{name}: `ogs {' '.join(words)}` failed")
    _write_settings(inputs)
    return inputs


TEXTS = {
    "pool": 72,
    "candidates": 270,
    "domain": 16,
    "anchor": 6,
    "test": 4,
    "retention": 4,
}
"""Numbers of samples in the files of texts."""


def _records(name: str, count: int, seed: int) -> list[dict[str, str]]:
    draw = random.Random(seed)
    records = []
    for number in range(count):
        response = " ".join(draw.choices(WORDS, k=draw.randint(1, 5)))
        if name in ("anchor", "retention"):
            response += f"\n#### {number}"
        records.append({"prompt": f"{name} {number}?", "response": response})
    return records


def _write_lines(path: Path, records: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _write_other_formats(inputs: Inputs) -> None:
    """Write the domain's samples in the other formats that are read."""
    records = _records("domain", TEXTS["domain"], seed=1)
    inputs.text("array.json").write_text(json.dumps(records, indent=1))
    lines = inputs.text("domain.jsonl").read_bytes()
    inputs.text("packed.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0))
    _write_lines(
        inputs.text("alpaca.jsonl"),
        [
            {"instruction": r["prompt"], "input": "now", "output": r["response"]}
            for r in records
        ],
    )
    _write_lines(
        inputs.text("chat.jsonl"),
        [
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": r["prompt"]},
                    {"role": "assistant", "content": r["response"]},
                ]
            }
            for r in records
        ],
    )
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(records)
    pyarrow.parquet.write_table(table, inputs.text("table.parquet"))


def _write_settings(inputs: Inputs) -> None:
    """Write YAML files of `ogs train`, `ogs sweep` and `ogs study`."""
    bundle, model = str(inputs.folder / "bundle"), str(inputs.model)
    short = {
        "steps": 32,
        "n_envs": 2,
        "n_steps": 4,
        "batch_size": 4,
        "evaluations": 1,
        "evaluation_episodes": 2,
    }
    train = {
        "env": "OGS-Custom-v0",
        "env_kwargs": {"bundle": bundle},
        "algorithm": "ppo",
        "learning_rate": 1e-3,
        "cost_limit": 5.0,
        **short,
    }
    sweep = {
        "program": "ogs",
        "command": [
            *("${env}", "${program}", "train", f"--bundle={bundle}"),
            *(f"--{name}={value}" for name, value in short.items()),
            "${args}",
        ],
        "method": "random",
        "metric": {"name": "kept/return", "goal": "maximize"},
        "run_cap": 1,
        "parameters": {
            "learning_rate": {
                "distribution": "log_uniform_values",
                "min": 1e-4,
                "max": 1e-1,
            },
            "n_epochs": {"distribution": "int_uniform", "min": 1, "max": 2},
            "width": {"values": [8, 16]},
        },
    }
    study = {
        "domains": ["medical-packages"],
        "draws": [1],
        "methods": ["random-0"],
        "proxy": model,
        "target": model,
        "target_name": "tiny",
        "pool_size": 64,
        "test_size": 2,
        "retention_size": 1,
        "questions": 1,
        "layers": 1,
        "epochs": 1,
        "learning_rate": 1e-3,
        "train_steps": 100,
    }
    for name, settings in (("train", train), ("sweep", sweep), ("study", study)):
        text = yaml.safe_dump(settings, sort_keys=False)
        (inputs.folder / f"{name}.yaml").write_text(text)
