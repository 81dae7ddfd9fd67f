"""Orphans: files in the image folders and tars of an ingest that no annotation names.

Names are kept as 64-bit digests, so a hundred million of them take under a gigabyte. Two names with the same digest
(one pair among about six billion names) can hide an orphan, never invent one.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.datasets.files import file_of
from data_pipelines.ingest.files.image_sources import check_name, member_names
from data_pipelines.ingest.files.leftovers import files_below
from data_pipelines.ingest.units import CAPTION_ENDINGS, IMAGE_ENDINGS

ORPHANS_FILE = "orphans.parquet"
SCHEMA = pa.schema([("file", pa.string())])  # "<folder or tar>/<name in it>"


def write_orphans(records: Sequence[Path], images: Sequence[Path], output: Path) -> int:
    """Write `orphans.parquet` for record files and their image folders and tars; returns the number of orphans.

    `records` are the Parquet files of the ingested shards. Reads only folder listings and the headers of tars.
    """
    named = _digests(name for path in records for name in _names_in(path))
    files = [f"{source.name}/{name}" for source in images for name in _unreferenced(source, named)]
    pq.write_table(pa.table({"file": sorted(files)}, schema=SCHEMA), output / ORPHANS_FILE, compression="zstd")
    return len(files)


def read_orphans(folder: Path) -> Iterator[str]:
    """The files that `write_orphans` or `merge_orphans` wrote; empty if the folder has none."""
    path = file_of(folder, ORPHANS_FILE)
    if path.exists():
        for batch in pq.ParquetFile(path).iter_batches(columns=["file"]):
            yield from batch.column(0).to_pylist()


def merge_orphans(folders: Sequence[Path], output: Path) -> int:
    """Write the orphans of several ingested folders as one file; returns their number."""
    files = sorted({file for folder in folders for file in read_orphans(folder)})
    pq.write_table(pa.table({"file": files}, schema=SCHEMA), output / ORPHANS_FILE, compression="zstd")
    return len(files)


def _names_in(path: Path) -> Iterator[str]:
    for batch in pq.ParquetFile(path).iter_batches(columns=["image_names"]):
        for names in batch.column(0).to_pylist():
            yield from names or ()


def _digests(names: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Sorted digests of the valid file names."""
    found = np.fromiter((_digest(_plain(name)) for name in names if check_name(name) is None), dtype=np.uint64)
    return np.unique(found)


def _unreferenced(source: Path, named: npt.NDArray[np.uint64]) -> Iterator[str]:
    for name in files_below(source, leftovers=True) if source.is_dir() else sorted(member_names(source)):
        if not _is_named(name, named):
            yield name.encode("utf-8", "replace").decode()


def _is_named(name: str, named: npt.NDArray[np.uint64]) -> bool:
    """Whether a record names a file, or the image beside which it holds the words."""
    path = PurePosixPath(name)
    beside = IMAGE_ENDINGS if path.suffix.lower() in (".json", *CAPTION_ENDINGS) else ()
    for known in (name, *(str(path.with_suffix(ending)) for ending in beside)):
        digest = np.uint64(_digest(known))
        position = int(np.searchsorted(named, digest))
        if position < len(named) and named[position] == digest:
            return True
    return False


def _plain(name: str) -> str:
    return str(PurePosixPath(name))


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
