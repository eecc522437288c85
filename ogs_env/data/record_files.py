"""Load the records of a file, or of a dataset on the Hugging Face hub.

A file is JSON lines, a JSON array or parquet, plain or compressed. Its first bytes tell
which; its name does not matter.
"""

import bz2
import codecs
import gzip
import io
import itertools
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from ogs_env.data.samples import beginning
from ogs_env.errors import InputError

if TYPE_CHECKING:
    import datasets

EXPECTED = (
    "JSON lines, a JSON array or parquet, plain or compressed, or a dataset of the "
    "Hugging Face hub as OWNER/NAME[:CONFIG][@SPLIT]"
)
_ENDINGS = re.compile(r"(\.(jsonl?|parquet|gz|bz2|xz|zst))+$")
_HUB_NAME = re.compile(r"(?:[\w.-]+/)?[\w.-]+(?::[^@]+)?(?:@.+)?", re.ASCII)
_HUB_TIMEOUT = 5.0  # seconds


class Record(NamedTuple):
    """One record.

    Attributes:
        row: Its number in the file, from 0.
        place: Where it is, for messages: `pool.jsonl:12` or `pool.parquet, row 11`.
        value: Its fields, or the error if the line holds none.
    """

    row: int
    place: str
    value: Mapping[str, Any] | InputError


