"""Read and write samples; a sample is a prompt and its response, with a stable id."""

import gzip
import hashlib
import itertools
import json
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from ogs_env.data.records import Turn, texts_of
from ogs_env.errors import InputError
from ogs_env.files import whole_file

if TYPE_CHECKING:
    import datasets

MAX_RESPONSE_CHARACTERS = 20_000
_GZIP_MAGIC = b"\x1f\x8b"
_OTHERS = {
    b"PAR1": "parquet",
    b"BZh": "bz2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
"""First bytes of files that are often given for JSON lines."""


def sample_id(prompt: str, response: str, messages: Sequence[Turn] = ()) -> str:
    r"""Return the stable id of a prompt with its response, or of a chat.

    Args:
        prompt: The prompt.
        response: The response.
        messages: The turns before the response, unless the prompt is the only one.

    Returns:
        The first 16 hex digits of sha256(prompt + "\x1f" + response), to which each
        turn adds "\x1f" + role + "\x1f" + content.
    """
    texts = [prompt, response, *itertools.chain.from_iterable(messages)]
    return hashlib.sha256("\x1f".join(texts).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and the response that a model should learn to give.

    Attributes:
        prompt: The user's turn, or a chat's turns joined into one text; may be empty.
        response: The assistant's turn; never empty. Only its tokens have a loss.
        source: Name of the collection it comes from.
        fields: The record's further fields, as read.
        messages: A chat's turns before the response; empty if the prompt is a single
            user turn.
    """

    prompt: str
    response: str
    source: str = ""
    fields: dict[str, Any] = field(default_factory=dict, compare=False, hash=False)
    messages: tuple[Turn, ...] = ()

    @property
    def id(self) -> str:
        """The stable id, 16 hex digits."""
        return sample_id(self.prompt, self.response, self.messages)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The turns before the response."""
        return self.messages or (Turn("user", self.prompt),)

    def texts(self) -> dict[str, Any]:
        """Return the texts as fields of a record that `read_samples` can read."""
        pair = {"prompt": self.prompt, "response": self.response}
        if not self.messages:
            return pair
        chat = [*self.messages, Turn("assistant", self.response)]
        return {**pair, "messages": [turn._asdict() for turn in chat]}


@dataclass(frozen=True, kw_only=True)
class FieldOptions:
    """Fields of JSON lines that hold the texts.

    Attributes:
        prompt_field: Name of the field that holds the prompt.
        response_field: Name of the field that holds the response.
    """

    prompt_field: str = "prompt"
    response_field: str = "response"

    def fields(self) -> dict[str, str]:
        """Return the names as arguments of `read_samples`."""
        return {
            "prompt_field": self.prompt_field,
            "response_field": self.response_field,
        }


class CutResponse(UserWarning):
    """Warning: a response was longer than the limit and was cut."""


def read_samples(
    path: str | Path,
    *,
    prompt_field: str = "prompt",
    response_field: str = "response",
    source: str | None = None,
    max_response_characters: int = MAX_RESPONSE_CHARACTERS,
) -> list[Sample]:
    """Read samples from a JSON lines file, plain or gzipped.

    A line is an object with a prompt and a response field, or one of the formats that
    `ogs_env.data.records.texts_of` knows. Blank lines are skipped.

    Args:
        path: The file; its first bytes show whether it is gzipped.
        prompt_field: Name of the field that holds the prompt.
        response_field: Name of the field that holds the response.
        source: Source of all samples; by default a record's field `source`, or else
            the file's name without its endings.
        max_response_characters: Longer responses are cut, with a `CutResponse`
            warning.

    Returns:
        The samples in the file's order. A record's further fields are in
        `Sample.fields`; an `id` other than the sample's is there as `original_id`.

    Raises:
        InputError: If the file or one of its lines cannot be used.
    """
    path = Path(path)
    stem = path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".json")
    samples = [
        _sample(
            _record(line, f"{path}:{number}"),
            f"{path}:{number}",
            prompt_field,
            response_field,
            (source, stem),
            max_response_characters,
        )
        for number, line in _lines(path)
    ]
    if not samples:
        raise InputError(
            f"{path}: an empty pool; expected JSON lines with '{prompt_field}' and "
            f"'{response_field}'"
        )
    return samples


def from_dataset(
    dataset: "datasets.Dataset",
    *,
    prompt_field: str = "prompt",
    response_field: str = "response",
    source: str | None = None,
    max_response_characters: int = MAX_RESPONSE_CHARACTERS,
) -> list[Sample]:
    """Read samples from one split of a Hugging Face dataset.

    The arguments are those of `read_samples`; the default of `source` is the dataset's
    name. Sample `i` is row `i`, so selections index the dataset directly.

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
    samples = [
        _sample(
            cast("Mapping[str, Any]", row),
            f"row {number}",
            prompt_field,
            response_field,
            (source, name),
            max_response_characters,
        )
        for number, row in enumerate(dataset)
    ]
    if not samples:
        raise InputError("the dataset has no rows: an empty pool")
    return samples


def write_samples(path: str | Path, samples: Iterable[Sample]) -> None:
    """Write samples as JSON lines that `read_samples` reads back."""
    with (
        whole_file(Path(path)) as temporary,
        temporary.open("w", encoding="utf-8") as file,
    ):
        for sample in samples:
            record = {
                "id": sample.id,
                **sample.texts(),
                "source": sample.source,
            }
            file.write(json.dumps({**sample.fields, **record}, ensure_ascii=False))
            file.write("\n")


def without_duplicates(samples: Iterable[Sample]) -> tuple[list[Sample], list[int]]:
    """Return the first sample of each id, in order, and their places in `samples`."""
    first: dict[str, tuple[Sample, int]] = {}
    for place, sample in enumerate(samples):
        first.setdefault(sample.id, (sample, place))
    return [sample for sample, _ in first.values()], [p for _, p in first.values()]


def check_disjoint(named: Mapping[str, Iterable[Sample]]) -> None:
    """Check that no two roles share a sample.

    Args:
        named: Samples of each role, such as `{"pool": ..., "test": ...}`.

    Raises:
        InputError: If two do; it names the sample and both roles.
    """
    role_of: dict[str, str] = {}
    for role, samples in named.items():
        for sample in samples:
            other = role_of.setdefault(sample.id, role)
            if other != role:
                raise InputError(
                    f'the same sample (id {sample.id}, "{beginning(sample.prompt)}") '
                    f"is in both {other} and {role}; remove it from one"
                )


def beginning(text: str, characters: int = 40) -> str:
    """Shorten a text to a part of one line, for error messages."""
    line = " ".join(text.split())
    return line if len(line) <= characters else f"{line[:characters].rstrip()}..."


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, bytes) of the lines that are not blank."""
    number = 0
    try:
        with path.open("rb") as raw:
            start = raw.peek(8)  # a pipe cannot be read again from the start
            for magic, name in _OTHERS.items():
                if start.startswith(magic):
                    raise InputError(
                        f"{path}: is a {name} file; expected JSON lines, plain or "
                        "gzipped; convert it"
                    )
            zipped = start.startswith(_GZIP_MAGIC)
            file = cast("IO[bytes]", gzip.GzipFile(fileobj=raw) if zipped else raw)
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected JSON lines") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; expected JSON lines") from None
    except PermissionError:
        raise InputError(f"{path}: cannot be read (permission denied)") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}: truncated or corrupt gzip after line {number} ({error}); copy "
            "the file again"
        ) from None


