"""Read samples from files and datasets."""

import dataclasses
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ogs_env.data.record_files import Record, load_records, records_of, stem
from ogs_env.data.records import FORMATS, format_of, formats_with, texts_of
from ogs_env.data.samples import Sample
from ogs_env.errors import InputError

if TYPE_CHECKING:
    import datasets

MAX_RESPONSE_CHARACTERS = 20_000
_SHOWN = 3
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How to read files of samples.

    Attributes:
        format: Format of all records; by default each is recognised by its fields.
        prompt_field: Name of the field that holds the prompt.
        response_field: Name of the field that holds the response.
        source_field: Name of the field that holds a sample's source; without it the
            source is the file's name.
        strict: Stop at the first record that cannot be used, instead of leaving it out.
    """

    format: str | None = field(default=None, metadata={"choices": tuple(FORMATS)})
    prompt_field: str = "prompt"
    response_field: str = "response"
    source_field: str = "source"
    strict: bool = False

    def reading(self) -> dict[str, Any]:
        """Return the options as arguments of `read_samples`."""
        names = [own.name for own in dataclasses.fields(ReadOptions)]
        return {name: getattr(self, name) for name in names}


class ReadWarning(UserWarning):
    """Warning: a part of the data was cut or left out."""


def read_samples(
    where: str | Path,
    *,
    format: str | None = None,
    prompt_field: str = "prompt",
    response_field: str = "response",
    source: str | None = None,
    source_field: str = "source",
    strict: bool = True,
    max_response_characters: int = MAX_RESPONSE_CHARACTERS,
) -> list[Sample]:
    """Read samples from a file, or from a dataset on the Hugging Face hub.

    A file is JSON lines, a JSON array or parquet, plain or compressed with gzip, bz2,
    xz or zstd. If neither a format nor fields are named, a record is recognised by its
    fields, in this order: `prompt` and `response`; `instruction`, `input` and `output`
    (Alpaca); `prompt` and `completion`, texts or messages (TRL); a chat under
    `messages` or `conversations` (ShareGPT); a `text` alone, which is a response
    without a prompt. What was recognised is logged (`logging.INFO`).

    Args:
        where: The file, or a dataset as `owner/name[:config][@split]`.
        format: The format of all records, a name of `ogs_env.data.records.FORMATS`.
        prompt_field: Name of the field that holds the prompt.
        response_field: Name of the field that holds the response.
        source: Source of all samples; by default a record's own, or else the file's
            name without its endings.
        source_field: Name of the field that holds a record's source.
        strict: Raise for the first record that cannot be used. If False, such records
            are left out, with one `ReadWarning` that counts them by reason.
        max_response_characters: Longer responses are cut, with a `ReadWarning`.

    Returns:
        The samples in the file's order. A record's further fields are in
        `Sample.fields`; an `id` other than the sample's is there as `original_id`.

    Raises:
        InputError: If the file, or with `strict` one of its records, cannot be used.
    """
    reader = _Reader(
        name=f"{where}",
        formats=formats_with(prompt_field, response_field, format),
        source=source,
        source_field=source_field,
        default_source=stem(where),
        strict=strict,
        limit=max_response_characters,
    )
    return reader.read(load_records(where))


def from_dataset(
    dataset: "datasets.Dataset",
    *,
    format: str | None = None,
    prompt_field: str = "prompt",
    response_field: str = "response",
    source: str | None = None,
    source_field: str = "source",
    strict: bool = True,
    max_response_characters: int = MAX_RESPONSE_CHARACTERS,
) -> list[Sample]:
    """Read samples from one split of a Hugging Face dataset.

    The arguments are those of `read_samples`; the default of `source` is the dataset's
    name. `Sample.row` is the row in the dataset, and selections have these rows, so
    that they index the dataset directly.

    Raises:
        InputError: If it holds several splits, no rows, or a row that cannot be used.
    """
    if isinstance(dataset, Mapping):
        splits = ", ".join(map(str, dataset))
        raise InputError(
            f"expected one split of a dataset, found a dictionary of splits ({splits});"
            f" pass one, such as dataset['{next(iter(dataset), 'train')}']"
        )
    name = getattr(getattr(dataset, "info", None), "dataset_name", None) or "dataset"
    reader = _Reader(
        name=name,
        formats=formats_with(prompt_field, response_field, format),
        source=source,
        source_field=source_field,
        default_source=name,
        strict=strict,
        limit=max_response_characters,
    )
    return reader.read(records_of(dataset, name))


@dataclass(frozen=True)
class _Reader:
    """Makes samples of records, and counts what is recognised and left out."""

    name: str
    formats: Mapping[str, tuple[str, ...]]
    source: str | None
    source_field: str
    default_source: str
    strict: bool
    limit: int
    recognised: Counter[str] = field(default_factory=Counter)
    unusable: list[tuple[str, InputError]] = field(default_factory=list)
    other_parts: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)

    def read(self, records: Iterable[Record]) -> list[Sample]:
        samples = list(self._samples(records))
        if not samples:
            if self.unusable:
                place, error = self.unusable[0]
                raise InputError(f"{place}: {error}") from error
            raise InputError(f"{self.name}: has no records; expected at least one")
        self._announce(len(samples))
        return samples

    def _samples(self, records: Iterable[Record]) -> Iterator[Sample]:
        for record in records:
            try:
                yield self._sample(record)
            except InputError as error:
                if self.strict:
                    raise InputError(f"{record.place}: {error}") from error
                self.unusable.append((record.place, error))

    def _sample(self, record: Record) -> Sample:
        fields = record.value
        if isinstance(fields, InputError):
            raise fields
        name = format_of(fields, self.formats)
        texts = texts_of(fields, name, self.formats[name])
        response = texts.response
        if len(response) > self.limit:
            response = response[: self.limit]
            self.cut.append(record.place)
        if texts.left_out:
            self.other_parts.append(record.place)
        self.recognised[name] += 1
        used = texts.used | {"id"}
        if isinstance(fields.get(self.source_field), str):
            used.add(self.source_field)
        sample = Sample(
            prompt=texts.prompt,
            response=response,
            source=self._source(fields),
            fields={key: value for key, value in fields.items() if key not in used},
            messages=texts.messages,
            place=record.place,
            row=record.row,
        )
        if fields.get("id") not in (None, sample.id):
            sample.fields["original_id"] = fields["id"]
        return sample

    def _source(self, fields: Mapping[str, Any]) -> str:
        """Return the given source, that of the record, or the default one."""
        if self.source:
            return self.source
        own = fields.get(self.source_field)
        if own is None or own == "":
            return self.default_source
        if isinstance(own, str):
            return own
        if self.source_field == ReadOptions.source_field:
            return self.default_source  # a field of that name that holds something else
        return str(own)

    def _announce(self, count: int) -> None:
        """Log the formats, and warn of what was cut or left out."""
        kinds = self.recognised.most_common()
        found = ", ".join(f"{name} ({number:,})" for name, number in kinds)
        formats = kinds[0][0] if len(kinds) == 1 else found
        _log.info("%s: %s records, read as %s", self.name, f"{count:,}", formats)
        notes = []
        if self.unusable:
            total = count + len(self.unusable)
            notes.append(
                f"left out {len(self.unusable):,} of {total:,} records: "
                f"{'; '.join(self._reasons())}; --strict stops at the first"
            )
        if self.cut:
            notes.append(
                f"responses cut to their first {self.limit:,} characters: "
                f"{len(self.cut):,} ({self._shown(self.cut)})"
            )
        if self.other_parts:
            notes.append(
                f"records of which content parts that are no text are left out: "
                f"{len(self.other_parts):,} ({self._shown(self.other_parts)})"
            )
        for note in notes:
            warnings.warn(f"{self.name}: {note}", ReadWarning, stacklevel=4)

    def _reasons(self) -> Iterator[str]:
        """Yield reason, number and first places of records that cannot be used."""
        by_reason: dict[str, list[str]] = {}
        for place, error in self.unusable:
            # Without the remedy, and what differs between records of a kind.
            reason = re.split(r"; | \(", str(error))[0]
            reason = re.sub(r"message \d+", "a message", reason)
            by_reason.setdefault(reason, []).append(place)
        kinds = sorted(by_reason.items(), key=lambda kind: -len(kind[1]))
        for reason, places in kinds[:_SHOWN]:
            yield f"{reason}, {len(places):,} ({self._shown(places)})"
        if len(kinds) > _SHOWN:
            yield "..."

    def _shown(self, places: list[str]) -> str:
        """Return the first places; all but the first without the file's name."""
        first, *others = places[:_SHOWN]
        short = [place.removeprefix(self.name).lstrip(":, ") for place in others]
        more = [] if len(places) <= _SHOWN else ["..."]
        return ", ".join([first, *short, *more])
