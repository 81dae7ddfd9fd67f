"""Columns of equal length as files that every process of a node maps into memory, so that the node holds them once."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Columns = Mapping[str, tuple[str, int]]  # name -> dtype, values per row
Arrays = Mapping[str, npt.NDArray[Any]]


class ColumnWriter:
    """Appends rows to the files of some columns, `<prefix><name>` below a folder."""

    def __init__(self, folder: Path, prefix: str, columns: Columns) -> None:
        self._columns = columns
        self._stack = ExitStack()
        self._files = {name: self._stack.enter_context((folder / f"{prefix}{name}").open("wb")) for name in columns}
        self.num_rows = 0

    def append(self, values: Arrays) -> None:
        """Add rows: an array of each column."""
        counts = {len(values[name]) for name in self._columns}
        if len(counts) != 1:
            raise ValueError(f"columns of {sorted(counts)} rows; expected as many rows in each")
        for name, (dtype, _) in self._columns.items():
            self._files[name].write(np.ascontiguousarray(values[name], dtype=dtype).tobytes())
        self.num_rows += counts.pop()

    def close(self) -> None:
        self._stack.close()


@contextmanager
def writing_columns(folder: Path, prefix: str, columns: Columns) -> Iterator[ColumnWriter]:
    writer = ColumnWriter(folder, prefix, columns)
    try:
        yield writer
    finally:
        writer.close()


def open_columns(folder: Path, prefix: str, columns: Columns, num_rows: int) -> dict[str, npt.NDArray[Any]]:
    """The columns, mapped read-only. Raises: ValueError, OSError if a file is missing or has another length."""
    found: dict[str, npt.NDArray[Any]] = {}
    for name, (dtype, width) in columns.items():
        path = folder / f"{prefix}{name}"
        expected = num_rows * width * np.dtype(dtype).itemsize
        if path.stat().st_size != expected:
            raise ValueError(f"{path.name} has {path.stat().st_size} bytes, expected {expected}")
        shape = (num_rows, width) if width > 1 else (num_rows,)
        # An empty file cannot be mapped.
        found[name] = np.memmap(path, dtype=dtype, mode="r", shape=shape) if expected else np.zeros(shape, dtype)
    return found
