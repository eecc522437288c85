"""The command `ogs finetune`: fine-tune a target on selections, and evaluate it."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ogs_env.data.domains import ANCHORS, domains, load_anchor
from ogs_env.data.pairs import grammar_file, grammar_pairs
from ogs_env.data.reading import ReadOptions, read_samples
from ogs_env.data.record_files import is_file_or_dataset
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError, unknown_name
from ogs_env.experiments.finetune import FinetuneSettings, finetune, table
from ogs_env.files import exclusive
from ogs_env.options import settings_of
from ogs_env.selection import LINES, SUMMARY, Selection


@dataclass(frozen=True, kw_only=True)
class Options(FinetuneSettings, ReadOptions):
    """Options of `ogs finetune`.

    Attributes:
        selections: Folders written by `ogs select`.
        test: Held-out samples of the domain: a file, a dataset on the hub, or a domain
            such as medical for its test set.
        retention: Samples of general abilities; if solutions end with '#### N', the
            share of solutions whose right last number is likelier than a wrong one is
            measured too. A file, a dataset, a domain for its retention set, or the
            retention part of an anchor.
        grammar: Also measure the share of minimal pairs of BLiMP whose grammatical
            sentence is likelier; the default if OGS_DATA has them.
        out: Folder of the outputs, one per selection.
    """

    selections: tuple[Path, ...] = field(
        metadata={"positional": True, "metavar": "SELECTION"}
    )
    test: str = field(metadata={"metavar": "FILE_OR_DOMAIN"})
    retention: str = field(metadata={"metavar": "FILE_OR_NAME", "known": ANCHORS})
    grammar: bool = False
    out: Path = Path("finetuned")


def run(options: Options) -> None:
    """Fine-tune on each selection in turn and print a table of the results."""
    settings = settings_of(FinetuneSettings, options)
    selections = [_load_selection(folder) for folder in options.selections]
    _check_names([name for name, *_ in selections])
    test = _held_out(options.test, "test", options.reading())
    retention = _held_out(options.retention, "retention", options.reading())
    grammar = grammar_pairs() if options.grammar or grammar_file() else []
    results: list[dict[str, Any]] = []
    for name, selector, samples in selections:
        folder = options.out / name
        with exclusive(folder):
            print(f"{name}: {len(samples)} samples", file=sys.stderr)
            results.append(
                finetune(
                    samples,
                    test,
                    retention,
                    settings,
                    folder,
                    grammar=grammar,
                    selector=selector,
                    before=results[0]["before"] if results else None,
                )
            )
    print(table(results))


def _held_out(name_or_file: str, role: str, reading: dict[str, Any]) -> list[Sample]:
    """Return a file's samples, or the held-out set `role` of a domain or anchor."""
    if is_file_or_dataset(name_or_file):
        return read_samples(name_or_file, **reading)
    if role == "retention" and name_or_file in ANCHORS:
        return load_anchor(name_or_file)[1]
    known = domains()
    if name_or_file not in known:
        raise unknown_name("file or domain", name_or_file, known)
    domain = known[name_or_file]()
    if role == "test":
        return domain.test
    return [sample for samples in domain.retention.values() for sample in samples]


def _load_selection(folder: Path) -> tuple[str, str, list[Sample]]:
    """Return the name, the selector and the samples of a selection."""
    selection = Selection.load(folder)
    file = folder / LINES
    if file.is_file() and b'"prompt"' not in file.read_bytes():
        raise InputError(
            f"{file}: holds ids without texts; run `ogs select` again with the texts "
            "that the bundle was sketched from"
        )
    samples = read_samples(file)
    if [sample.id for sample in samples] != selection.ids:
        raise InputError(
            f"{file}: its samples are not those named in {SUMMARY}; run `ogs select` "
            "again"
        )
    return folder.resolve().name, Path(selection.agent).name, samples


def _check_names(names: Sequence[str]) -> None:
    """Check that names differ, since each selection's results have a folder."""
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"selection '{name}': two folders have this name, which names the "
                "folder of the results; rename one"
            )