def _record(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(
            f"{place}: not UTF-8 (byte {error.start + 1} of the line); save the file "
            "as UTF-8"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{place}: is no JSON ({error}); expected one object per line"
        ) from None
    if not isinstance(record, dict):
        raise InputError(
            f"{place}: expected a JSON object, found {type(record).__name__}"
        )
    return record


def _sample(
    record: Mapping[str, Any],
    place: str,
    prompt_field: str,
    response_field: str,
    sources: tuple[str | None, str],
    limit: int,
) -> Sample:
    prompt, response, messages, used = texts_of(
        record, place, prompt_field, response_field
    )
    if len(response) > limit:
        warnings.warn(
            f"{place}: response of {len(response):,} characters cut to its first "
            f"{limit:,}",
            CutResponse,
            stacklevel=4,
        )
        response = response[:limit]
    given, default = sources
    source = given or record.get("source") or default
    if not isinstance(source, str):
        raise InputError(
            f"{place}: field 'source' should be text, found {type(source).__name__}"
        )
    used |= {"source", "id"}
    fields = {name: value for name, value in record.items() if name not in used}
    identity = record.get("id")
    if identity is not None and identity != sample_id(prompt, response, messages):
        fields["original_id"] = identity
    return Sample(prompt, response, source, fields, messages)
