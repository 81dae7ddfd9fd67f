"""What attempts use, on record before they use it: `uses/<attempt>/<nonce>.json`, each written once.

An attempt records the shards of a map before it looks for them, and its inputs before it opens them. Whoever deletes
first retracts, then reads these records, then deletes. So an attempt that found something before it was retracted is
seen by whoever is about to delete it, and no clock is needed. The garbage collector deletes records that claim nothing.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from orchestrator import failpoints
from orchestrator.artifact import JSON, ArtifactKey
from orchestrator.attempt_id import AttemptId
from orchestrator.backends.parallel import parallel_map, request_threads
from orchestrator.constraints import Sha256
from orchestrator.documents.typed_json import parse_record
from orchestrator.store.commits import read_outcome
from orchestrator.store.layout import USES, artifact_site
from orchestrator.store.store import Store, record_bytes

USE_FORMAT = 1
SHARDS_PER_RECORD = 5000  # about 340 kB


@dataclass(frozen=True, kw_only=True)
class _UseRecord:
    """The persisted form of a `Use`."""

    format: Literal[1]
    run: str
    attempt: str
    stage_kind: str
    fingerprint: Sha256
    shards: tuple[Sha256, ...] = ()
    artifacts: tuple[tuple[str, Sha256], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Use:
    """One record of what an attempt uses."""

    record_key: str
    run_id: str
    attempt: str
    key: ArtifactKey  # of the artifact that the attempt makes
    shards: frozenset[ArtifactKey]
    artifacts: frozenset[ArtifactKey]


def record_use(
    store: Store,
    attempt: AttemptId,
    key: ArtifactKey,
    *,
    shards: Sequence[str] = (),
    artifacts: Sequence[ArtifactKey] = (),
) -> None:
    """Record what an attempt at the artifact `key` is about to use. `shards`: fingerprints, of its own stage kind."""
    distinct = list(dict.fromkeys(shards))
    starts = range(0, len(distinct), SHARDS_PER_RECORD) or range(1)
    inputs: list[JSON] = [[used.stage_kind, used.fingerprint] for used in artifacts]
    for start in starts:
        record: dict[str, JSON] = {
            "format": USE_FORMAT,
            "run": attempt.run_id,
            "attempt": attempt.name,
            "stage_kind": key.stage_kind,
            "fingerprint": key.fingerprint,
            "shards": [*distinct[start : start + SHARDS_PER_RECORD]],
            "artifacts": inputs,
        }
        store.put_new(f"{USES}/{attempt.name}/{uuid.uuid4().hex}.json", record_bytes(record))
    failpoints.hit("use.recorded")


@dataclass
class Uses:
    """Reads the records of one store. Each call lists them again; a record that was read once is not read again."""

    store: Store
    _read: dict[str, Use] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)  # attempts with an outcome, which is final

    def all(self) -> list[Use]:
        """Every record, also of attempts that have ended.

        Raises:
            CorruptArtifactError, NewerFormatError: a record cannot be read, so it is unknown what is in use.
        """
        keys = [item.key for item in self.store.list(USES) if item.key.endswith(".json")]
        missing = [key for key in keys if key not in self._read]
        for use in parallel_map(self._parse, missing, threads=request_threads(is_local=self.store.is_local)):
            if use is not None:
                self._read[use.record_key] = use
        return [self._read[key] for key in keys if key in self._read]

    def shards_in_use(self) -> set[ArtifactKey]:
        """The shards that attempts without an outcome have on record. Raises: as `all`."""
        return set[ArtifactKey]().union(*(use.shards for use in self.open()))

    def of_artifact(self, key: ArtifactKey) -> list[Use]:
        """Records of attempts without an outcome that name the artifact as an input. Raises: as `all`."""
        return [use for use in self.open() if key in use.artifacts]

    def open(self) -> list[Use]:
        """The records of attempts without an outcome. Each attempt is asked for once. Raises: as `all`."""
        found = self.all()
        attempts = {use.attempt: use for use in found}
        has_ended = {name: self.has_ended(use) for name, use in attempts.items()}
        return [use for use in found if not has_ended[use.attempt]]

    def has_ended(self, use: Use) -> bool:
        """Whether the attempt of a record was committed or aborted. One that nobody knows has not."""
        if use.attempt not in self._ended and read_outcome(self.store, artifact_site(use.key), use.attempt):
            self._ended.add(use.attempt)
        return use.attempt in self._ended

    def _parse(self, record_key: str) -> Use | None:
        data = self.store.get(record_key)
        if data is None:  # another collector has just deleted it
            return None
        record = parse_record(_UseRecord, data, f"{self.store.url}: {record_key}")
        return Use(
            record_key=record_key,
            run_id=record.run,
            attempt=record.attempt,
            key=ArtifactKey(record.stage_kind, record.fingerprint),
            shards=frozenset(ArtifactKey(record.stage_kind, shard) for shard in record.shards),
            artifacts=frozenset(ArtifactKey(*used) for used in record.artifacts),
        )
