"""Read safetensors files in part, without keeping them in memory."""

import functools
import json
import math
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ogs_env.errors import InputError

_DTYPES: dict[str, Any] = {
    "F16": np.float16,
    "F32": np.float32,
    "I32": np.int32,
    "I64": np.int64,
    "U64": np.uint64,
}
# Each open map occupies a file descriptor, of which a process may have 256 on some
# systems; bundles have thousands of files.
_OPEN_FILES = 64
# Bytes of the largest file that stays in memory while it is open.
_KEPT = 2**21
# Without O_BINARY, Windows changes line ends.
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)


class TensorFile:
    """The tensors of a safetensors file: its header in memory, its data on the disk.

    The format is 8 bytes of header length, a JSON header and the raw arrays.

    Args:
        path: The file.

    Attributes:
        path: As given.
        shapes: Shape of each tensor by name.
        dtypes: Type of each tensor by name.

    Raises:
        InputError: If the file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype[Any]] = {}
        self._offsets: dict[str, int] = {}
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
            for name, entry in header.items():
                if name != "__metadata__":
                    self._add(name, entry, 8 + length, status.st_size)
        # Whatever is wrong in a damaged header, the remedy is the same.
        except (
            *(OSError, ValueError, KeyError, TypeError, AttributeError, IndexError),
            *(MemoryError, OverflowError, RecursionError),
        ) as error:
            raise InputError(f"{path}: is no safetensors file ({error})") from None
        self._status = _identity(status)

    def _add(self, name: str, entry: Any, data: int, size: int) -> None:
        """Add a tensor of the header; `data` is where the arrays begin."""
        shape, dtype = tuple(entry["shape"]), np.dtype(_DTYPES[entry["dtype"]])
        begin, end = entry["data_offsets"]
        if any(type(number) is not int or number < 0 for number in (*shape, begin)):
            raise ValueError(f"the shape or the place of tensor '{name}' is no count")
        if end - begin != math.prod(shape) * dtype.itemsize or data + end > size:
            raise ValueError(f"tensor '{name}' has another length than its shape")
        self.shapes[name], self.dtypes[name] = shape, dtype
        self._offsets[name] = data + begin

    def read(
        self, name: str, rows: slice | NDArray[np.integer] = slice(None)
    ) -> NDArray[Any]:
        """Return a copy of rows of a tensor.

        Raises:
            InputError: If the file was changed or removed since it was opened.
        """
        opened = _opened(self)
        values = opened.view(name)[rows]
        if isinstance(rows, slice):
            values = values.copy()
        opened.release()
        return values

    def read_all(self, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return copies of several tensors, by name.

        Raises:
            InputError: If the file was changed or removed since it was opened.
        """
        opened = _opened(self)
        tensors = {name: opened.view(name).copy() for name in names}
        opened.release()
        return tensors

    def map(self) -> mmap.mmap:
        """Return a new read-only map of the whole file.

        Raises:
            InputError: If the file was changed or removed since it was opened.
        """
        try:
            file = os.open(self.path, _READ)
            try:
                if _identity(os.fstat(file)) == self._status:
                    return mmap.mmap(file, 0, access=mmap.ACCESS_READ)
            finally:
                os.close(file)
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be read ({error.strerror}); put it back, and "
                "load the bundle again"
            ) from error
        raise InputError(
            f"{self.path}: was changed after its bundle was loaded; load it again"
        )

    def view(self, name: str, data: mmap.mmap) -> NDArray[Any]:
        """Return a tensor as a view of the file's map."""
        shape, begin = self.shapes[name], self._offsets[name]
        flat = np.frombuffer(data, self.dtypes[name], math.prod(shape), begin)
        return flat.reshape(shape)


class _Opened:
    """A map of a file, and views of its tensors."""

    def __init__(self, file: TensorFile) -> None:
        self._file, self._data = file, file.map()
        self._views: dict[str, NDArray[Any]] = {}
        # Pages of a mapped file count as the process's memory until they are released.
        self._is_released = len(self._data) > _KEPT and hasattr(self._data, "madvise")

    def view(self, name: str) -> NDArray[Any]:
        if name not in self._views:
            self._views[name] = self._file.view(name, self._data)
        return self._views[name]

    def release(self) -> None:
        if self._is_released:
            self._data.madvise(mmap.MADV_DONTNEED)


@functools.lru_cache(maxsize=_OPEN_FILES)
def _opened(file: TensorFile) -> _Opened:
    """Return an open file; those used last stay open."""
    return _Opened(file)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns
