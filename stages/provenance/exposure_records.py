"""Records of what trainings learned from, kept in the store when their data go: no collector deletes them.

One write-once table for each training, `exposures/<first digits>/<identity>.parquet`: a row for each sample that it
consumed, with the digests of its images and its steps. A sample that has no row was never consumed. The steps of a
training with its data are computed and never logged; without them, this is all that can still tell. The record of a
training that continues another one names that one, whose record has the steps before.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.artifacts.takedowns import Restart
from orchestrator.errors import CorruptArtifactError, OrchestratorError
from orchestrator.learning import Exposures
from orchestrator.store.layout import EXPOSURES
from orchestrator.store.store import Store

RECORD_FORMAT = 1
FORMAT, NUM_STEPS, CONTINUES = b"format", b"num_steps", b"continues"  # of the table's metadata
SCHEMA = pa.schema([("sample_id", pa.string()), ("images", pa.list_(pa.string())), ("steps", pa.list_(pa.int32()))])
Row = tuple[str, tuple[str, ...], list[int]]  # id, digests of the images, steps counted from 0


class UnknownExposureError(OrchestratorError):
    """What a training learned from cannot be told any more."""


@dataclass(frozen=True, kw_only=True)
class ExposureRecord:
    """The record of one training, which is read when it is asked."""

    store: Store
    key: str

    def exposures(self, digests: frozenset[str], *, before: int | None = None) -> Exposures:
        """The steps, if wanted only those before one, that consumed the samples, known by id or by an image.

        Raises: CorruptArtifactError: the record cannot be read. UnknownExposureError: see `steps_before`.
        """
        wanted = pa.array(sorted(digests), pa.string())
        steps: dict[str, list[int]] = {}
        try:
            with tempfile.TemporaryDirectory(prefix="exposures-") as folder, pq.ParquetFile(self._file(folder)) as file:
                metadata = file.schema_arrow.metadata or {}
                if metadata.get(FORMAT) != str(RECORD_FORMAT).encode():
                    raise ValueError(f"found format {metadata.get(FORMAT)!r}, expected {RECORD_FORMAT}")
                num_steps, begin = int(metadata[NUM_STEPS]), json.loads(metadata.get(CONTINUES, b"null"))
                for batch in file.iter_batches() if digests else ():
                    found = _chosen(pa.Table.from_batches([batch]), wanted)
                    steps.update(zip(found["sample_id"].to_pylist(), found["steps"].to_pylist(), strict=True))
        except (OSError, pa.ArrowException, ValueError, KeyError) as error:
            raise CorruptArtifactError(f"{self.store.url}: {self.key}: cannot be read ({error})") from error
        if begin is not None:
            earlier = steps_before(self.store, begin["fingerprint"], begin["step"], digests)
            steps = {name: [*earlier.get(name, ()), *steps.get(name, ())] for name in sorted({*earlier, *steps})}
        if before is not None:
            steps = {name: [step for step in found if step < before] for name, found in steps.items()}
        return Exposures(num_steps=num_steps, steps={name: found for name, found in steps.items() if found})

    def _file(self, folder: str) -> Path:
        local = self.store.local(self.key)
        if local is None:
            local = Path(folder) / "record.parquet"
            if self.store.download(self.key, local) is None:
                raise FileNotFoundError("it is gone")
        return local


def record_key(fingerprint: str) -> str:
    return f"{EXPOSURES}/{fingerprint[:2]}/{fingerprint}.parquet"


def find_record(store: Store, fingerprint: str) -> ExposureRecord | None:
    key = record_key(fingerprint)
    found = any(item.key == key for item in store.list(f"{EXPOSURES}/{fingerprint[:2]}"))
    return ExposureRecord(store=store, key=key) if found else None


def steps_before(store: Store, fingerprint: str, step: int, digests: frozenset[str]) -> dict[str, list[int]]:
    """The steps before one, by sample, in which another training consumed samples, known by id or by an image.

    Raises: UnknownExposureError: there is no record of it. CorruptArtifactError: it cannot be read.
    """
    record = find_record(store, fingerprint)
    if record is None:
        raise UnknownExposureError(
            f"its first {step} steps were done by {fingerprint[:12]}, whose data are gone without a record of its "
            "exposure"
        )
    return {name: list(steps) for name, steps in record.exposures(digests, before=step).steps.items()}


def put_record(
    store: Store, fingerprint: str, num_steps: int, groups: Iterable[Iterable[Row]], *, restart: Restart | None = None
) -> None:
    """Write the record of a training; `groups` of its rows come one after the other. Does nothing if there is one.

    `restart`: the checkpoint that it began with; the rows are of the steps after that.
    """
    if find_record(store, fingerprint) is not None:
        return
    metadata = {FORMAT: str(RECORD_FORMAT).encode(), NUM_STEPS: str(num_steps).encode()}
    if restart is not None:
        metadata[CONTINUES] = json.dumps({"fingerprint": restart.fingerprint, "step": restart.step}).encode()
    schema = SCHEMA.with_metadata(metadata)
    with tempfile.TemporaryDirectory(prefix="exposures-") as folder:
        path = Path(folder) / "record.parquet"
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for table in _tables(groups, schema):
                writer.write_table(table)
        store.upload(path, record_key(fingerprint))


def _tables(groups: Iterable[Iterable[Row]], schema: pa.Schema) -> Iterator[pa.Table]:
    for group in groups:
        rows = list(group)
        columns = list(zip(*rows, strict=True)) if rows else [(), (), ()]
        yield pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema)


def _chosen(table: pa.Table, wanted: pa.Array) -> pa.Table:
    images = table["images"].combine_chunks()
    hits = pc.list_parent_indices(images).filter(pc.is_in(pc.list_flatten(images), wanted))
    numbers = pa.array(range(table.num_rows), pa.int64())
    return table.filter(pc.or_(pc.is_in(table["sample_id"], wanted), pc.is_in(numbers, hits.cast(pa.int64()))))
