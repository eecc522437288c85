"""Fine-tune the real model on each subset of a list: one result file a run."""

import dataclasses
import sys
import time
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

from ogs_env.bundle import Bundle
from ogs_env.data.domains import KNOWLEDGE, domains, load_anchor
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError
from ogs_env.experiments.fidelity.prose import prose
from ogs_env.experiments.fidelity.results import BASE, result_file, rows_of
from ogs_env.experiments.fidelity.subsets import Subset
from ogs_env.experiments.fidelity.training import Recipe, fine_tune
from ogs_env.files import read_json, write_json
from ogs_env.sketching.encoding import encode
from ogs_env.sketching.proxy import (
    attach_adapter,
    content_hash,
    draw_adapter,
    load_model,
)
from ogs_env.sketching.steps import measure
from ogs_env.sketching.trunk import TrunkStates

MAX_TOKENS = 256


class Study:
    """The real model, and the texts that it is trained and measured on.

    Args:
        bundle: Of a named domain, whose texts can be had.
        recipe: How the model is fine-tuned.
        retention: How many GSM8K test problems are measured.
        paragraphs: How many paragraphs of general text are measured.
    """

    def __init__(
        self, bundle: Bundle, recipe: Recipe, retention: int = 256, paragraphs: int = 48
    ) -> None:
        if bundle.name not in domains():
            raise InputError(
                f"{bundle.path}: its texts are not known; expected the bundle of a "
                f"domain: {', '.join(domains())}"
            )
        request = bundle.manifest["request"]
        data = domains()[bundle.name](request["seed"], len(bundle.pool))
        if [sample.id for sample in data.pool] != bundle.pool.hex_ids():
            raise InputError(
                f"{bundle.path}: was made of other texts than domain '{bundle.name}' "
                "has here; build it again"
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
        groups = {
            "pool": data.pool,
            "test": data.test,
            "retention": load_anchor("gsm8k", retention)[1],
            "prose": prose(paragraphs),
        }
        if KNOWLEDGE in data.retention:
            groups[KNOWLEDGE] = data.retention[KNOWLEDGE]
        every: list[Sample] = []
        self.rows: dict[str, range] = {}
        for name, samples in groups.items():
            self.rows[name] = range(len(every), len(every) + len(samples))
            every += samples
        self.texts = TrunkStates(
            self.proxy,
            [encode(tokenizer, s.turns, s.response, MAX_TOKENS) for s in every],
        )

    def measure(self) -> dict[str, float]:
        """Return the mean loss of each measured set, nats per token."""
        return {
            name: float(np.mean(measure(self.texts, rows)))
            for name, rows in self.rows.items()
            if name != "pool"
        }

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
        losses = self.measure()
        ids = self.bundle.pool.hex_ids()
        result = {
            "subset": subset.name,
            "seed": seed,
            "recipe": dataclasses.asdict(self.recipe),
            "losses": losses,
            "seconds": {
                "training": round(trained - began, 1),
                "measuring": round(time.perf_counter() - trained, 1),
            },
            "ids": [ids[row] for row in subset.rows],
        }
        write_json(file, result)

    def base(self, folder: Path) -> None:
        """Measure the untouched model, but for what is measured already."""
        file = folder / BASE
        known: dict[str, float] = {}
        if file.exists():
            known = read_json(file, "untouched model's losses")["losses"]
        if known.keys() >= self.rows.keys() - {"pool"}:
            return
        draw_adapter(self.proxy, 0)
        write_json(
            file,
            {
                "losses": self.measure() | known,
                "samples": {name: len(rows) for name, rows in self.rows.items()},
                "proxy": self.bundle.manifest["proxy"],
                "recipe": dataclasses.asdict(self.recipe),
                "python": sys.version.split()[0],
                "torch": torch.__version__,
            },
        )
