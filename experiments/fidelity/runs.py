"""Fine-tune the real model on each subset of a list, one result file per run."""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ogs_env.bundle import Bundle
from ogs_env.data.domains import MATHS, DomainData
from ogs_env.data.pairs import grammar_pairs, solution_pairs
from ogs_env.errors import InputError
from ogs_env.experiments.fidelity.prose import prose
from ogs_env.experiments.fidelity.results import BASE, result_file, rows_of
from ogs_env.experiments.fidelity.subsets import Subset
from ogs_env.experiments.fidelity.training import Recipe, fine_tune
from ogs_env.experiments.text_sets import TextSets
from ogs_env.files import check_writable, only_process, read_json, write_json
from ogs_env.lm.adapter import Proxy, attach_adapter, draw_adapter
from ogs_env.lm.encoding import encode, encode_pair
from ogs_env.lm.loading import content_hash, load_model
from ogs_env.sketching.answers import encode_answer

MAX_TOKENS = 256


class Study:
    """The real model with the texts of its training and evaluation.

    Args:
        bundle: A bundle with the model's own answers.
        data: Texts of the bundle.
        recipe: Recipe of the fine-tuning.
        retention: Maximum number of retention samples of each capability.
        paragraphs: Number of paragraphs of general text.
        grammar: Whether to measure BLiMP's pairs, which no package contains.

    Raises:
        InputError: If the texts are not the bundle's, or the model or the grammar
            pairs are not available.
    """

    def __init__(
        self,
        bundle: Bundle,
        data: DomainData,
        recipe: Recipe,
        retention: int = 64,
        paragraphs: int = 48,
        grammar: bool = True,
    ) -> None:
        if [sample.id for sample in data.pool] != bundle.pool.hex_ids():
            raise InputError(
                f"{bundle.path}: was built from other texts than the pool's; build it "
                "again"
            )
        measured = {name: own[:retention] for name, own in data.retention.items()}
        # Before the model is loaded, so that missing grammar pairs raise early.
        pairs = {"solutions": solution_pairs(measured[MATHS])}
        if grammar:
            pairs["grammar"] = grammar_pairs()
        self.bundle, self.recipe = bundle, recipe
        self.proxy = _proxy(bundle, recipe.layers)
        tokenizer = self.proxy.tokenizer
        samples = {"pool": data.pool, "test": data.test, "prose": prose(paragraphs)}
        samples |= {f"reference/{name}": own for name, own in measured.items()}
        sets = {
            name: [encode(tokenizer, s.turns, s.response, MAX_TOKENS) for s in own]
            for name, own in samples.items()
        }
        answers = _own_answers(bundle)
        for name, own in measured.items():
            sets[f"own/{name}"] = [
                encode_answer(tokenizer, s.turns, answers[s.id], MAX_TOKENS)
                for s in own
            ]
        self._with_loss = [name for name in sets if name != "pool"]
        self._abilities = list(pairs)
        for name, both in pairs.items():
            encoded = [encode_pair(tokenizer, pair, MAX_TOKENS) for pair in both]
            sets[f"right/{name}"] = [right for right, _ in encoded]
            sets[f"wrong/{name}"] = [wrong for _, wrong in encoded]
        self.sets = TextSets(self.proxy, sets)

    def measure(self) -> dict[str, Any]:
        """Measure the model with its current weights.

        Returns:
            `losses`, the mean loss of each set, nats per response token; and `pairs`,
            for each ability `accuracy`, the share of pairs whose right text has the
            higher probability, and `margin`, the mean of log P(right) - log P(wrong),
            nats.
        """
        return {
            "losses": {name: self.sets.mean_loss(name) for name in self._with_loss},
            "pairs": {
                name: self.sets.preferences(f"right/{name}", f"wrong/{name}")
                for name in self._abilities
            },
        }

    def run(self, subset: Subset, seed: int, folder: Path) -> None:
        """Fine-tune on a subset and write the result, unless it exists.

        Args:
            subset: Pool rows in the order of training.
            seed: Seed of the adapter's initial weights and of the epochs' orders.
            folder: Folder of `NAME--sSEED.json`. Concurrent processes share the work:
                each run is done by the process that starts it first.

        Raises:
            InputError: If an existing result is of other samples.
        """
        file = result_file(folder, subset.name, seed)
        if not file.exists():
            with only_process(file) as is_only:
                if not is_only:
                    return
                if not file.exists():
                    self._run(subset, seed, file)
        rows = rows_of(self.bundle, read_json(file, "result of a run")["ids"])
        if rows != subset.rows:
            raise InputError(
                f"{file}: was trained on other samples than {subset.name} has now; "
                "delete it, or write to another --results"
            )

    def _run(self, subset: Subset, seed: int, file: Path) -> None:
        start = time.perf_counter()
        fine_tune(self.proxy, self.sets.texts, subset.rows, self.recipe, seed)
        trained = time.perf_counter()
        measured = self.measure()
        ids = self.bundle.pool.hex_ids()
        result = {
            "subset": subset.name,
            "seed": seed,
            "recipe": dataclasses.asdict(self.recipe),
            **measured,
            "seconds": {
                "training": round(trained - start, 1),
                "measuring": round(time.perf_counter() - trained, 1),
            },
            "ids": [ids[row] for row in subset.rows],
        }
        write_json(file, result)

    def base(self, folder: Path) -> None:
        """Measure the untouched model and write the result, unless it exists."""
        file = folder / BASE
        if file.exists():
            return
        check_writable(file)
        draw_adapter(self.proxy, 0)
        write_json(
            file,
            {
                **self.measure(),
                "samples": {name: len(rows) for name, rows in self.sets.rows.items()},
                "proxy": self.bundle.manifest["proxy"],
                "python": sys.version.split()[0],
                "torch": torch.__version__,
            },
        )


def _proxy(bundle: Bundle, layers: int) -> Proxy:
    """Load the bundle's model with an adapter on its last layers."""
    known = bundle.manifest["proxy"]
    model, tokenizer = load_model(known["id"], getattr(torch, known["precision"]))
    if content_hash(known["id"], model) != known["sha256"]:
        raise InputError(
            f"{known['id']}: is not the bundle's model; install the version that the "
            "bundle was built with, or build the bundle again"
        )
    return attach_adapter(model, tokenizer, rank=16, alpha=32, layers=layers, seed=0)


def _own_answers(bundle: Bundle) -> dict[str, list[int]]:
    """Return the tokens of the model's own answers by the id of the prompt's sample."""
    ids = bundle.retention_answers.hex_ids()
    return dict(zip(ids, bundle.answer_tokens("retention_answers"), strict=True))
