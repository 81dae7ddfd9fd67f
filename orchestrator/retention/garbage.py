"""Garbage collection of a store: finds and deletes files of attempts that no reader can ever use again.

Rule: an attempt's files are deleted only after it was aborted, or when the generation of its COMMIT has another winner
or is retracted, and no attempt without an outcome has them on record as in use. Ages only protect unfinished work of
live attempts; safety does not depend on clocks.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Literal

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.uses import Uses
from orchestrator.backends.local_store import TEMPORARY
from orchestrator.backends.objects import StoredObject
from orchestrator.backends.parallel import parallel_map, request_threads
from orchestrator.errors import CorruptArtifactError
from orchestrator.retention.shard_batches import Candidate, batches, candidates, delete_attempts
from orchestrator.store.commits import (
    Commit,
    Outcome,
    abort,
    delete_attempt,
    is_decision,
    is_retracted,
    is_void,
    read_commit,
    read_outcome,
    retract,
    roll_forward,
)
from orchestrator.store.deletion import delete_objects
from orchestrator.store.fences import Fences
from orchestrator.store.layout import (
    ARTIFACTS,
    Site,
    artifact_site,
    checkpoint_site,
    checkpoint_steps,
    owner_of,
    stored_keys,
)
from orchestrator.store.store import PROBE_FOLDER, Store

log = logging.getLogger(__name__)

LASTING = ("aborted", "lost", "retracted")  # true of an attempt at a shard for good, once it is true
DEFAULT_AGE_S = 24 * 3600.0  # since the last write; far above the time between two writes of a commit

Reason = Literal[
    "abandoned",  # has no outcome, and its owner is gone
    "aborted",  # was aborted; files were written or left after that
    "lost",  # another attempt was committed instead
    "retracted",  # was committed, then retracted
    "checkpoint",  # of a stage whose artifact is committed
    "temporary",  # of an interrupted write or probe
    "upload",  # parts of a multipart upload that nobody will finish
    "training",  # checkpoint of a stage that no run makes any more (this and the following: see `leftovers.py`)
    "shard",  # of no artifact
    "plan",
    "mail",  # of a job whose attempt has ended
    "use",
    "pack",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Garbage:
    """Something that can be deleted."""

    reason: Reason
    key: str  # folder of an attempt, or a single object
    files: int
    bytes: int
    site: Site | None = None
    attempt: str = ""
    generation: int | None = None  # of a shard that is to be retracted first


@dataclass(frozen=True, kw_only=True)
class DeletionReport:
    """What `delete_garbage` deleted."""

    items: int
    bytes: int
    kept: tuple[str, ...]  # keys that turned out to be in use just before they were to be deleted
    retained: tuple[str, ...] = ()  # keys that the bucket itself keeps for a time


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One generation of a site: its commit (None: unreadable), and whether it is retracted or never counted."""

    commit: Commit | None
    retracted: bool


@dataclass(frozen=True, kw_only=True)
class AttemptFacts:
    """Everything that decides whether an attempt's files can be deleted."""

    attempt: str
    outcome: Outcome | None
    generations: tuple[Generation, ...]
    is_live: bool  # its run may still be working
    is_old: bool


def garbage_reason(facts: AttemptFacts) -> Reason | None:
    """Why the files of an attempt can be deleted; None: they must stay."""
    if not facts.is_old or any(_is_winner(facts.attempt, item) and not item.retracted for item in facts.generations):
        return None
    decided = facts.outcome
    if decided is None:
        return None if facts.is_live else "abandoned"
    if decided.kind == "ABORT":
        return "aborted"
    if decided.kind == "UNREADABLE" or decided.generation >= len(facts.generations):
        return None  # it may be about to commit, and any reader may still roll it forward
    generation = facts.generations[decided.generation]
    if generation.retracted:
        return "retracted"
    return "lost" if generation.commit else None


def find_garbage(
    store: Store,
    *,
    now_s: float,
    is_live: Callable[[str], bool],
    older_than_s: float = DEFAULT_AGE_S,
    awaited: Collection[tuple[ArtifactKey, int]] = (),
) -> list[Garbage]:
    """Everything that can be deleted now. Completes commits that a crash interrupted; deletes nothing.

    `is_live`: stage attempt id -> whether its run may still be working (its lease has not expired).
    `awaited`: (training, step) of checkpoints that others will continue from, see `restarts.awaited_restarts`.
    """
    found: list[Garbage] = []
    for site in _sites(store):
        roll_forward(store, site)
        found += _garbage_of(store, site, now_s=now_s, is_live=is_live, older_than_s=older_than_s)
    found += _shard_garbage(store, now_s=now_s, is_live=is_live, older_than_s=older_than_s)
    found += _finished_checkpoints(store, older_than_s=older_than_s, now_s=now_s, awaited=awaited)
    return found + list(_temporaries(store, before_s=now_s - older_than_s))