def load_records(where: str | Path) -> Iterator[Record]:
    """Yield the records of a file, or of a dataset on the Hugging Face hub.

    Args:
        where: A file, or `owner/name[:config][@split]` if there is no file of this
            name; the split is train by default.

    Raises:
        InputError: If there is no such file or dataset, or it is damaged.
    """
    hub_name = _hub_name(where)
    if hub_name is not None:
        yield from records_of(_hub_rows(where, *hub_name), f"{where}")
        return
    path = Path(where)
    with _opened(path) as raw:
        file, kind = _unpacked(raw, path)
        try:
            start = file.peek(1).removeprefix(codecs.BOM_UTF8).lstrip()
            if start.startswith(b"PAR1"):
                kind = "parquet"
                yield from records_of(_parquet(file), f"{path}")
            elif start.startswith(b"["):
                yield from _array(file.read(), path)
            else:
                yield from _lines(file, path)
        except InputError:
            raise
        except (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
            raise InputError(
                f"{path}: truncated or corrupt {kind} ({error}); copy the file again"
            ) from None


def records_of(rows: Iterable[Any], name: str) -> Iterator[Record]:
    """Yield rows as records; rows count from 0, as in a `datasets.Dataset`."""
    for number, row in enumerate(rows):
        yield Record(number, f"{name}, row {number}", _checked(row))


def is_file_or_dataset(name: str) -> bool:
    """Return whether this is a file or a dataset, and not one of some known names."""
    return Path(name).exists() or bool(set(name) & set("./:@"))


def stem(where: str | Path) -> str:
    """Return the name of a file without its endings, or of a dataset on the hub."""
    hub_name = _hub_name(where)
    if hub_name is not None:
        return hub_name[0].rpartition("/")[2]
    return _ENDINGS.sub("", Path(where).name)


def hub_answers() -> bool:
    """Return whether the Hugging Face hub can be reached, within seconds.

    `datasets` itself retries for half a minute. In the hub's offline mode
    (`HF_HUB_OFFLINE=1`) the result is true, because `datasets` then reads only its
    cache.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return True
    try:
        get_session().head(constants.ENDPOINT, timeout=_HUB_TIMEOUT)
    # The exception's class depends on the HTTP library under huggingface_hub.
    except Exception:
        return False
    return True


def load_from_hub(
    repository: str, config: str | None, split: str
) -> "datasets.Dataset":
    """Load one split of a dataset on the Hugging Face hub.

    Raises:
        InputError: If it cannot be loaded; says why, without the dataset's name.
    """
    try:
        import datasets
    except ImportError:
        raise InputError(
            "the package datasets is not installed (pip install datasets)"
        ) from None
    if not hub_answers():
        raise InputError("the Hugging Face hub cannot be reached")
    try:
        return datasets.load_dataset(repository, config, split=split)
    # Any failure of the hub is the same to a user: the rows are not there.
    except Exception as error:
        raise InputError(
            f"the Hugging Face hub did not serve {repository} "
            f"({beginning(str(error), 200)})"
        ) from error


def _hub_name(where: str | Path) -> tuple[str, str | None, str] | None:
    """Return repository, config and split if this names no file but a dataset."""
    name = str(where)
    if Path(where).exists() or not _HUB_NAME.fullmatch(name):
        return None
    if _ENDINGS.search(name) or not set(name) & set("/:@"):
        return None
    name, _, split = name.partition("@")
    repository, _, config = name.partition(":")
    return repository, config or None, split or "train"


def _hub_rows(
    where: str | Path, repository: str, config: str | None, split: str
) -> "datasets.Dataset":
    try:
        return load_from_hub(repository, config, split)
    except InputError as error:
        raise InputError(
            f"{where}: there is no such file, and as a dataset it cannot be loaded: "
            f"{error}; expected {EXPECTED}"
        ) from error


def _opened(path: Path) -> io.BufferedReader:
    """Open a file.

    Raises:
        InputError: If there is no such file or it cannot be read.
    """
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected {EXPECTED}") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; expected {EXPECTED}") from None
    except PermissionError:
        raise InputError(f"{path}: cannot be read (permission denied)") from None


def _unpacked(raw: io.BufferedReader, path: Path) -> tuple[io.BufferedReader, str]:
    """Return a file's uncompressed bytes, and its compression for error lines."""
    start = raw.peek(8)  # a pipe cannot be read again from the start
    if start.startswith(b"PK\x03\x04"):
        raise InputError(f"{path}: is a zip file; expected {EXPECTED}; unpack it")
    for magic, (name, unpack) in _COMPRESSIONS.items():
        if start.startswith(magic):
            return io.BufferedReader(unpack(raw)), name
    return raw, "file"


def _zstd(raw: IO[bytes]) -> Any:
    import pyarrow

    return pyarrow.input_stream(raw, compression="zstd")


_COMPRESSIONS: dict[bytes, tuple[str, Callable[[IO[bytes]], Any]]] = {
    b"\x1f\x8b": ("gzip", lambda raw: gzip.GzipFile(fileobj=raw)),
    b"BZh": ("bz2", bz2.BZ2File),
    b"\xfd7zXZ": ("xz", lzma.LZMAFile),
    b"\x28\xb5\x2f\xfd": ("zstd", _zstd),
}
"""First bytes of compressed files, with the compression and what unpacks it."""


def _parquet(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a parquet file."""
    import pyarrow.parquet

    whole = file if file.seekable() else io.BytesIO(file.read())
    for batch in pyarrow.parquet.ParquetFile(whole).iter_batches():
        yield from batch.to_pylist()


def _array(content: bytes, path: Path) -> Iterator[Record]:
    """Yield the records of a JSON array."""
    try:
        values = _parsed(content, "an array of objects")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    yield from records_of(values, f"{path}")


def _lines(file: Iterable[bytes], path: Path) -> Iterator[Record]:
    """Yield the records of JSON lines; blank lines are none."""
    rows = itertools.count()
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                value = _checked(_parsed(line, "one object per line"))
            except InputError as error:
                value = error
            yield Record(next(rows), f"{path}:{number}", value)


def _parsed(content: bytes, expected: str) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(
            f"not UTF-8 (byte {error.start + 1}); save the file as UTF-8"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"is no JSON ({error}); expected {expected}") from None


def _checked(value: Any) -> Mapping[str, Any] | InputError:
    if isinstance(value, Mapping):
        return value
    return InputError(f"expected a JSON object, found {type(value).__name__}")
