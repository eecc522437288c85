"""Fine-tune a target on a selection, and evaluate it.

Each run has a folder with its inputs (`run.json`), the trained adapter and its results
(`result.json`). The training itself is in `adapter_training`.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ogs_env.data.pairs import Pair, solution_pairs
from ogs_env.data.samples import Sample, check_disjoint
from ogs_env.errors import InputError
from ogs_env.files import (
    LOCK,
    read_json,
    read_object,
    write_json,
    writing,
    written_by_library,
)
from ogs_env.learners.fitted import LAYERS
from ogs_env.seeding import MOST_SEED

# Independent of the training seed, so that all runs are measured on the same answers.
_ANSWERS_SEED = 0
PACKAGES = ("torch", "transformers", "peft", "accelerate")


@dataclass(frozen=True)
class FinetuneSettings:
    """Settings of fine-tuning and of its evaluation.

    Attributes:
        model: Target model: a name, a folder, a GGUF file or a Hugging Face id.
        epochs: Number of passes over the samples.
        learning_rate: Peak learning rate of AdamW.
        batch: Number of samples per step.
        layers: Decoder layers, counted from the last, that carry the adapter; all if
            the model has fewer.
        seed: Seed of the adapter's first weights and of the order of samples.
        max_tokens: Longer samples are truncated at the start of their prompt.
        generate: Number of retention samples to which answers are generated before and
            after, to count the right ones. Their responses must end with '#### N'.
    """

    model: str = "smollm2-135m-instruct"
    epochs: int = 1
    learning_rate: float = 1e-3
    batch: int = 8
    layers: int = LAYERS
    seed: int = 0
    max_tokens: int = 256
    generate: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "layers"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"{name}: {getattr(self, name)} is too small; give 1 or more"
                )
        for name in ("seed", "generate"):
            if getattr(self, name) < 0:
                raise InputError(
                    f"{name}: {getattr(self, name)} is negative; give 0 or more"
                )
        if self.seed > MOST_SEED:
            raise InputError(
                f"seed: {self.seed} is too large; give {MOST_SEED} or less"
            )
        if not 0 < self.learning_rate < math.inf:
            raise InputError(
                f"learning rate: {self.learning_rate} is no positive number; "
                "1e-3 suits a small model"
            )
        if self.max_tokens < 8:
            raise InputError(
                f"max tokens: {self.max_tokens} is too small; give 8 or more"
            )


def finetune(
    samples: Sequence[Sample],
    test: Sequence[Sample],
    retention: Sequence[Sample],
    settings: FinetuneSettings,
    folder: Path,
    *,
    grammar: Sequence[Pair] = (),
    selector: str = "",
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Fine-tune a model on some samples and measure it before and after.

    The order of `samples` does not matter: the order of each epoch is drawn from the
    seed.

    An interrupted run resumes at its last checkpoint when it is called again; for a
    finished one the result is read. With other settings, samples or pairs it starts
    from scratch. The untouched model's own answers, which all runs are measured on, are
    stored in the folder `own_answers` next to the run's. `transformers` seeds the
    global generators.

    Args:
        samples: Training samples.
        test: Samples of the domain, for the loss before and after.
        retention: Samples of general abilities; answers are generated to the first
            `settings.generate` of them. Those with solutions that end in `#### N` also
            give minimal pairs, see `solution_pairs`.
        settings: Settings of the run.
        folder: Folder for `result.json`, the folder `adapter` (PEFT's format) and,
            during the run, checkpoints. Its name is the name of the run.
        grammar: Further minimal pairs of grammar, such as `grammar_pairs()`.
        selector: Name of the selector, for plots.
        before: The evaluation before training if it is known already: the entry
            `"before"` of the result of an earlier run with the same pairs.

    Returns:
        The content of `result.json`: `selection`, `selector`, `samples`, `run`
        (settings, model, and hashes of samples and pairs), `before` and `after`
        (losses as `ogs_env.experiments.evaluation.Losses` on `test`, on `retention`
        and on `answers`, the untouched model's answers to the retention prompts, whose
        rise measures forgetting; `accuracy` of generated answers or None; and `pairs`:
        for each ability with pairs, `solutions` and `grammar`, the result of
        `ogs_env.experiments.evaluation.pair_preferences`), `training_loss` (by step),
        `seconds` and `versions`.

    Raises:
        InputError: If a set is empty, two sets share a sample, the model cannot
            be loaded or training diverges.
    """
    pairs = _pairs(retention, grammar)
    run = _identity(samples, test, retention, pairs, settings)
    if (result := _result(folder, run)) is not None:
        return result

    # Slow imports that reading results and the command's help do not need.
    from ogs_env.experiments.adapter_training import train
    from ogs_env.lm.loading import check_length, content_hash, load_model
    from ogs_env.sketching.answers import own_answers

    model, tokenizer = load_model(settings.model)
    check_length(model, settings.max_tokens)
    _start(folder, run)
    model.requires_grad_(False)  # only the adapter is trained; losses are cheaper
    model_hash = content_hash(settings.model, model)
    clock = time.perf_counter
    began = clock()
    answers_folder = _answers_folder(folder, run, model_hash)
    answers = own_answers(
        *(model, tokenizer, retention, answers_folder, "retention"),
        seed=_ANSWERS_SEED,
        max_tokens=settings.max_tokens,
    )
    started = clock()
    measured = test, retention, answers, pairs, settings
    if before is None or before["pairs"].keys() != pairs.keys():
        before = _evaluate(model, tokenizer, *measured)
    evaluated = clock()
    model, losses = train(model, tokenizer, samples, settings, folder / "checkpoints")
    trained = clock()
    after = _evaluate(model, tokenizer, *measured)
    if not math.isfinite(
        after["test"]["per_sample"] + after["retention"]["per_sample"]
    ):
        raise InputError(
            f"{folder}: training diverged at learning rate {settings.learning_rate}; "
            "lower it"
        )
    # Otherwise PEFT asks the hub for the size of the vocabulary.
    with written_by_library(folder):
        model.save_pretrained(folder / "adapter", save_embedding_layers=False)
    result = {
        "selection": folder.name,
        "selector": selector or folder.name,
        "samples": len(samples),
        "run": run,
        "model_sha256": model_hash,
        "before": dict(before),
        "after": after,
        "training_loss": losses,
        "seconds": {
            "own_answers": round(started - began, 2),
            "evaluation_before": round(evaluated - started, 2),
            "training": round(trained - evaluated, 2),
            "evaluation_after": round(clock() - trained, 2),
        },
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    write_json(folder / "result.json", result)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return result


def table(results: Iterable[Mapping[str, Any]]) -> str:
    """Return results as a Markdown table: losses in nats per token."""
    names = ["selection", "samples", "domain test", "own answers", "retention"]
    names += ["answers right", "pairs right"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for result in results:
        before, after = result["before"], result["after"]
        cells = [result["selection"], str(result["samples"])]
        for name in ("test", "answers", "retention"):
            old, new = before[name]["per_sample"], after[name]["per_sample"]
            cells.append(f"{old:.3f} -> {new:.3f}")
        right = [before["accuracy"], after["accuracy"]]
        cells.append("" if None in right else " -> ".join(f"{r:.1%}" for r in right))
        shares = [
            f"{name} {before['pairs'][name]['accuracy'] * 100:.0f} % -> "
            f"{after['pairs'][name]['accuracy'] * 100:.0f} %"
            for name in after["pairs"]
        ]
        cells.append(", ".join(shares))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _pairs(
    retention: Sequence[Sample], grammar: Sequence[Pair]
) -> dict[str, Sequence[Pair]]:
    """Return minimal pairs by ability, for abilities that have any."""
    pairs = {"solutions": solution_pairs(retention), "grammar": grammar}
    return {name: members for name, members in pairs.items() if members}


def _identity(
    samples: Sequence[Sample],
    test: Sequence[Sample],
    retention: Sequence[Sample],
    pairs: Mapping[str, Sequence[Pair]],
    settings: FinetuneSettings,
) -> dict[str, Any]:
    """Check the sets, and return everything that the result depends on."""
    sets = {"selection": samples, "test": test, "retention": retention}
    for name, members in sets.items():
        if not members:
            raise InputError(f"{name} set: holds no samples; give at least one")
    # Held-out samples must not be among the training samples.
    check_disjoint(sets)
    if settings.generate > len(retention):
        raise InputError(
            f"generate: {settings.generate} answers requested, but the retention set "
            f"holds {len(retention)} samples; give at most that"
        )
    ids = {name: "\n".join(s.id for s in members) for name, members in sets.items()}
    texts = {
        name: json.dumps([dataclasses.astuple(pair) for pair in members])
        for name, members in pairs.items()
    }

    def hashes(of: Mapping[str, str]) -> dict[str, str]:
        return {name: hashlib.sha256(t.encode()).hexdigest() for name, t in of.items()}

    return {
        "settings": dataclasses.asdict(settings),
        "ids_sha256": hashes(ids),
        "pairs_sha256": hashes(texts),
        "answers_seed": _ANSWERS_SEED,
    }


def _result(folder: Path, run: dict[str, Any]) -> dict[str, Any] | None:
    """Return the result of `run` if it exists."""
    started, finished = folder / "run.json", folder / "result.json"
    if not started.exists():
        if folder.is_dir() and any(file.name != LOCK for file in folder.iterdir()):
            raise InputError(
                f"{folder}: holds files, but no fine-tuning run; choose another folder"
            )
        return None
    known = read_json(started, "note of a fine-tuning run")
    if known != run or not finished.exists():
        return None
    what = "result; delete it to fine-tune again"
    result = read_object(finished, what)
    if not _is_complete(result):
        raise InputError(f"{finished}: is damaged; expected a {what}")
    return result


def _is_complete(result: dict[str, Any]) -> bool:
    """Whether a result has what `table` shows."""
    try:
        table([result])
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    return {"selector", "samples"} <= set(result)


def _start(folder: Path, run: dict[str, Any]) -> None:
    """Write the note of a run; remove the files of another run."""
    started = folder / "run.json"
    if started.exists():
        if read_json(started, "note of a fine-tuning run") == run:
            return
        print(
            f"{folder}: other settings, samples or pairs; starting from scratch",
            file=sys.stderr,
        )
        (folder / "result.json").unlink(missing_ok=True)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        shutil.rmtree(folder / "adapter", ignore_errors=True)
    write_json(started, run)


def _answers_folder(folder: Path, run: dict[str, Any], model_hash: str) -> Path:
    """Return the folder of own answers, which the runs in a folder share."""
    inputs = run["ids_sha256"]["retention"], run["settings"]["max_tokens"]
    shared = f"{model_hash} {inputs} {_ANSWERS_SEED}"
    name = hashlib.sha256(shared.encode()).hexdigest()[:16]
    answers_folder = folder.parent / "own_answers" / name
    with writing(answers_folder):
        answers_folder.mkdir(parents=True, exist_ok=True)
    return answers_folder


def _evaluate(
    model: Any,
    tokenizer: Any,
    test: Sequence[Sample],
    retention: Sequence[Sample],
    answers: Sequence[Sequence[int]],
    pairs: Mapping[str, Sequence[Pair]],
    settings: FinetuneSettings,
) -> dict[str, Any]:
    """Return losses, the accuracy of generated answers, and choices in pairs."""
    from ogs_env.experiments.evaluation import (
        exact_match,
        mean_losses,
        pair_preferences,
    )

    def losses(samples: Sequence[Sample], name: str, own: Any = None) -> dict[str, Any]:
        limit = settings.max_tokens
        measured = mean_losses(model, tokenizer, samples, limit, name, own)
        return dataclasses.asdict(measured)

    # Answers first, so that an error in them comes before the long part.
    prompts = retention[: settings.generate]
    accuracy = exact_match(model, tokenizer, prompts, "retention") if prompts else None
    return {
        "test": losses(test, "test"),
        "retention": losses(retention, "retention"),
        "answers": losses(retention, "own answers", answers),
        "accuracy": accuracy,
        "pairs": {
            name: pair_preferences(model, tokenizer, own, settings.max_tokens, name)
            for name, own in pairs.items()
        },
    }
