"""Fine-tune the real model on each subset of a list: one result file a run."""

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from ogs_env.bundle import Bundle
from ogs_env.data.domains import MATHS, DomainData
from ogs_env.data.pairs import grammar_pairs, solution_pairs
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError
from ogs_env.experiments.evaluation import preferences
from ogs_env.experiments.fidelity.prose import prose
from ogs_env.experiments.fidelity.results import BASE, result_file, rows_of
from ogs_env.experiments.fidelity.subsets import Subset
from ogs_env.experiments.fidelity.training import Recipe, fine_tune
from ogs_env.files import read_json, write_json
from ogs_env.sketching.answers import encode_answer
from ogs_env.sketching.encoding import Encoded, encode, encode_pair
from ogs_env.sketching.proxy import (
    attach_adapter,
    content_hash,
    draw_adapter,
    load_model,
)
from ogs_env.sketching.steps import measure
from ogs_env.sketching.trunk import TrunkStates

MAX_TOKENS = 256
SIDES = ("right", "wrong")


class Study:
    """The real model, and the texts that it is trained and measured on.

    Args:
        bundle: With the model's own answers.
        data: The texts that it is of.
        recipe: How the model is fine-tuned.
        retention: How many samples of each capability are measured at most.
        paragraphs: How many paragraphs of general text are measured.
    """

    def __init__(
        self,
        bundle: Bundle,
        data: DomainData,
        recipe: Recipe,
        retention: int = 64,
        paragraphs: int = 48,
    ) -> None:
        if [sample.id for sample in data.pool] != bundle.pool.hex_ids():
            raise InputError(
                f"{bundle.path}: was made of other texts than the pool has here; build "
                "it again"
            )
        answers = dict(
            zip(
                bundle.retention_answers.hex_ids(),
                bundle.answer_tokens("retention_answers"),
                strict=True,
            )
        )
        self.bundle, self.recipe = bundle, recipe
        proxy = bundle.manifest["proxy"]
        model, tokenizer = load_model(proxy["id"], getattr(torch, proxy["precision"]))
        if content_hash(proxy["id"], model) != proxy["sha256"]:
            raise InputError(
                f"{proxy['id']}: is another model than the bundle's; install the "
                "version that the bundle was made with, or build the bundle again"
            )
        self.proxy = attach_adapter(
            model, tokenizer, rank=16, alpha=32, layers=recipe.layers, seed=0
        )

        def encoded(samples: Sequence[Sample]) -> list[Encoded]:
            return [encode(tokenizer, s.turns, s.response, MAX_TOKENS) for s in samples]

        self._sets: dict[str, list[Encoded]] = {
            "pool": encoded(data.pool),
            "test": encoded(data.test),
            "prose": encoded(prose(paragraphs)),
        }
        for name, samples in data.retention.items():
            samples = samples[:retention]
            self._sets[f"reference/{name}"] = encoded(samples)
            self._sets[f"own/{name}"] = [
                encode_answer(tokenizer, s.turns, answers[s.id], MAX_TOKENS)
                for s in samples
            ]
        pairs = {
            "solutions": solution_pairs(data.retention[MATHS][:retention]),
            "grammar": grammar_pairs(),
        }
        for name, found in pairs.items():
            sides = [encode_pair(tokenizer, pair, MAX_TOKENS) for pair in found]
            self._sets[f"right/{name}"] = [right for right, _ in sides]
            self._sets[f"wrong/{name}"] = [wrong for _, wrong in sides]
        self._pairs = list(pairs)
        every: list[Encoded] = []
        self.rows: dict[str, range] = {}
        for name, members in self._sets.items():
            self.rows[name] = range(len(every), len(every) + len(members))
            every += members
        self.texts = TrunkStates(self.proxy, every)

    def measure(self) -> dict[str, Any]:
        """Measure the model as it is.

        Returns:
            `losses`, the mean loss of each set, nats per response token; and `pairs`,
            for each ability the share of pairs whose right text has the higher
            probability, and the mean of log P(right) - log P(wrong), nats.
        """
        losses: dict[str, float] = {}
        pairs: dict[str, dict[str, float]] = {}
        for name, rows in self.rows.items():
            if name != "pool" and not name.startswith(("right/", "wrong/")):
                losses[name] = float(np.mean(measure(self.texts, rows)))
        for name in self._pairs:
            pairs[name] = preferences(
                *(self._surprise(f"{side}/{name}") for side in SIDES)
            )
        return {"losses": losses, "pairs": pairs}

    def _surprise(self, name: str) -> NDArray[np.float64]:
        """Return -log P of each text of a set, nats."""
        tokens = [encoded.response_tokens for encoded in self._sets[name]]
        return np.array(measure(self.texts, self.rows[name])) * tokens

    def run(self, subset: Subset, seed: int, folder: Path) -> None:
        """Fine-tune on a subset and write the result, unless it is there.

        Args:
            subset: Pool rows in the order of training.
            seed: Of the adapter's first weights and the order of later epochs.
            folder: Where `NAME--sSEED.json` goes. Processes that run at the same
                time share the work: what one has begun, another leaves alone.
        """
        file = result_file(folder, subset.name, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(f"{file}.lock", timeout=0):
                if not file.exists():
                    self._run(subset, seed, file)
        except Timeout:
            return
        Path(f"{file}.lock").unlink(missing_ok=True)
        rows = rows_of(self.bundle, read_json(file, "result of a run")["ids"])
        if rows != subset.rows:
            raise InputError(
                f"{file}: was trained on other samples than {subset.name} now has; "
                "delete it, or write to another --results"
            )

    def _run(self, subset: Subset, seed: int, file: Path) -> None:
        began = time.perf_counter()
        fine_tune(self.proxy, self.texts, subset.rows, self.recipe, seed)
        trained = time.perf_counter()
        measured = self.measure()
        ids = self.bundle.pool.hex_ids()
        result = {
            "subset": subset.name,
            "seed": seed,
            "recipe": dataclasses.asdict(self.recipe),
            **measured,
            "seconds": {
                "training": round(trained - began, 1),
                "measuring": round(time.perf_counter() - trained, 1),
            },
            "ids": [ids[row] for row in subset.rows],
        }
        write_json(file, result)

    def base(self, folder: Path) -> None:
        """Measure the untouched model, unless that is done."""
        file = folder / BASE
        if file.exists():
            return
        draw_adapter(self.proxy, 0)
        write_json(
            file,
            {
                **self.measure(),
                "samples": {name: len(rows) for name, rows in self.rows.items()},
                "proxy": self.bundle.manifest["proxy"],
                "recipe": dataclasses.asdict(self.recipe),
                "python": sys.version.split()[0],
                "torch": torch.__version__,
            },
        )
