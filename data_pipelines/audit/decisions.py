"""Lists the decision about every unit of input, one JSON line each, to check a curation against a known truth.

A unit is a line of a record file, a sample of a tar, a tar or broken file itself, or a file that no record names:
  {"where": "records.jsonl", "line": 17, "verdict": "keep"}
  {"where": "part.jsonl.gz", "line": null, "verdict": "keep:partial"}       a file that could not be read to its end
  {"where": "tars/a.tar", "member": "s00003", "verdict": "duplicate-of:s00001"}
  {"where": "file", "file": "images/Thumbs.db", "verdict": "drop:orphan_file"}
Archives are listed below "tars/", whatever their folder is called. Copies name the kept sample by its external id.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.datasets.ledgers import with_new_reasons
from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from data_pipelines.datasets.records import SOURCE_KEY
from data_pipelines.ingest.files.image_sources import TAR_ENDINGS
from data_pipelines.ingest.files.orphans import read_orphans
from data_pipelines.ingest.units import IMAGE_ENDINGS

COLUMNS = ["sample_id", "external_id", "source_file", "source_row", "verdict", "reason", "duplicate_of", "repairs"]
_COPIES = {"duplicate": "duplicate-of", "near_duplicate": "near-duplicate-of", "mirrored": "mirror-of"}


def write_decisions(folder: Path, out: Path) -> int:
    """Write the decisions of a curated dataset to `out`. Returns their number. Raises: DatasetError."""
    count = 0
    with out.open("w", encoding="utf-8") as file:
        for decision in decisions(folder):
            file.write(json.dumps(decision) + "\n")
            count += 1
    return count


def decisions(folder: Path) -> Iterator[dict[str, Any]]:
    """The decisions of a curated dataset, see the module. Reads the ledgers twice, first for the names of kept samples.

    Raises: DatasetError.
    """
    dataset = CuratedDataset(folder)
    paths = [folder / "ledger" / f"{shard}.parquet" for shard in dataset.shards]
    next_lines: dict[str, int] = {}  # by source: the line after the last one with a decision
    names = {row["sample_id"]: _unit_name(row) for row in _rows(paths) if row["verdict"] == "keep"}
    for path in paths:
        rows = list(_rows([path]))
        sources = {row["source_file"] for row in rows} | ({_empty_source(path)} if not rows else set())
        for source in sorted(filter(None, sources)):
            yield from _of_source(source, [row for row in rows if row["source_file"] == source], names, next_lines)
    for name in read_orphans(folder):
        yield {"where": "file", "file": name, "verdict": "drop:orphan_file"}


def _rows(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=COLUMNS):
                    yield from with_new_reasons(batch).to_pylist()
        except (OSError, pa.ArrowException, KeyError) as error:
            raise DatasetError(f"{path}: not a ledger that can be read ({error}); curate again") from error


def _empty_source(ledger: Path) -> str | None:
    """The source of a ledger without rows."""
    metadata = pq.read_schema(ledger).metadata or {}
    name = metadata.get(SOURCE_KEY.encode())
    return name.decode() if name is not None else None


def _of_source(
    source: str, rows: list[dict[str, Any]], names: Mapping[str, str], next_lines: dict[str, int]
) -> Iterator[dict[str, Any]]:
    """Decisions about one source in one ledger; `next_lines` carries over to the next ledger of a split source."""
    if not source.lower().endswith(TAR_ENDINGS):
        lines = {row["source_row"]: row for row in rows if row["source_row"] >= 0}
        if len(lines) < len(rows):
            yield {"where": source, "line": None, "verdict": _container_verdict(rows, list(lines.values()))}
        for number in range(next_lines.get(source, 0), max(lines, default=-1) + 1):
            verdict = _verdict(lines[number], names) if number in lines else "skip"  # a blank line
            yield {"where": source, "line": number + 1, "verdict": verdict}
            next_lines[source] = number + 1
        return
    where = f"tars/{source}"
    samples = [row for row in rows if row["source_row"] >= 0]
    yield {"where": where, "member": None, "verdict": _container_verdict(rows, samples)}
    for row in samples:
        yield {"where": where, "member": _unit_name(row), "verdict": _verdict(row, names)}


def _container_verdict(rows: list[dict[str, Any]], samples: list[dict[str, Any]]) -> str:
    problem = next((row["reason"] for row in rows if row["source_row"] < 0), None)
    if problem and not any(row["verdict"] == "keep" for row in samples):
        return f"drop:{problem}"
    return "keep:partial" if problem or any(row["verdict"] == "drop" for row in samples) else "keep"


def _verdict(row: Mapping[str, Any], names: Mapping[str, str]) -> str:
    if row["verdict"] == "keep":
        return "keep:cleaned" if row.get("repairs") else "keep"
    if row["verdict"] in _COPIES:
        return f"{_COPIES[row['verdict']]}:{names.get(row['duplicate_of'], row['duplicate_of'])}"
    return f"drop:{row['reason']}"


def _unit_name(row: Mapping[str, Any]) -> str:
    """A sample's external id, else its sample id; of a damaged image in a tar, the name of its sample."""
    name = str(row["external_id"] if row["external_id"] is not None else row["sample_id"])
    if row["reason"] == "bad_tar_member" and PurePosixPath(name).suffix.lower() in IMAGE_ENDINGS:
        return str(PurePosixPath(name).with_suffix(""))
    return name