def _shard_garbage(
    store: Store, *, now_s: float, is_live: Callable[[str], bool], older_than_s: float
) -> Iterator[Garbage]:
    def look(candidate: Candidate) -> list[Garbage]:
        site = candidate.site
        if candidate.retracted:
            return [_garbage("retracted", site, candidate.retracted, candidate.files)]
        roll_forward(store, site)
        return list(_garbage_of(store, site, now_s=now_s, is_live=is_live, older_than_s=older_than_s))

    found = candidates(store, before_s=now_s - older_than_s)
    for garbage in parallel_map(look, found, threads=request_threads(is_local=store.is_local)):
        yield from garbage


def find_garbage_at(store: Store, sites: Iterable[Site], *, is_live: Callable[[str], bool]) -> list[Garbage]:
    """What can be deleted at some sites regardless of age, because these were retracted on purpose."""

    def look(site: Site) -> list[Garbage]:
        roll_forward(store, site)
        return list(_garbage_of(store, site, now_s=float("inf"), is_live=is_live, older_than_s=0.0))

    found = parallel_map(look, sites, threads=request_threads(is_local=store.is_local))
    return [item for garbage in found for item in garbage]


def delete_garbage(
    store: Store, garbage: Sequence[Garbage], *, is_live: Callable[[str], bool], even_in_use: bool = False
) -> DeletionReport:
    """Delete what `find_garbage` found, after checking each item again. Can be interrupted and repeated.

    `even_in_use`: also what an attempt has on record as in use, because it must go, e.g. was taken down.

    Raises:
        StoreError: the store failed; the rest is found again next time.
        CorruptArtifactError, NewerFormatError: it is unknown what is in use, as a record of use cannot be read.
    """
    items, freed, kept, retained = 0, 0, list[str](), list[str]()
    uses = None if even_in_use else Uses(store)
    shards = [item for item in garbage if item.site and item.site.what == "shard"]
    for lot in batches(shards):
        going = [item for item in lot if item.reason in LASTING or _claim_for_deletion(store, item, is_live)]
        used = uses.shards_in_use() if uses else set[ArtifactKey]()
        going = [item for item in going if item.reason != "retracted" or _key(item) not in used]
        deleted = delete_attempts(store, [(item.site, item.attempt) for item in going if item.site])
        freed += deleted.bytes
        retained += deleted.retained
        items += len(going)
        kept += sorted({item.key for item in lot} - {item.key for item in going})
    for item in garbage:
        if item.site and item.site.what == "shard":
            continue
        if not _claim_for_deletion(store, item, is_live) or (uses and _is_in_use(uses, item)):
            kept.append(item.key)
            continue
        if item.site:
            deleted = delete_attempt(store, item.site, item.attempt)
            freed += deleted.bytes
            retained += deleted.retained
        elif (path := store.local("")) is not None and item.key.startswith(f"{TEMPORARY}/"):
            (path / item.key).unlink(missing_ok=True)
            freed += item.bytes
        else:
            deleted = delete_objects(store, [StoredObject(key=item.key, bytes=item.bytes, modified_s=0.0)])
            freed += deleted.bytes
            retained += deleted.retained
        items += 1
    return DeletionReport(items=items, bytes=freed, kept=tuple(kept), retained=tuple(retained))


def _key(item: Garbage) -> ArtifactKey:
    assert item.site is not None, "called for attempts"
    return item.site.key


def _claim_for_deletion(store: Store, item: Garbage, is_live: Callable[[str], bool]) -> bool:
    """True if the item can still be deleted. Aborts the attempt, or retracts the checkpoint, where that comes first."""
    if item.site is None:
        return True
    if item.reason == "checkpoint":
        return _retract_checkpoint(store, item.site, item.attempt)
    facts = _facts(store, item.site, item.attempt, is_live=is_live, is_old=True)
    reason = garbage_reason(facts)
    if reason == "abandoned":
        return abort(store, item.site, item.attempt, reason="abandoned: deleted by the collector")
    return reason is not None


def _is_in_use(uses: Uses, item: Garbage) -> bool:
    """Whether an attempt may have begun to use what was committed, before it was retracted."""
    if item.site is None or item.reason != "retracted":
        return False
    match item.site.what:
        case "shard":
            raise AssertionError("shards are asked for together")
        case "artifact":
            return bool(uses.of_artifact(item.site.key))
        case "checkpoint":
            return has_open_attempt(uses.store, item.site.key)


