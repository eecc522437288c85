"""Named collections of samples, read from local files or the Hugging Face hub."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ogs_env.data.reading import from_dataset, read_samples
from ogs_env.data.record_files import load_from_hub
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError, unknown_name

DATA_FOLDER = "OGS_DATA"


@dataclass(frozen=True)
class Hub:
    """Location and columns of a collection on the Hugging Face hub."""

    repository: str
    config: str
    split: str
    prompt_column: str
    response_column: str
    renamed: Mapping[str, str]

    @property
    def columns(self) -> list[str]:
        """The columns that become a sample."""
        return [self.prompt_column, self.response_column, *self.renamed]


@dataclass(frozen=True)
class Collection:
    """A collection of real texts.

    Attributes:
        name: Source of its samples.
        licence: SPDX identifier, or the licence's name.
        attribution: Authors and title, as the licence requires.
        url: Home page.
        file: Name of its file in the folder `OGS_DATA`, without `.jsonl.gz`.
        hub: Its location on the Hugging Face hub, if known.
        instead: What to use instead, for the error line if it is not available.
    """

    name: str
    licence: str
    attribution: str
    url: str
    file: str
    hub: Hub | None = None
    instead: str = ""

    def info(self) -> dict[str, str]:
        """Return name, licence, attribution and url for a manifest."""
        return source_info(self.name, self.licence, self.attribution, self.url)

    def load(self) -> list[Sample]:
        """Load all samples from `OGS_DATA`, or else from the hub.

        Raises:
            InputError: If neither has them.
        """
        folder = os.environ.get(DATA_FOLDER)
        for ending in (".jsonl.gz", ".jsonl"):
            path = Path(folder or "") / f"{self.file}{ending}"
            if folder and path.is_file():
                return read_samples(path, source=self.name)
        where = f"{DATA_FOLDER} ({folder or 'unset'})"
        if self.hub is None:
            raise self._missing(where, "the Hugging Face hub has no known copy")
        return self._from_hub(self.hub, where)

    def _missing(self, where: str, why: str) -> InputError:
        return InputError(
            f"{self.name}: not in {where} and {why}; put {self.file}.jsonl.gz into a "
            f"folder and set {DATA_FOLDER} to it{self.instead}"
        )

    def _from_hub(self, hub: Hub, where: str) -> list[Sample]:
        try:
            rows = load_from_hub(hub.repository, hub.config, hub.split)
        except InputError as error:
            raise self._missing(where, str(error)) from error
        missing = set(hub.columns) - set(rows.column_names)
        if missing:
            raise self._missing(
                where,
                f"{hub.repository} on the hub has no column '{min(missing)}' any more",
            )
        rows = rows.select_columns(hub.columns).rename_columns(dict(hub.renamed))
        return from_dataset(
            rows,
            prompt_field=hub.prompt_column,
            response_field=hub.response_column,
            source=self.name,
        )


def source_info(
    name: str, licence: str, attribution: str, url: str, **more: Any
) -> dict[str, Any]:
    """Return a manifest's entry of a source."""
    return {
        "name": name,
        "licence": licence,
        "attribution": attribution,
        "url": url,
        **more,
    }


def _gsm8k(split: str) -> Collection:
    return Collection(
        name="gsm8k",
        licence="MIT",
        attribution="Cobbe et al. 2021, Training Verifiers to Solve Math Word Problems",
        url="https://github.com/openai/grade-school-math",
        file=f"gsm8k_{split}",
        hub=Hub("openai/gsm8k", "main", split, "question", "answer", {}),
        instead=", or use gsm_symbolic from the package reasoning-gym",
    )


_COLLECTIONS: tuple[Collection, ...] = (
    _gsm8k("train"),
    _gsm8k("test"),
    Collection(
        name="medquad",
        licence="CC-BY-4.0",
        attribution="Ben Abacha and Demner-Fushman 2019, MedQuAD, from NIH web sites",
        url="https://github.com/abachaa/MedQuAD",
        file="medquad",
    ),
    Collection(
        name="pubmedqa",
        licence="MIT",
        attribution="Jin et al. 2019, PubMedQA",
        url="https://github.com/pubmedqa/pubmedqa",
        file="pubmedqa",
        hub=Hub(
            "qiaojin/PubMedQA",
            "pqa_labeled",
            "train",
            "question",
            "long_answer",
            {"final_decision": "decision"},
        ),
    ),
    Collection(
        name="legalbench",
        licence="CC-BY-4.0 and MIT, by task",
        attribution="Guha et al. 2023, LegalBench; licence of each task in the samples",
        url="https://github.com/HazyResearch/legalbench",
        file="legalbench",
    ),
    Collection(
        name="tatqa",
        licence="MIT",
        attribution="Zhu et al. 2021, TAT-QA",
        url="https://github.com/NExTplusplus/TAT-QA",
        file="tatqa",
    ),
    Collection(
        name="fibo",
        licence="MIT",
        attribution="EDM Council, Financial Industry Business Ontology",
        url="https://github.com/edmcouncil/fibo",
        file="fibo",
    ),
)

COLLECTIONS: dict[str, Collection] = {c.file: c for c in _COLLECTIONS}


def collection(name: str) -> Collection:
    """Return a collection by its name, such as `"medquad"` or `"gsm8k_train"`."""
    if name not in COLLECTIONS:
        raise unknown_name("collection", name, COLLECTIONS)
    return COLLECTIONS[name]
