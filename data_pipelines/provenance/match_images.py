"""Small images of matched rows, for a page: from the dataset where the sample is kept, else from the ingested records.

Images of rows whose records are gone, or were not fetched from a remote store, are missing.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.datasets.ingested_reader import ShardImages, record_shards
from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from data_pipelines.datasets.samples import SampleError
from data_pipelines.images.limits import DecodeLimits
from data_pipelines.images.resizing import thumbnail
from data_pipelines.provenance.sample_search import Match
from models.errors import DataError

SIDE = 160  # pixels
SPAN_COLUMNS = ["sample_id", "shard", "offset", "span_bytes"]


def match_images(dataset: Path, records: Sequence[Path], matches: Sequence[Match]) -> dict[str, bytes]:
    """JPEGs of the first image of each match, by sample id. `records`: ingested folders that the dataset was made from.

    Raises: DatasetError: a ledger cannot be read.
    """
    found: dict[str, bytes] = {}
    by_ledger: dict[str, list[Match]] = defaultdict(list)
    for match in matches:
        by_ledger[match.ledger].append(match)
    owners = {name: path for path in records for name in record_shards(path)}
    opened = CuratedDataset(dataset)
    for ledger, rows in by_ledger.items():
        kept = {match.sample_id for match in rows if match.shard}
        images = dict(_kept(opened, ledger, kept)) if kept else {}
        left = [match for match in rows if match.sample_id not in images and match.images]
        images |= dict(_ingested(owners.get(ledger), ledger, left))
        for sample_id, data in images.items():
            small = thumbnail(data, SIDE, DecodeLimits())
            if small is not None:
                found[sample_id] = small
    return found


def match_captions(dataset: Path, matches: Sequence[Match]) -> dict[str, str]:
    """The caption of each match, where its ledger has one, by sample id.

    Raises: DatasetError: a ledger cannot be read.
    """
    found: dict[str, str] = {}
    for ledger in {match.ledger for match in matches}:
        ids = pa.array(sorted({match.sample_id for match in matches if match.ledger == ledger}))
        table = _ledger(dataset, ledger, ["sample_id", "caption"])
        rows = table.filter(pc.is_in(table["sample_id"], ids)).to_pylist()
        found |= {row["sample_id"]: row["caption"] for row in rows if row["caption"]}
    return found


def _ledger(dataset: Path, name: str, columns: list[str]) -> pa.Table:
    path = dataset / "ledger" / f"{name}.parquet"
    try:
        return pq.read_table(path, columns=columns, use_threads=False)
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        raise DatasetError(f"{path}: not a ledger that can be read ({error}); curate again") from error


def _kept(dataset: CuratedDataset, ledger: str, sample_ids: set[str]) -> Iterator[tuple[str, bytes]]:
    table = _ledger(dataset.folder, ledger, SPAN_COLUMNS)
    wanted = pc.and_(pc.is_in(table["sample_id"], pa.array(sorted(sample_ids))), pc.is_valid(table["shard"]))
    for row in table.filter(wanted).to_pylist():
        yield from _first_image(dataset, row)


def _first_image(dataset: CuratedDataset, row: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    if not dataset.tar_path(row["shard"]).exists():  # from a remote store only the tables are fetched
        return
    try:
        stored = dataset.read(row["shard"], row["offset"], row["span_bytes"])
        if stored.sample.images:
            yield row["sample_id"], stored.image_bytes(0)
    except SampleError:
        return


def _ingested(records: Path | None, shard: str, matches: Sequence[Match]) -> Iterator[tuple[str, bytes]]:
    if records is None or not matches or not (records / "images" / f"{shard}.tar").is_file():
        return
    try:
        with ShardImages(records, shard) as images:
            for match in matches:
                yield match.sample_id, images.read(match.images[0])
    except (DataError, KeyError, OSError):  # a view: `illume verify` reports what is damaged
        return