def has_open_attempt(store: Store, key: ArtifactKey) -> bool:
    """Whether an attempt at an artifact has no outcome: it may read or continue from each checkpoint."""
    site = artifact_site(key)
    return any(read_outcome(store, site, attempt) is None for attempt in store.folders(site.attempts))


def _retract_checkpoint(store: Store, site: Site, attempt: str) -> bool:
    """Retract a checkpoint of a stage that is still committed. False: it is needed, or another one took its place."""
    if not roll_forward(store, artifact_site(site.key)).commit or has_open_attempt(store, site.key):
        return False  # its stage is being made again, or will be
    found = roll_forward(store, site)
    if not found.commit or found.commit.attempt != attempt:
        return False
    retract(store, site, found.generation, reason="its stage is committed: deleted by the collector")
    return not has_open_attempt(store, site.key)  # one that claimed its id before the retraction may read it


def _sites(store: Store) -> Iterator[Site]:
    for key in stored_keys(store, ARTIFACTS):
        yield artifact_site(key)
        for step in checkpoint_steps(store, key):
            yield checkpoint_site(key, step)


def _garbage_of(
    store: Store, site: Site, *, now_s: float, is_live: Callable[[str], bool], older_than_s: float
) -> Iterator[Garbage]:
    for attempt, files in _attempt_files(store, site).items():
        is_old = max(file.modified_s for file in files) <= now_s - older_than_s
        reason = garbage_reason(_facts(store, site, attempt, is_live=is_live, is_old=is_old)) if is_old else None
        if reason:
            yield _garbage(reason, site, attempt, files)


def _finished_checkpoints(
    store: Store, *, now_s: float, older_than_s: float, awaited: Collection[tuple[ArtifactKey, int]]
) -> Iterator[Garbage]:
    for key in stored_keys(store, ARTIFACTS):
        steps = checkpoint_steps(store, key)
        if not steps or not roll_forward(store, artifact_site(key)).commit:
            continue
        for step in (step for step in steps if (key, step) not in awaited):
            site = checkpoint_site(key, step)
            commit = roll_forward(store, site).commit
            files = _attempt_files(store, site).get(commit.attempt, []) if commit else []
            if commit and files and max(file.modified_s for file in files) <= now_s - older_than_s:
                yield _garbage("checkpoint", site, commit.attempt, files)


def _garbage(reason: Reason, site: Site, attempt: str, files: Sequence[StoredObject]) -> Garbage:
    size = sum(file.bytes for file in files)
    return Garbage(
        reason=reason, key=site.attempt_key(attempt), files=len(files), bytes=size, site=site, attempt=attempt
    )


def _attempt_files(store: Store, site: Site) -> dict[str, list[StoredObject]]:
    """Files by attempt, without its decisions, which are never deleted; attempts without files are left out."""
    found: dict[str, list[StoredObject]] = {}
    for item in store.list(site.attempts):
        attempt, _, name = item.key.removeprefix(f"{site.attempts}/").partition("/")
        if name and not is_decision(site, attempt, item.key) and attempt != "checkpoints":
            found.setdefault(attempt, []).append(item)
    return found


def _facts(store: Store, site: Site, attempt: str, *, is_live: Callable[[str], bool], is_old: bool) -> AttemptFacts:
    """The facts of an attempt. The outcome is read before the commit records, as a commit writes them in this order."""
    decided = read_outcome(store, site, attempt)
    return AttemptFacts(
        attempt=attempt,
        outcome=decided,
        generations=tuple(_generations(store, site)),
        is_live=is_live(owner_of(attempt)),
        is_old=is_old,
    )


def _generations(store: Store, site: Site) -> Iterator[Generation]:
    fences = Fences(store, site.owners)
    for number in count():
        retracted = is_retracted(store, site, number, fences)
        try:
            commit = read_commit(store, site, number)
            if commit is None:
                return
        except CorruptArtifactError as error:
            log.warning("keeping files that it may refer to: %s", error)
            commit = None
        yield Generation(commit=commit, retracted=retracted or is_void(site, commit, fences))


def _is_winner(attempt: str, generation: Generation) -> bool:
    return generation.commit is not None and generation.commit.attempt == attempt


def _temporaries(store: Store, *, before_s: float) -> Iterator[Garbage]:
    for item in store.list(PROBE_FOLDER):
        if item.modified_s <= before_s:
            yield Garbage(reason="temporary", key=item.key, files=1, bytes=item.bytes)
    root = store.local("")
    for path in sorted((root / TEMPORARY).glob("*")) if root else []:
        with suppress(FileNotFoundError):  # the write has just ended
            found = path.stat()
            if found.st_mtime <= before_s:
                key = f"{TEMPORARY}/{path.name}"
                yield Garbage(reason="temporary", key=key, files=1, bytes=found.st_size)
