"""What runs, attempts and pins claim, as of now: none of it is retracted.

An artifact is claimed by the plan of a recipe's newest run or of a run that has not ended, by a reservation, by a pin,
and by an attempt that has it on record as an input. A shard is claimed

- by an attempt that has it on record and has not ended, or has committed its artifact;
- by one that was aborted, as long as its artifact is missing and its run may be resumed: the next attempt reuses it;
- by a run at work that has yet to make an artifact of its stage kind: which shards it will reuse is not known before.

Who is at work is asked of `liveness`, as everywhere.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, Select, func, or_, select

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.uses import Use, Uses
from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import runs, stages
from orchestrator.history.events import RunState
from orchestrator.liveness.liveness import Liveness
from orchestrator.retention.pins import pins
from orchestrator.store.commits import roll_forward
from orchestrator.store.layout import artifact_site
from orchestrator.store.store import Store

ENDED = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


@dataclass
class Claims:
    """Claims of one store and its database; each question looks at both again."""

    liveness: Liveness
    uses: Uses = field(init=False)

    def __post_init__(self) -> None:
        self.uses = Uses(self.store)

    @property
    def store(self) -> Store:
        return self.liveness.store

    @property
    def database(self) -> Database:
        return self.liveness.database

    def of_artifacts(self) -> Callable[[ArtifactKey], bool]:
        """A predicate: whether an artifact is claimed now. Ask for a new one before each retraction."""
        fingerprints = self.database.read(_planned) | self.liveness.reserved_artifacts()
        claimed = set(pins(self.store)).union(*(use.artifacts for use in self.uses.open()))
        return lambda key: key.fingerprint in fingerprints or key in claimed

    def of_shards(self, retracting: Collection[ArtifactKey] = ()) -> Callable[[ArtifactKey], bool]:
        """A predicate: whether a shard is claimed now, by more than the artifacts that are being retracted.

        It costs the same for one shard and for a million. Ask for a new one before each lot of retractions.
        """
        found = self.uses.all()
        resumable = self.resumable_runs()
        claimed = set[ArtifactKey]().union(*(use.shards for use in self._claiming(found, resumable, retracting)))
        awaited: dict[str, bool] = {}

        def is_claimed(shard: ArtifactKey) -> bool:
            if shard.stage_kind not in awaited:
                awaited[shard.stage_kind] = self._is_awaited(shard.stage_kind)
            return shard in claimed or awaited[shard.stage_kind]

        return is_claimed

    def _claiming(
        self, uses: Sequence[Use], resumable: Collection[str], retracting: Collection[ArtifactKey]
    ) -> Iterator[Use]:
        """Those of the records that claim their shards."""
        last = {(use.attempt, use.key): use for use in uses if use.shards}
        claims = {name: self._is_claiming(use, resumable, retracting) for name, use in last.items()}
        return (use for use in uses if claims.get((use.attempt, use.key)))

    def _is_claiming(self, use: Use, resumable: Collection[str], retracting: Collection[ArtifactKey]) -> bool:
        if not self.uses.has_ended(use):
            return True
        return use.run_id in resumable if self._is_missing(use.key) else use.key not in retracting

    def is_over(self, use: Use, resumable: Collection[str]) -> bool:
        """Whether a record of use claims nothing that does not follow from an artifact's manifest.

        `resumable`: from `resumable_runs`.
        """
        return self.uses.has_ended(use) and (use.run_id not in resumable or not self._is_missing(use.key))

    def resumable_runs(self) -> set[str]:
        """Ids of the newest run of each recipe and of every run that has not ended."""
        return self.database.read(lambda connection: set(connection.execute(_resumable()).scalars()))

    def _is_awaited(self, stage_kind: str) -> bool:
        """Whether a run at work has yet to make an artifact of a stage kind: it may reuse each shard of the kind."""
        query = select(stages.c.fingerprint).where(
            stages.c.run_id.in_(self.liveness.runs_at_work()),
            stages.c.action == "run",
            stages.c.stage_kind == stage_kind,
        )
        found = self.database.read(lambda connection: set(connection.execute(query).scalars()))
        return any(self._is_missing(ArtifactKey(stage_kind, fingerprint)) for fingerprint in found)

    def _is_missing(self, key: ArtifactKey) -> bool:
        return roll_forward(self.store, artifact_site(key)).commit is None


def _resumable() -> Select[str]:
    newest = select(runs.c.recipe, func.max(runs.c.created_at).label("at")).group_by(runs.c.recipe).subquery()
    is_newest = (runs.c.recipe == newest.c.recipe) & (runs.c.created_at == newest.c.at)
    of_newest = select(runs.c.run_id).join(newest, is_newest)
    return select(runs.c.run_id).where(or_(runs.c.run_id.in_(of_newest), runs.c.state.not_in(ENDED)))


def _planned(connection: Connection) -> set[str]:
    """Fingerprints in the plans of the runs that may be resumed."""
    query = select(stages.c.fingerprint).where(stages.c.run_id.in_(_resumable()))
    return set(connection.execute(query).scalars())
