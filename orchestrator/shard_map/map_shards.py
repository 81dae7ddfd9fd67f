"""The durable shard map: runs a worker over shards, skipping those already recorded.

Shards with equal fingerprints are made once. `map_run.py` handles failing workers; `bisection.py` finds the items at
fault.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.artifact import JSON
from orchestrator.artifacts.shard_records import StoredShard
from orchestrator.errors import StageCodeError
from orchestrator.identity import fingerprint_of
from orchestrator.redaction.masking import mask_config
from orchestrator.shard_map.map_log import MapLog
from orchestrator.shard_map.map_run import MapRun
from orchestrator.shard_map.map_settings import MapSettings, MapTools
from orchestrator.shard_map.pending import PendingShard, Witnesses
from orchestrator.shard_map.quarantine import QuarantineCount
from orchestrator.shard_map.shard_times import ShardTimes
from orchestrator.shards import Quarantined, Shard, ShardWorker
from orchestrator.store.layout import shard_site
from orchestrator.store.shard_packs import Packer

log = logging.getLogger(__name__)


def shard_payload(
    shard: Shard, *, stage_kind: str, version: int, label: str, identity: Mapping[str, JSON]
) -> dict[str, JSON]:
    """What decides a shard's output, apart from takedowns."""
    return {
        "stage_kind": stage_kind,
        "version": version,
        "label": label,
        "identity": mask_config(dict(identity)),
        "items": mask_config(list(shard.items)),
        "shard_identity": mask_config(dict(shard.identity)),
    }


def shard_fingerprint(settings: MapSettings, shard: Shard) -> str:
    """The shard's identity: covers everything that decides its output, and nothing of the other shards.

    A shard that contained taken-down samples gets a new fingerprint whose payload names the takedown.
    """
    payload = shard_payload(
        shard,
        stage_kind=settings.stage_kind,
        version=settings.version,
        label=settings.label,
        identity=settings.identity,
    )
    fingerprint, takedown_ids = fingerprint_of(payload), list[JSON]()
    for takedown in settings.takedowns:
        if takedown.holds_shard(fingerprint):
            takedown_ids.append(takedown.id)
            fingerprint = fingerprint_of({**payload, "takedowns": takedown_ids})
    return fingerprint


def map_id(settings: MapSettings) -> str:
    """A name for the packs of a map: equal for maps that may share shards, whatever shards they have."""
    shared: dict[str, JSON] = {
        "stage_kind": settings.stage_kind,
        "version": settings.version,
        "label": settings.label,
        "identity": dict(settings.identity),
    }
    return fingerprint_of(shared)[:32]


@dataclass(frozen=True, kw_only=True)
class FinishedShard:
    name: str
    stored: StoredShard
    reused: bool  # made earlier, by this or another run


