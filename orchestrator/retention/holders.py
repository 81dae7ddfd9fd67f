"""Who keeps shards and artifacts from being deleted: the attempts that have them on record as in use."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.attempt_guard import is_known
from orchestrator.artifacts.uses import Use
from orchestrator.history.open_attempts import attempt_names
from orchestrator.liveness.liveness import Liveness
from orchestrator.retention.claims import Claims
from orchestrator.store.layout import USES

HolderState = Literal["at work", "may be resumed", "not ended", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Holder:
    """An attempt whose records of use claim something that its artifact's manifest does not say."""

    attempt: str
    run_id: str
    key: ArtifactKey  # of the artifact that it makes
    state: HolderState
    shards: int
    artifacts: int
    since_s: float  # its first record, seconds since 1970 by the store's clock
    folder: str  # of its records in the store

    @property
    def sentence(self) -> str:
        """What it is and what to do, for a person."""
        match self.state:
            case "at work":
                return "is at work"
            case "may be resumed":
                return "has ended; its run may be resumed and reuses them"
            case "not ended":
                return "has not ended, and nothing shows it at work; `illume gc --delete` ends what is old enough"
            case "unknown":
                return (
                    "is known neither to the store nor to the database, so it will never end; `illume index rebuild` "
                    f"finds lost runs, and if it finds none, delete {self.folder}/ from the store"
                )


def holders(liveness: Liveness, is_live: Callable[[str], bool]) -> list[Holder]:
    """The holders, those with the most shards first. `is_live`: stage attempt id -> whether it may be working.

    Raises: CorruptArtifactError, NewerFormatError: a record of use cannot be read.
    """
    claims = Claims(liveness)
    resumable, names = claims.resumable_runs(), attempt_names(liveness.database)
    written_s = {item.key: item.modified_s for item in liveness.store.list(USES)}
    by_attempt: dict[tuple[str, ArtifactKey], list[Use]] = {}
    for use in claims.uses.all():
        by_attempt.setdefault((use.attempt, use.key), []).append(use)
    found = []
    for (attempt, key), uses in by_attempt.items():
        if claims.is_over(uses[0], resumable):
            continue
        found.append(
            Holder(
                attempt=attempt,
                run_id=uses[0].run_id,
                key=key,
                state=_state(claims, uses[0], names, is_live),
                shards=sum(len(use.shards) for use in uses),
                artifacts=len(frozenset[ArtifactKey]().union(*(use.artifacts for use in uses))),
                since_s=min(written_s.get(use.record_key, float("inf")) for use in uses),
                folder=f"{USES}/{attempt}",
            )
        )
    return sorted(found, key=lambda holder: (-holder.shards, holder.attempt))


def _state(claims: Claims, use: Use, names: frozenset[str], is_live: Callable[[str], bool]) -> HolderState:
    if claims.uses.has_ended(use):
        return "may be resumed"
    if use.attempt not in names and not is_known(claims.store, use.key, use.attempt):
        return "unknown"
    return "at work" if is_live(use.attempt) else "not ended"
