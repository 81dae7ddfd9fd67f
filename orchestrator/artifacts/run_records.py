"""Run records in the store: plans, the start of each run, and its events in write-once segments.

The database can be rebuilt from these records and the artifacts alone.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.artifact import JSON
from orchestrator.documents.typed_json import parse_object
from orchestrator.errors import CorruptArtifactError, StoreError
from orchestrator.store.layout import PLANS, RUNS
from orchestrator.store.store import Store, read_record, record_bytes

log = logging.getLogger(__name__)

SEGMENT = re.compile(r"events-(\d+)-(\d+)\.jsonl")


@dataclass(frozen=True)
class RunRecords:
    """Plans and runs of one store. Records are written once; readers skip and log what they cannot parse."""

    store: Store

    def put_plan(self, digest: str, plan: Mapping[str, JSON]) -> None:
        """Store a plan under its digest. Storing the same plan again does nothing."""
        self.store.put_new(f"{PLANS}/{_part(digest)}.json", record_bytes(dict(plan)))

    def plan(self, digest: str) -> dict[str, JSON] | None:
        """The plan with this digest; None if it is not in the store.

        Raises:
            CorruptArtifactError: the record is no JSON object.
        """
        return read_record(self.store, f"{PLANS}/{_part(digest)}.json")

    def put_run(self, run_id: str, record: Mapping[str, JSON]) -> bool:
        """Store how a run started. False: the run exists already and its record is unchanged."""
        return self.store.put_new(f"{RUNS}/{_part(run_id)}/RUN.json", record_bytes(dict(record)))

    def append_events(self, run_id: str, epoch: int, seq: int, events: Sequence[Mapping[str, JSON]]) -> bool:
        """Store one segment of a run's events. Segments are read in the order of epoch, then `seq`.

        False: this segment was written before, by this driver or by another one that believes it has the same epoch.
        """
        if epoch < 0 or seq < 0:
            raise StoreError(
                f"events of run '{run_id}': found epoch {epoch} and seq {seq}, expected whole numbers from 0"
            )
        data = b"".join(record_bytes(dict(event)) for event in events)
        return self.store.put_new(f"{RUNS}/{_part(run_id)}/events-{epoch:06d}-{seq:09d}.jsonl", data)

    def next_seq(self, run_id: str, epoch: int) -> int:
        """The first segment number of `epoch` that is not written yet."""
        return max((seq for found, seq, _ in self._segments(run_id) if found == epoch), default=-1) + 1

    def runs(self) -> Iterator[tuple[str, dict[str, JSON]]]:
        """(run id, start record) of every run, by id."""
        for run_id in self.store.folders(RUNS):
            try:
                record = read_record(self.store, f"{RUNS}/{run_id}/RUN.json")
            except CorruptArtifactError as error:
                log.warning("skipped: %s", error)
                continue
            if record is not None:
                yield run_id, record

    def events(self, run_id: str) -> Iterator[dict[str, JSON]]:
        """The events of a run in the order in which they were written."""
        for _, _, key in sorted(self._segments(run_id)):
            for number, line in enumerate((self.store.get(key) or b"").splitlines(), start=1):
                try:
                    yield parse_object(line, f"{self.store.url}: {key}: line {number}")
                except CorruptArtifactError as error:
                    log.warning("skipped: %s", error)

    def _segments(self, run_id: str) -> Iterator[tuple[int, int, str]]:
        for item in self.store.list(f"{RUNS}/{_part(run_id)}"):
            match = SEGMENT.fullmatch(item.key.rpartition("/")[2])
            if match:
                yield int(match[1]), int(match[2]), item.key


def _part(name: str) -> str:
    if not name or "/" in name or name in (".", ".."):
        raise StoreError(f"run or plan id {json.dumps(name)}: expected one part of a path")
    return name
