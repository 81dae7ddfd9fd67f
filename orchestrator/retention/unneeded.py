"""Finds committed artifacts that nothing needs, and retracts them; garbage collection deletes their files afterwards.

Needed are: artifacts that are claimed (see `claims.py`), registered models, young artifacts, and everything that these
were made from. Their shards stay where they are in use or a run may reuse them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.artifact_store import ArtifactStore, StoredArtifact
from orchestrator.artifacts.run_records import RunRecords
from orchestrator.errors import DatabaseError
from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import runs
from orchestrator.liveness.liveness import Liveness
from orchestrator.retention.claims import Claims
from orchestrator.retention.shard_batches import committed_shards, retract_shards
from orchestrator.store.layout import artifact_site
from orchestrator.store.store import Store

SHARDS_AT_ONCE = 20_000  # that are retracted between two looks at what is in use


@dataclass(frozen=True, kw_only=True)
class UnneededArtifact:
    """A committed artifact that may be retracted."""

    stage_kind: str
    fingerprint: str
    kind: str
    bytes: int
    shards: tuple[str, ...]  # fingerprints of its shards that no needed artifact contains
    inputs: tuple[str, ...] = ()  # fingerprints of what it was made from

    @property
    def key(self) -> ArtifactKey:
        return ArtifactKey(self.stage_kind, self.fingerprint)


def unneeded_artifacts(
    artifacts: ArtifactStore,
    liveness: Liveness,
    *,
    now_s: float,
    older_than_s: float,
    is_registered: Callable[[str], bool],
) -> list[UnneededArtifact]:
    """The artifacts that may be retracted now. `is_registered`: stage kind -> whether it makes registered models.

    Raises: DatabaseError: the database does not know all runs of the store, so it is unknown what they need.
    """
    check_complete(artifacts.store, liveness.database)
    stored = {artifact.manifest.key: artifact for artifact in artifacts.all()}
    is_claimed = Claims(liveness).of_artifacts()

    def is_needed(key: ArtifactKey) -> bool:
        return (
            is_claimed(key)
            or is_registered(key.stage_kind)
            or _committed_at_s(artifacts.store, stored[key]) > now_s - older_than_s
        )

    inputs = {key: _inputs(artifact) for key, artifact in stored.items()}
    staying = _with_inputs(inputs, [key for key in stored if is_needed(key)])
    shards_kept = {shard for key in staying for shard in stored[key].manifest.shards}
    return [
        UnneededArtifact(
            stage_kind=key.stage_kind,
            fingerprint=key.fingerprint,
            kind=artifact.manifest.kind,
            bytes=sum(file.bytes for file in artifact.manifest.files),
            shards=tuple(shard for shard in artifact.manifest.shards if shard not in shards_kept),
            inputs=inputs[key],
        )
        for key, artifact in sorted(stored.items())
        if key not in staying
    ]


def retract_unneeded(
    artifacts: ArtifactStore, liveness: Liveness, unneeded: Sequence[UnneededArtifact], *, reason: str
) -> list[UnneededArtifact]:
    """Retract artifacts with the shards that only they contain; returns the retracted ones.

    An artifact that a run or a pin has claimed since `unneeded` was computed stays, with everything it was made from:
    each artifact is checked again right before it is retracted, and is retracted before its inputs. Shards that are in
    use stay, looked at right before each lot of them is retracted. An interrupted call can be repeated.
    """
    claims = Claims(liveness)
    inputs = {artifact.key: artifact.inputs for artifact in unneeded}
    retracted: list[UnneededArtifact] = []
    for artifact in sorted(unneeded, key=lambda artifact: -len(_with_inputs(inputs, [artifact.key]))):
        is_claimed = claims.of_artifacts()
        staying = _with_inputs(inputs, [key for key in inputs if is_claimed(key)])
        if artifact.key in staying:
            continue
        retracting = inputs.keys() - staying
        others = (
            other.manifest for other in artifacts.all(artifact.stage_kind) if other.manifest.key not in retracting
        )
        shared = {shard for manifest in others for shard in manifest.shards}  # also by artifacts committed since
        keys = [ArtifactKey(artifact.stage_kind, shard) for shard in sorted(set(artifact.shards) - shared)]
        for start in range(0, len(keys), SHARDS_AT_ONCE):
            is_wanted = claims.of_shards(retracting)
            lot = [key for key in keys[start : start + SHARDS_AT_ONCE] if not is_wanted(key)]
            retract_shards(artifacts.store, committed_shards(artifacts.store, lot), reason=reason)
        artifacts.retract(artifact.key, reason=reason)  # last: its manifest lists the shards
        retracted.append(artifact)
    return retracted


def _inputs(artifact: StoredArtifact) -> tuple[str, ...]:
    return tuple(parent for slot in artifact.manifest.inputs.values() for parent in slot)


def _with_inputs(inputs: Mapping[ArtifactKey, tuple[str, ...]], keys: Sequence[ArtifactKey]) -> set[ArtifactKey]:
    """The artifacts `keys` and all artifacts in `inputs` that they were made from."""
    by_fingerprint: dict[str, list[ArtifactKey]] = {}
    for key in inputs:
        by_fingerprint.setdefault(key.fingerprint, []).append(key)
    found: set[ArtifactKey] = set()
    pending = list(keys)
    while pending:
        key = pending.pop()
        if key not in found:
            found.add(key)
            pending += [made for parent in inputs[key] for made in by_fingerprint.get(parent, ())]
    return found


def check_complete(store: Store, database: Database) -> None:
    """Raises: DatabaseError: the database does not know all runs of the store, so it is unknown what they need."""
    known = set(database.read(lambda connection: connection.execute(select(runs.c.run_id)).scalars().all()))
    if missing := [run_id for run_id, _ in RunRecords(store).runs() if run_id not in known]:
        raise DatabaseError(
            f"database {database.address}: does not know {len(missing)} runs of {store.url}, the first is "
            f"{missing[0]}; make it complete with `illume index rebuild` before anything is retracted"
        )


def _committed_at_s(store: Store, stored: StoredArtifact) -> float:
    site = artifact_site(stored.manifest.key)
    return max(_modified_s(store, site.attempt_key(stored.commit.attempt)), default=float("inf"))


def _modified_s(store: Store, folder: str) -> Iterator[float]:
    """Modification times of the records of an attempt; its data files may be links to older files."""
    return (item.modified_s for item in store.list(folder) if "/data/" not in item.key)
