"""Reads the ledgers of a curated dataset as Arrow tables, in batches, so that memory does not grow with the dataset."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from data_pipelines.datasets.reasons import RENAMED_REASONS

ROWS_AT_ONCE = 1 << 17
REASON = "reason"  # column
LATER_COLUMNS = {"language": pa.string(), "repairs": pa.list_(pa.string())}  # null if an older ledger lacks them
NO_ID = "found a sample_id that is not 64 digits of a SHA-256"
_DIGITS = np.full(256, 255, np.uint8)  # the value of each hexadecimal digit, 255 for any other character
_DIGITS[[ord(digit) for digit in "0123456789abcdef"]] = np.arange(16)
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: multiplying by it scatters near values
_OTHER_MIX = np.uint64(0xD6E8FEB86659FD93)  # any odd number without a pattern


def ledger_tables(dataset: CuratedDataset, columns: Sequence[str]) -> Iterator[Any]:
    """Tables of these columns over all shards, in order.

    Raises: DatasetError if a ledger is missing or damaged.
    """
    for shard in dataset.shards:
        path = dataset.folder / "ledger" / f"{shard}.parquet"
        try:
            with pq.ParquetFile(path) as file:
                present = [name for name in columns if name not in LATER_COLUMNS or name in file.schema_arrow.names]
                for batch in file.iter_batches(ROWS_AT_ONCE, columns=present, use_threads=False):
                    yield _with_missing_columns(pa.Table.from_batches([batch]), columns)
        except (OSError, pa.ArrowException, ValueError, KeyError) as error:
            if isinstance(error, DatasetError):
                raise
            raise DatasetError(f"{path}: not a ledger that can be read ({error}); curate again") from error


def _with_missing_columns(table: Any, columns: Sequence[str]) -> Any:
    for name in columns:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), LATER_COLUMNS[name]))
    return with_new_reasons(table.select(list(columns)))


def with_new_reasons(table: Any) -> Any:
    """The table, or batch, with the reasons of an older ledger in today's names."""
    if REASON not in table.schema.names:
        return table
    reasons = table[REASON]
    for old, new in RENAMED_REASONS.items():
        reasons = pc.if_else(pc.fill_null(pc.equal(reasons, old), False), new, reasons)
    return table.set_column(table.schema.names.index(REASON), REASON, reasons)


def id_prefixes(sample_ids: Any) -> npt.NDArray[np.uint64]:
    """The first 64 of the 256 bits of each id, as numbers. Raises: ValueError for a malformed id.

    The probability that any two ids of a hundred million agree in these bits is 0.0003.
    """
    if len(sample_ids) and pc.min_max(pc.binary_length(pc.fill_null(sample_ids, ""))).as_py() != {"min": 64, "max": 64}:
        raise ValueError(NO_ID)
    starts = pc.cast(pc.binary_slice(pc.cast(sample_ids, pa.binary()), 0, 16), pa.binary(16))
    array = starts.combine_chunks() if isinstance(starts, pa.ChunkedArray) else starts
    if not len(array):
        return np.zeros(0, np.uint64)
    digits = np.frombuffer(array.buffers()[1], np.uint8).reshape(-1, 16)[array.offset : array.offset + len(array)]
    values = _DIGITS[digits]
    if values.max() > 15:
        raise ValueError(NO_ID)
    packed = np.ascontiguousarray(values[:, 0::2] << np.uint8(4) | values[:, 1::2])
    return packed.view(">u8").ravel().astype(np.uint64)


def sorted_unique(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The distinct values in order; several times as fast as `np.unique`, which hashes."""
    ordered = np.sort(values)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def ranks(prefixes: npt.NDArray[np.uint64], salt: int) -> npt.NDArray[np.uint64]:
    """A pseudorandom rank for each id: the ids of lowest rank are a random choice that depends only on `salt`."""
    mixed = (prefixes ^ np.uint64(salt * int(_OTHER_MIX) % 2**64)) * _MIX  # overflow is intended
    return (mixed ^ (mixed >> np.uint64(32))) * _OTHER_MIX
