"""The durable shard map: shards whose record exists are never run; the others run once, whoever asks for them.

What happens when workers fail is decided in `map_run.py`, which items are at fault in `poison.py`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.artifact import JSON
from orchestrator.artifacts.shard_ledger import StoredShard
from orchestrator.identity import fingerprint_of
from orchestrator.shard_map.map_run import Lot, MapRun, MapSettings, MapTools
from orchestrator.shard_map.quarantine import Tally
from orchestrator.shards import Shard, ShardWorker


def shard_fingerprint(settings: MapSettings, shard: Shard) -> str:
    """Covers everything that decides the shard's output, and nothing of the other shards.

    A shard that held what was taken down is followed by one that names the takedown.
    """
    payload: dict[str, JSON] = {
        "stage_kind": settings.stage_kind,
        "version": settings.version,
        "label": settings.label,
        "identity": dict(settings.identity),
        "items": list(shard.items),
        "shard_identity": dict(shard.identity),
    }
    fingerprint, named = fingerprint_of(payload), list[JSON]()
    for takedown in settings.takedowns:
        if takedown.holds_shard(fingerprint):
            named.append(takedown.id)
            fingerprint = fingerprint_of({**payload, "takedowns": named})
    return fingerprint


@dataclass(frozen=True, kw_only=True)
class FinishedShard:
    name: str
    stored: StoredShard
    reused: bool  # made earlier, by this or another run


def map_shards(
    worker: ShardWorker, shards: Sequence[Shard], settings: MapSettings, tools: MapTools
) -> list[FinishedShard]:
    """See `StageContext.map_shards`. Shards with equal identities are made once.

    Raises:
        CancelledError: a stop was requested; shards under way were finished first.
        ClassifiedError: a failure that was not overcome, with its class.
        ValueError: two shards have one name.
    """
    _check_names(settings, shards)
    fingerprints = [shard_fingerprint(settings, shard) for shard in shards]
    by_fingerprint = dict(zip(reversed(fingerprints), reversed(shards), strict=True))  # the first of equal ones
    by_fingerprint = {fingerprint: by_fingerprint[fingerprint] for fingerprint in fingerprints}
    found = tools.ledger.find_many(settings.stage_kind, by_fingerprint)
    tally = Tally(
        num_items=sum(len(shard.items) for shard in by_fingerprint.values()),
        max_share=settings.retry.max_quarantined_share,
        where=f"{settings.stage_id}: {settings.label}",
    )
    lots = [
        Lot(shard=shard, fingerprint=fingerprint, left=tuple(range(len(shard.items))))
        for fingerprint, shard in by_fingerprint.items()
        if fingerprint not in found
    ]
    for stored in found.values():
        tally.add(stored.outcome.quarantined)
    tell = tools.tracker.log_event
    tell("shards_planned", {"label": settings.label, "shards": len(shards), "reused": len(found)})
    tally.check()
    made = MapRun(worker, lots, settings, tools, tally=tally, reused=found).run()
    left_out = {"made": len(made), "quarantined": tally.count}
    tell("shards_finished", {"label": settings.label, "shards": len(shards), **left_out})
    records = {**found, **made}
    return [
        FinishedShard(name=shard.name, stored=records[fingerprint], reused=fingerprint in found)
        for shard, fingerprint in zip(shards, fingerprints, strict=True)
    ]


def _check_names(settings: MapSettings, shards: Sequence[Shard]) -> None:
    doubled = [name for name, count in Counter(shard.name for shard in shards).items() if count > 1]
    if doubled:
        raise ValueError(f"{settings.stage_id}: {settings.label}: found two shards named {doubled[0]!r}")
