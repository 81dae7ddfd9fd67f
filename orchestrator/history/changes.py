"""Who changed what in a store outside of runs: takedowns, pins, deletions, retractions of damage, overridden gates.

One write-once record for each change, `changes/<time>-<nonce>.json`, so that the store alone answers for them.
"""

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from orchestrator.actor import current_actor
from orchestrator.documents.typed_json import record_from_json
from orchestrator.history.actors import ActorRecord, actor_record
from orchestrator.store.layout import CHANGES
from orchestrator.store.store import Store, read_record, record_bytes
from orchestrator.times import iso_time

MAX_SUBJECTS = 1000  # in a record; the number of all of them is beside it
ChangeKind = Literal["takedown", "pin", "unpin", "gc", "heal", "gate_override", "relocate"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change that took effect."""

    format: Literal[1] = 1
    at: str  # ISO 8601, UTC
    what: ChangeKind
    subjects: tuple[str, ...]  # what was changed: artifacts, keys, gates
    num_subjects: int
    actor: ActorRecord


def record_change(store: Store, what: ChangeKind, subjects: Sequence[str]) -> None:
    """Record that the current actor has changed something; nothing is recorded for no subject."""
    if not subjects:
        return
    now = datetime.now(UTC)
    change = Change(
        at=iso_time(now.timestamp()),
        what=what,
        subjects=tuple(subjects[:MAX_SUBJECTS]),
        num_subjects=len(subjects),
        actor=actor_record(current_actor()),
    )
    key = f"{CHANGES}/{now.strftime('%Y%m%dT%H%M%S.%fZ')}-{uuid.uuid4().hex[:8]}.json"
    store.put_new(key, record_bytes(asdict(change)))


def read_changes(store: Store) -> list[Change]:
    """All recorded changes, oldest first.

    Raises: NewerFormatError, CorruptArtifactError: a record cannot be read.
    """
    keys = sorted(item.key for item in store.list(CHANGES))
    return [record_from_json(Change, read_record(store, key) or {}, f"{store.url}: {key}") for key in keys]
