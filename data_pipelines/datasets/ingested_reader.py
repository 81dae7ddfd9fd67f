"""Readers of ingested shards: records, and the bytes of their images."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.datasets.files import file_of, open_part
from models.errors import DataError

ROWS_AT_ONCE = 1024


class ShardImages:
    """The images of one ingested shard by SHA-256."""

    def __init__(self, records: Path, name: str) -> None:
        index = shard_rows(file_of(records, f"index/{name}.parquet"), ["sha256", "offset", "bytes"])
        self._spans = {row["sha256"]: (row["offset"], row["bytes"]) for row in index}
        self._file = file_of(records, f"images/{name}.tar").open("rb")

    def __enter__(self) -> "ShardImages":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, digest: str) -> bytes:
        offset, size = self._spans[digest]
        self._file.seek(offset)
        return self._file.read(size)


def record_shards(records: Path) -> list[str]:
    """Names of the shards of an ingested folder, in order."""
    return sorted(path.stem for path in (records / "records").glob("*.parquet"))


def records_path(records: Path, name: str) -> Path:
    """The table with the records of one shard of an ingested folder."""
    return file_of(records, f"records/{name}.parquet")


def num_records(records: Path, name: str) -> int:
    """The records of one shard, from the footer of its table. Raises: DataError: it is missing or damaged."""
    try:
        with open_part(records, f"records/{name}.parquet") as file:
            return int(pq.read_metadata(file).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{records}: shard {name}: not a table that can be read ({error}); make it again") from error


def shard_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of one file of a shard, in order. Raises: DataError: the file is missing or damaged."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns, use_threads=False):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a table that can be read ({error}); make it again") from error
