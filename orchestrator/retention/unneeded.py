"""Which committed artifacts nobody needs any more, and giving them up. The collector deletes their files afterwards.

Needed is: what the newest run of any recipe or a run that has not ended plans with, what is pinned, what is a
registered model, what is young, and everything that such an artifact was made from.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from orchestrator.artifacts.artifact_store import ArtifactStore, StoredArtifact
from orchestrator.artifacts.run_records import RunRecords
from orchestrator.errors import DatabaseError
from orchestrator.history.database import Database
from orchestrator.history.events import RunState
from orchestrator.history.schema import leases, runs, stages
from orchestrator.retention.pins import Place, pins
from orchestrator.store.commits import retract, roll_forward
from orchestrator.store.layout import artifact_site, shard_site
from orchestrator.store.store import Store

ENDED = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


@dataclass(frozen=True, kw_only=True)
class Unneeded:
    """A committed artifact that may be given up."""

    stage_kind: str
    fingerprint: str
    kind: str
    bytes: int
    shards: tuple[str, ...]  # fingerprints of those that belong to no artifact that stays
    inputs: tuple[str, ...] = ()  # fingerprints of what it was made from


def unneeded_artifacts(
    artifacts: ArtifactStore,
    database: Database,
    *,
    now_s: float,
    older_than_s: float,
    is_registered: Callable[[str], bool],
) -> list[Unneeded]:
    """What may be given up now. `is_registered` says of a stage kind whether its artifacts are registered models.

    Raises: DatabaseError: the database does not know all runs of the store, so what they need cannot be told.
    """
    _check_complete(artifacts.store, database)
    stored = {(one.manifest.stage_kind, str(one.manifest.fingerprint)): one for one in artifacts.all()}
    is_claimed = _claims(artifacts.store, database)

    def is_needed(place: Place) -> bool:
        return (
            is_claimed(place)
            or is_registered(place[0])
            or _committed_at_s(artifacts.store, stored[place]) > now_s - older_than_s
        )

    inputs = {place: _inputs(one) for place, one in stored.items()}
    staying = _with_inputs(inputs, [place for place in stored if is_needed(place)])
    shards_kept = {shard for place in staying for shard in stored[place].manifest.shards}
    return [
        Unneeded(
            stage_kind=place[0],
            fingerprint=place[1],
            kind=one.manifest.kind,
            bytes=sum(file.bytes for file in one.manifest.files),
            shards=tuple(shard for shard in one.manifest.shards if shard not in shards_kept),
            inputs=inputs[place],
        )
        for place, one in sorted(stored.items())
        if place not in staying
    ]


def give_up(
    artifacts: ArtifactStore, database: Database, unneeded: Sequence[Unneeded], *, reason: str
) -> list[Unneeded]:
    """Retract artifacts with the shards that only they hold, and say which. Can be interrupted and repeated.

    What a run or a pin has laid claim to since `unneeded` was told stays, with what it was made from: each is looked
    at again right before it goes, and goes before its inputs do.
    """
    inputs = {(one.stage_kind, one.fingerprint): one.inputs for one in unneeded}
    gone: list[Unneeded] = []
    for one in sorted(unneeded, key=lambda one: -len(_with_inputs(inputs, [(one.stage_kind, one.fingerprint)]))):
        is_claimed = _claims(artifacts.store, database)
        staying = _with_inputs(inputs, [place for place in inputs if is_claimed(place)])
        if (one.stage_kind, one.fingerprint) in staying:
            continue
        going = {fingerprint for _, fingerprint in inputs.keys() - staying}
        others = (each.manifest for each in artifacts.all(one.stage_kind) if each.manifest.fingerprint not in going)
        held = {shard for manifest in others for shard in manifest.shards}  # also by what was committed since
        for shard in set(one.shards) - held:
            site = shard_site(one.stage_kind, shard)
            found = roll_forward(artifacts.store, site)
            if found.commit:
                retract(artifacts.store, site, found.generation, reason=reason)
        artifacts.retract(one.stage_kind, one.fingerprint, reason=reason)  # last: it is what names the shards
        gone.append(one)
    return gone


def _claims(store: Store, database: Database) -> Callable[[Place], bool]:
    """Whether a run plans with an artifact, somebody makes it, or it is pinned, as of now."""
    fingerprints = database.read(_planned) | database.read(_reserved)
    pinned = set(pins(store))
    return lambda place: place[1] in fingerprints or place in pinned


def _inputs(one: StoredArtifact) -> tuple[str, ...]:
    return tuple(parent for slot in one.manifest.inputs.values() for parent in slot)


def _with_inputs(inputs: Mapping[Place, tuple[str, ...]], places: Sequence[Place]) -> set[Place]:
    """Those places and all that they were made from, of the places in `inputs`."""
    by_fingerprint: dict[str, list[Place]] = {}
    for place in inputs:
        by_fingerprint.setdefault(place[1], []).append(place)
    found: set[Place] = set()
    pending = list(places)
    while pending:
        place = pending.pop()
        if place not in found:
            found.add(place)
            pending += [each for parent in inputs[place] for each in by_fingerprint.get(parent, ())]
    return found


def _planned(connection: Connection) -> set[str]:
    """Fingerprints in the plans of the newest run of each recipe and of every run that has not ended."""
    newest = select(runs.c.recipe, func.max(runs.c.created_at).label("at")).group_by(runs.c.recipe).subquery()
    is_newest = (runs.c.recipe == newest.c.recipe) & (runs.c.created_at == newest.c.at)
    of_newest = select(runs.c.run_id).join(newest, is_newest)
    open_ones = select(runs.c.run_id).where(runs.c.state.not_in(ENDED))
    query = select(stages.c.fingerprint).where(stages.c.run_id.in_(of_newest) | stages.c.run_id.in_(open_ones))
    return set(connection.execute(query).scalars())


def _reserved(connection: Connection) -> set[str]:
    """Fingerprints that somebody is making, or was making when it was cut off."""
    query = select(leases.c.resource).where(leases.c.resource.like("artifact:%"), leases.c.owner != "")
    return {resource.removeprefix("artifact:") for resource in connection.execute(query).scalars()}


def _check_complete(store: Store, database: Database) -> None:
    known = set(database.read(lambda connection: connection.execute(select(runs.c.run_id)).scalars().all()))
    if missing := [run_id for run_id, _ in RunRecords(store).runs() if run_id not in known]:
        raise DatabaseError(
            f"database {database.address}: does not know {len(missing)} runs of {store.url}, the first is "
            f"{missing[0]}; make it complete with `illume index rebuild` before anything is given up"
        )


def _committed_at_s(store: Store, stored: StoredArtifact) -> float:
    site = artifact_site(stored.manifest.stage_kind, str(stored.manifest.fingerprint))
    return max(_modified(store, site.attempt_key(stored.commit.attempt)), default=float("inf"))


def _modified(store: Store, folder: str) -> Iterator[float]:
    """Of the records of an attempt; its data may be links to older files."""
    return (item.modified_s for item in store.list(folder) if "/data/" not in item.key)