def map_shards(
    worker: ShardWorker, shards: Sequence[Shard], settings: MapSettings, tools: MapTools
) -> list[FinishedShard]:
    """The finished shards, in the order given; see `StageContext.map_shards`. Equal shards are made once.

    Raises:
        CancelledError: a stop was requested; running shards were finished first.
        ClassifiedError: a failure that retries and quarantine did not resolve, with its class.
        StageCodeError: two shards have the same name, or something passed is not what it must be.
    """
    _check_arguments(worker, shards, settings)
    fingerprints = [_checked_fingerprint(settings, shard) for shard in shards]
    by_fingerprint = dict(zip(reversed(fingerprints), reversed(shards), strict=True))  # the first of equal ones
    by_fingerprint = {fingerprint: by_fingerprint[fingerprint] for fingerprint in fingerprints}
    tools.record_use(list(by_fingerprint))
    packer = Packer(tools.ledger.store, settings.stage_kind, map_id(settings))
    found = tools.ledger.find_many(settings.stage_kind, by_fingerprint, packer)
    quarantine_count = QuarantineCount(
        num_items=sum(len(shard.items) for shard in by_fingerprint.values()),
        max_share=settings.retry.max_quarantined_share,
        where=f"{settings.attempt.stage_id}: {settings.label}",
    )
    pending_shards = [
        _pending(shard, fingerprint) for fingerprint, shard in by_fingerprint.items() if fingerprint not in found
    ]
    for stored in found.values():
        quarantine_count.add(stored.outcome.quarantined)
    log_event = tools.tracker.log_event
    log_event("shards_planned", {"label": settings.label, "shards": len(shards), "reused": len(found)})
    quarantine_count.check()
    map_log = MapLog(
        _where(settings), num_shards=len(by_fingerprint), num_items=quarantine_count.num_items, unit=settings.unit
    )
    map_log.planned(
        (stored.outcome for stored in found.values()),
        num_missing=len(pending_shards),
        workers=settings.resources.workers,
    )
    _report_old_verdicts(settings, found.values())
    places = {fingerprint: place for place, fingerprint in enumerate(by_fingerprint)}
    times = ShardTimes(tools.tracker, settings.label, places)
    times.found(found)
    witnesses = Witnesses()
    for fingerprint, stored in found.items():
        witnesses.add_record(_pending(by_fingerprint[fingerprint], fingerprint), stored)
    run = MapRun(
        worker,
        pending_shards,
        settings,
        tools,
        quarantine_count=quarantine_count,
        witnesses=witnesses,
        map_log=map_log,
        packer=packer,
        times=times,
    )
    try:
        made = run.run()
    finally:
        times.flush()
        packer.close()  # also for the next attempt
    map_log.finished()
    counts = {"made": len(made), "quarantined": quarantine_count.count}
    log_event("shards_finished", {"label": settings.label, "shards": len(shards), **counts})
    records = {**found, **made}
    return [
        FinishedShard(name=shard.name, stored=records[fingerprint], reused=fingerprint in found)
        for shard, fingerprint in zip(shards, fingerprints, strict=True)
    ]


def _pending(shard: Shard, fingerprint: str) -> PendingShard:
    return PendingShard(shard=shard, fingerprint=fingerprint, remaining=tuple(range(len(shard.items))))


def _report_old_verdicts(settings: MapSettings, found: Iterable[StoredShard]) -> None:
    """Say in one line which reused records quarantine items without evidence; they count as they are."""
    old = [stored for stored in found if any(_lacks_evidence(entry) for entry in stored.outcome.quarantined)]
    if old:
        num_items = sum(_lacks_evidence(entry) for stored in old for entry in stored.outcome.quarantined)
        log.warning(
            "%s: %d items are quarantined without evidence in %d records, e.g. %s; they are left out as before. "
            "`illume run --retry-quarantined` looks at them again",
            _where(settings),
            num_items,
            len(old),
            shard_site(old[0].key).commit_key(old[0].commit.generation),
        )


def _lacks_evidence(entry: Quarantined) -> bool:
    """A record of an older version does not say who found it; of what a search found, the tries are the evidence."""
    return entry.found_by == "unknown" or (entry.found_by == "search" and not entry.tries)


def _checked_fingerprint(settings: MapSettings, shard: Shard) -> str:
    try:
        return shard_fingerprint(settings, shard)
    except (TypeError, ValueError) as error:
        raise StageCodeError(
            f"{_where(settings)}: shard {shard.name!r}: {error}; items and identities are plain JSON, with "
            "content by its digest and paths in `work`"
        ) from error


def _check_arguments(worker: ShardWorker, shards: Sequence[Shard], settings: MapSettings) -> None:
    """Raises: StageCodeError: see `map_shards`."""
    where, given = _where(settings), worker
    if isinstance(given, type) or not callable(getattr(given, "start", None)):  # the worker is the user's
        found = given.__name__ if isinstance(given, type) else type(given).__name__
        raise StageCodeError(f"{where}: found {found} as the worker, expected a value of a class with a method `start`")
    for shard in shards:
        if not isinstance(shard, Shard):
            raise StageCodeError(f"{where}: found {type(shard).__name__} among the shards, expected Shard(...)")
    repeated = [name for name, count in Counter(shard.name for shard in shards).items() if count > 1]
    if repeated:
        raise StageCodeError(f"{where}: found two shards named {repeated[0]!r}")


def _where(settings: MapSettings) -> str:
    return f"{settings.attempt.stage_id}: {settings.label}"
