"""Selections: run a selector over a bundle, and save or load its result."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ogs_env.bundle import Bundle, load_bundle
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError
from ogs_env.files import read_json, write_json, write_text

SUMMARY = "selection.json"
LINES = "selection.jsonl"
_FORMAT = "ogs-selection"
_TRAINER_COLUMNS = "messages", "conversations", "chosen", "rejected", "input_ids"
"""Columns that trainers would read instead of prompt and completion."""


class _Selector(Protocol):
    def select(
        self,
        bundle: Bundle,
        budget: int,
        rng: np.random.Generator,
        indices: NDArray[np.integer] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...


@dataclass(frozen=True)
class Selection:
    """An ordered selection from a bundle's pool, with all settings that reproduce it.

    Attributes:
        ids: Ids of the selected samples, in the order of the picks.
        indices: Places of their records in the texts that the bundle was sketched
            from, for `datasets.Dataset.select` or a torch `Subset`; they are the rows
            in the bundle's pool unless repeated records were dropped.
        scores: The selector's score of each; higher is better. Scales differ between
            selectors.
        sources: The collection of each.
        agent: Name or folder of the selector.
        bundle: Name of the bundle.
        space: The bundle's sketch space.
        budget: Number of samples to select.
        split: Part of the pool that was selected from.
        seed: Seed of the selector's random generator.
    """

    ids: list[str]
    indices: list[int]
    scores: list[float]
    sources: list[str]
    agent: str
    bundle: str
    space: str
    budget: int
    split: str
    seed: int

    def __len__(self) -> int:
        return len(self.ids)

    def save(self, folder: Path, samples: Mapping[str, Sample] | None = None) -> None:
        """Write `selection.jsonl`, one line per sample in order, and `selection.json`.

        Args:
            folder: The output folder, created if missing.
            samples: Samples by id; with them each line has `prompt` and `completion`
                as messages, the format of TRL's SFTTrainer, and the record's further
                fields. Those whose names are taken are called `original_NAME`.

        Raises:
            InputError: If a selected sample has no text in `samples`, or the folder
                cannot be written.
        """
        lines = []
        for rank, (name, row, score, source) in enumerate(
            zip(self.ids, self.indices, self.scores, self.sources, strict=True)
        ):
            line: dict[str, Any] = {
                "rank": rank,
                "score": score,
                "id": name,
                "source": source,
                "row": row,
            }
            if samples is not None:
                if name not in samples:
                    raise InputError(
                        f"sample {name}: is selected but not among the {len(samples)} "
                        "texts given; give those the bundle was sketched from"
                    )
                line |= _texts(samples[name], line)
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        write_text(Path(folder) / LINES, "".join(lines))
        # Last, so that there is no summary without complete lines.
        write_json(Path(folder) / SUMMARY, {"format": _FORMAT, **asdict(self)})

    @classmethod
    def load(cls, folder: Path) -> "Selection":
        """Load a selection that `save` wrote.

        Raises:
            InputError: If there is no selection, or it is incomplete.
        """
        file = Path(folder) / SUMMARY
        value = read_json(file, "selection made by `ogs select`")
        if not isinstance(value, dict) or value.pop("format", None) != _FORMAT:
            raise InputError(f"{file}: is no selection made by `ogs select`")
        try:
            return cls(**value)
        except TypeError:
            raise InputError(
                f"{file}: its fields are not those of a selection; run `ogs select` "
                "again"
            ) from None


def _texts(sample: Sample, taken: Mapping[str, Any]) -> dict[str, Any]:
    """Return the further fields and the texts of a line."""
    texts = {
        "prompt": [turn._asdict() for turn in sample.turns],
        "completion": [{"role": "assistant", "content": sample.response}],
    }
    names = {*taken, *texts, *_TRAINER_COLUMNS}
    renamed = {
        f"original_{name}" if name in names else name: value
        for name, value in sample.fields.items()
    }
    return renamed | texts


def parse_budget(text: str, pool_size: int) -> int:
    """Parse a budget such as `"64"` or `"10%"` of a pool; return a number of samples.

    A percentage is rounded to the nearest whole number, and is at least 1.

    Raises:
        InputError: For any other text, less than 1, or more than the pool has.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text.strip(), re.ASCII)
    if match is None or ("." in match[1] and not match[2]):
        raise InputError(
            f"budget '{text}': expected a whole number such as 64 or a percentage "
            "such as 10%"
        )
    if match[2]:
        share = float(match[1]) / 100
        count = max(1, round(share * pool_size)) if share > 0 else 0
    else:
        count = int(match[1])
    if not 1 <= count <= pool_size:
        raise InputError(
            f"budget '{text}': is {count} samples; expected 1 to the {pool_size} there "
            "are"
        )
    return count


def select(
    selector: _Selector,
    bundle: Bundle | str | Path,
    budget: int | str,
    *,
    seed: int = 0,
    split: str = "all",
    agent: str = "",
) -> Selection:
    """Run a selector over a bundle.

    Args:
        selector: An object with `select(bundle, budget, rng, indices)`, see
            `ogs_env.agents.selector`.
        bundle: A bundle, the name of a shipped one, or a folder.
        budget: Samples to select: 64, `"64"` or `"10%"`.
        seed: Seed of the selector's random generator.
        split: Part of the pool: `"train"`, `"test"` or `"all"`.
        agent: The selector's name in the selection; by default the name of its class.

    Raises:
        InputError: For a bad bundle, split or budget.
    """
    if not isinstance(bundle, Bundle):
        bundle = load_bundle(bundle)
    part = bundle.split(split)
    count = parse_budget(str(budget), len(part))
    if seed < 0:
        raise InputError(f"seed: {seed}; expected a whole number, 0 or more")
    order, scores = selector.select(bundle, count, np.random.default_rng(seed), part)
    pool = bundle.pool
    names = bundle.sources
    return Selection(
        ids=[f"{number:016x}" for number in pool.ids[order].tolist()],
        indices=pool.places[order].tolist(),
        scores=scores.tolist(),
        sources=[names[number] for number in pool.sources[order].tolist()],
        agent=agent or type(selector).__name__,
        bundle=bundle.name,
        space=bundle.space,
        budget=count,
        split=split,
        seed=seed,
    )
