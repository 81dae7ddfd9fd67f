"""The commit protocol: of all attempts at a site, exactly one becomes the one that readers see.

An attempt's OUTCOME is written once, as COMMIT by the attempt itself or as ABORT by whoever ends it; the commit record
of a generation is written once, by the first who puts it. Neither is ever changed or deleted, so a writer that wakes up
after days finds the decision instead of making a second one. Records of attempts that were aborted count only if
their fence lists them (see `fences.py`).
"""

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Annotated, Literal

from orchestrator import failpoints
from orchestrator.artifact import JSON
from orchestrator.constraints import PART_PATTERN, Constraint, Size
from orchestrator.documents.typed_json import JSONObject, parse_object, parse_record, record_from_json
from orchestrator.errors import CorruptArtifactError, FencedError, StoreError
from orchestrator.store.deletion import Deleted, delete_objects
from orchestrator.store.fences import FENCE, Fences
from orchestrator.store.group_commit import prepared
from orchestrator.store.layout import Site, owner_of
from orchestrator.store.store import Store, record_bytes

log = logging.getLogger(__name__)

RECORD_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A commit record: the attempt whose files readers of the site use."""

    generation: int
    attempt: str
    epoch: int
    committed_s: float  # seconds since 1970, by the writer's clock; informative only
    record: dict[str, JSON]  # the complete record, e.g. with the manifest's digest
    data: bytes = field(default=b"", compare=False, repr=False)  # the record as it is stored


@dataclass(frozen=True, kw_only=True)
class _CommitRecord:
    """What every persisted commit record has."""

    format: Literal[1]
    attempt: Annotated[str, Constraint(pattern=PART_PATTERN, expected="a name without '/'")]
    epoch: int
    committed_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class _OutcomeRecord:
    """The persisted form of an `Outcome`."""

    format: Literal[1]
    outcome: Literal["COMMIT", "ABORT"]
    generation: Size | None = None
    record: JSONObject | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The first generation of a site that counts and is not retracted: committed, unreadable, or still open."""

    generation: int
    commit: Commit | None = None
    problem: str = ""  # why the record exists but cannot be used


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The decision about an attempt. UNREADABLE: a record exists but cannot be parsed; the attempt never commits."""

    kind: Literal["COMMIT", "ABORT", "UNREADABLE"]
    generation: int = 0
    record: dict[str, JSON] | None = None  # COMMIT: the commit record to write
    reason: str = ""


def head(store: Store, site: Site, fences: Fences | None = None) -> Head:
    """The current head of `site`. `fences` saves reading them again where many sites are read in one operation.

    Raises:
        NewerFormatError: a newer version wrote it; it is not damaged.
        CorruptArtifactError: a fence that decides cannot be read.
    """
    fences = fences or Fences(store, site.owners)
    for generation in count():
        key = site.commit_key(generation)
        data = store.get(key)
        if data is None:
            return Head(generation=generation)
        if is_retracted(store, site, generation, fences):
            continue
        try:
            commit = _commit(generation, data, f"{store.url}: {key}")
        except CorruptArtifactError as error:
            return Head(generation=generation, problem=str(error))
        if not is_void(site, commit, fences):
            return Head(generation=generation, commit=commit)
    raise AssertionError("unreachable: the count of generations does not end")


def is_void(site: Site, commit: Commit | None, fences: Fences) -> bool:
    """True if a commit was written by an attempt after it was aborted."""
    return commit is not None and not fences.counts(owner_of(commit.attempt), site.commit_key(commit.generation))


def is_retracted(store: Store, site: Site, generation: int, fences: Fences) -> bool:
    """True if a generation is retracted by somebody who was entitled to."""
    return any(fences.counts(owner, key) for key, owner in retractions(store, site, generation))


def retractions(store: Store, site: Site, generation: int) -> Iterator[tuple[str, str]]:
    """(key, stage attempt that wrote it or "") of the retractions of a generation, whether they count or not."""
    for number in count():
        key = site.retracted_key(generation, number)
        data = store.get(key)
        if data is None:
            return
        yield key, _retracting_attempt(data)


def _retracting_attempt(data: bytes) -> str:
    try:
        return str(parse_object(data, "").get("attempt", ""))
    except CorruptArtifactError:  # whoever wrote it meant to retract
        return ""


def commit_attempt(
    store: Store, site: Site, *, generation: int, attempt: str, epoch: int, body: Mapping[str, JSON]
) -> Commit:
    """Steps 3 and 4: write the attempt's outcome, then the commit record. Returns the winner, maybe another attempt's.

    All files of the attempt must be durable in the store before. May be repeated after any failure.

    Raises:
        FencedError: the attempt was aborted; its files must not be used.
    """
    record = _record_of(Decided(site=site, generation=generation, attempt=attempt, epoch=epoch, body=body))
    decided = Outcome(kind="COMMIT", generation=generation, record=record)
    key = site.outcome_key(attempt)
    if not store.put_new(key, _outcome_bytes(decided)):
        found = read_outcome(store, site, attempt)
        if found is None or found.kind != "COMMIT":
            reason = found.reason if found else "its record vanished"
            raise FencedError(
                f"{store.url}: attempt '{attempt}' was aborted before it could commit ({reason}); try again"
            )
        decided = found
    failpoints.hit(f"{site.what}.outcome")
    return _publish(store, site, decided)


@dataclass(frozen=True, kw_only=True)
class Decided:
    """An attempt that is about to commit, with all that its record has besides the stamp."""

    site: Site
    generation: int
    attempt: str
    epoch: int
    body: Mapping[str, JSON]
    written: Callable[[], Sequence[Path]] = tuple  # finds files and folders in a local store that are not durable yet


def commit_all(store: Store, attempts: Sequence[Decided]) -> list[Commit | FencedError]:
    """`commit_attempt` for many sites: all outcomes are durable before the first record appears."""
    records = [_record_of(entry) for entry in attempts]
    data = [record_bytes(record) for record in records]
    outcomes = [
        (entry.site.outcome_key(entry.attempt), _commit_bytes(entry.generation, encoded))
        for entry, encoded in zip(attempts, data, strict=True)
    ]
    commits = [
        (entry.site.commit_key(entry.generation), encoded) for entry, encoded in zip(attempts, data, strict=True)
    ]
    numbers = range(len(attempts))
    with prepared(
        store, [*outcomes, *commits], written=lambda: [path for entry in attempts for path in entry.written()]
    ) as create:
        is_decided = create(numbers)
        for entry in attempts:
            failpoints.hit(f"{entry.site.what}.outcome")
        ours = [number for number in numbers if is_decided[number]]
        created = create([len(attempts) + number for number in ours])
    won = {
        attempts[number].attempt: _own_commit(attempts[number], records[number], data[number])
        for number, is_new in zip(ours, created, strict=True)
        if is_new
    }
    return [won.get(entry.attempt) or _concluded(store, entry) for entry in attempts]


def _record_of(entry: Decided) -> dict[str, JSON]:
    stamp: dict[str, JSON] = {"nonce": uuid.uuid4().hex, "committed_s": round(time.time(), 3)}
    owner: dict[str, JSON] = {"attempt": entry.attempt, "epoch": entry.epoch}
    return {**entry.body, "format": RECORD_FORMAT, **owner, **stamp}


def _own_commit(entry: Decided, record: dict[str, JSON], data: bytes) -> Commit:
    failpoints.hit(f"{entry.site.what}.commit")
    committed_s = record["committed_s"]
    assert isinstance(committed_s, float), "the stamp of `_record_of`"
    return Commit(
        generation=entry.generation,
        attempt=entry.attempt,
        epoch=entry.epoch,
        committed_s=committed_s,
        record=record,
        data=data,
    )


def _concluded(store: Store, entry: Decided) -> Commit | FencedError:
    """What became of an attempt that lost, or whose outcome was there already: the usual way finds out."""
    try:
        return commit_attempt(
            store,
            entry.site,
            generation=entry.generation,
            attempt=entry.attempt,
            epoch=entry.epoch,
            body=entry.body,
        )
    except FencedError as error:
        return error


def abort(store: Store, site: Site, attempt: str, *, reason: str) -> bool:
    """Decide ABORT for an attempt. True: it can never commit, its files may be deleted. False: it did or may commit."""
    if store.put_new(site.outcome_key(attempt), _outcome_bytes(Outcome(kind="ABORT", reason=reason))):
        return True
    found = read_outcome(store, site, attempt)
    return found is not None and found.kind == "ABORT"


def retract(store: Store, site: Site, generation: int, *, reason: str, attempt: str = "") -> None:
    """Retract the commit record of a generation for good: readers skip it, and the next generation is open.

    `attempt`: the stage attempt that does so, if it is one; should it be aborted first, the retraction does not count.
    """
    key = site.commit_key(generation)
    if store.get(key) is None:
        raise StoreError(f"{store.url}: cannot retract '{key}': found no such commit record")
    record: dict[str, JSON] = {"format": RECORD_FORMAT, "reason": reason, "retracted_s": round(time.time(), 3)}
    if attempt:
        record |= {"attempt": attempt, "nonce": uuid.uuid4().hex}
    for number in count():
        if is_retracted(store, site, generation, Fences(store, site.owners)):
            break
        if store.put_new(site.retracted_key(generation, number), record_bytes(record)):
            break
    failpoints.hit(f"{site.what}.retracted")
    log.info("retracted %s: %s", key, reason)


def retract_shard(store: Store, site: Site, generation: int, *, reason: str) -> None:
    """`retract` with a single request: the caller has seen the record, and no fence decides what counts for a shard."""
    assert not site.owners, "a retraction that a fence may void is checked by `retract`"
    record: dict[str, JSON] = {"format": RECORD_FORMAT, "reason": reason, "retracted_s": round(time.time(), 3)}
    store.put_new(site.retracted_key(generation), record_bytes(record))
    failpoints.hit(f"{site.what}.retracted")


def roll_forward(store: Store, site: Site, fences: Fences | None = None) -> Head:
    """Complete a commit that a crash interrupted between OUTCOME and COMMIT, then return the head."""
    fences = fences or Fences(store, site.owners)
    found = head(store, site, fences)
    if found.commit or found.problem:
        return found
    for attempt in store.folders(site.attempts):
        decided = read_outcome(store, site, attempt)
        if decided and decided.kind == "COMMIT" and decided.generation == found.generation:
            if not fences.counts(owner_of(attempt), site.commit_key(found.generation)):
                continue
            log.info("finishing the commit of attempt %s at %s", attempt, site.commit_key(found.generation))
            _publish(store, site, decided)
            return head(store, site, fences)
    return found


def read_outcome(store: Store, site: Site, attempt: str) -> Outcome | None:
    """The decision about an attempt; None while there is none. Raises: NewerFormatError."""
    key = site.outcome_key(attempt)
    data = store.get(key)
    try:
        return None if data is None else _parse_outcome(data, f"{store.url}: {key}")
    except CorruptArtifactError as error:
        return Outcome(kind="UNREADABLE", reason=str(error))


def committed_attempt(data: bytes, where: str) -> str:
    """The attempt that a commit record names. Raises: NewerFormatError, CorruptArtifactError."""
    return parse_record(_CommitRecord, data, where).attempt


def read_commit(store: Store, site: Site, generation: int) -> Commit | None:
    """The commit of one generation, retracted or not; None if it is open.

    Raises:
        NewerFormatError: a newer version wrote the record.
        CorruptArtifactError: the record cannot be read.
    """
    key = site.commit_key(generation)
    data = store.get(key)
    return None if data is None else _commit(generation, data, f"{store.url}: {key}")


def delete_attempt(store: Store, site: Site, attempt: str) -> Deleted:
    """Delete all that an attempt stored, except its decisions, which must outlive every writer.

    Call it only after `abort` returned True, or when the generation of its COMMIT has another winner or is retracted.
    """
    found = store.list(site.attempt_key(attempt))
    return delete_objects(store, [item for item in found if not is_decision(site, attempt, item.key)])


def is_decision(site: Site, attempt: str, key: str) -> bool:
    """True for the records of an attempt that are never deleted."""
    return key in (site.outcome_key(attempt), f"{site.attempt_key(attempt)}/{FENCE}")


def _publish(store: Store, site: Site, decided: Outcome) -> Commit:
    assert decided.record is not None, "the outcome COMMIT contains its record"
    key = site.commit_key(decided.generation)
    data = record_bytes(decided.record)
    is_ours = store.put_new(key, data)
    failpoints.hit(f"{site.what}.commit")
    if is_ours:
        return _commit(decided.generation, data, f"{store.url}: {key}")
    commit = read_commit(store, site, decided.generation)
    if commit is None:
        raise StoreError(f"{store.url}: '{key}' was written but cannot be read back")
    return commit


def _outcome_bytes(decided: Outcome) -> bytes:
    record: dict[str, JSON] = {"format": RECORD_FORMAT, "outcome": decided.kind}
    if decided.kind == "COMMIT":
        return record_bytes({**record, "generation": decided.generation, "record": decided.record})
    return record_bytes({**record, "reason": decided.reason, "nonce": uuid.uuid4().hex})


def _commit_bytes(generation: int, record: bytes) -> bytes:
    """`_outcome_bytes` of a COMMIT whose record is encoded already."""
    return b'{"format":%d,"generation":%d,"outcome":"COMMIT","record":%b}\n' % (RECORD_FORMAT, generation, record[:-1])


def _parse_outcome(data: bytes, where: str) -> Outcome:
    record = parse_record(_OutcomeRecord, data, where)
    if record.outcome == "ABORT":
        return Outcome(kind="ABORT", reason=record.reason)
    if record.generation is None or record.record is None:
        raise CorruptArtifactError(f"{where}: found no outcome, expected COMMIT with its record, or ABORT")
    record_from_json(_CommitRecord, record.record, where)
    return Outcome(kind="COMMIT", generation=record.generation, record=record.record)


def _commit(generation: int, data: bytes, where: str) -> Commit:
    record = parse_record(_CommitRecord, data, where)
    return Commit(
        generation=generation,
        attempt=record.attempt,
        epoch=record.epoch,
        committed_s=record.committed_s,
        record=parse_object(data, where),
        data=data,
    )
