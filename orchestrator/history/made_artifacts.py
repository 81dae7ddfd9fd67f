"""Queries of what runs made: the newest committed attempts of some kinds, and which stages read or made an artifact."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import attempts, runs, stages
from orchestrator.history.events import AttemptState


@dataclass(frozen=True, kw_only=True)
class MadeArtifact:
    """A committed attempt: what was made, by which stage of which run."""

    run_id: str
    recipe: str
    stage_id: str
    stage_kind: str
    fingerprint: str
    made_at: float  # seconds since 1970


@dataclass(frozen=True, kw_only=True)
class StageUse:
    """A stage of a run that has an artifact as its output, made or reused, and what stands below and above it."""

    run_id: str
    recipe: str
    stage_id: str
    action: str
    created_at: float  # of the run
    upstream: tuple[tuple[str, str, str], ...]  # (stage, kind, fingerprint) of what it reads
    downstream: tuple[tuple[str, str, str], ...]  # of what reads it


def made_artifacts(
    database: Database, kinds: Sequence[str], *, text: str = "", before: float | None = None, limit: int
) -> list[MadeArtifact]:
    """The newest first. `text`: a part of the recipe's or the stage's name, or the start of the fingerprint."""
    query = (
        select(attempts, runs.c.recipe)
        .join(runs, runs.c.run_id == attempts.c.run_id)
        .where(attempts.c.state == AttemptState.COMMITTED, attempts.c.stage_kind.in_(kinds))
        .order_by(attempts.c.ended_at.desc(), attempts.c.attempt_id)
        .limit(limit)
    )
    if text:
        columns = (runs.c.recipe, attempts.c.stage_id)
        is_named = [column.icontains(text, autoescape=True) for column in columns]
        query = query.where(is_named[0] | is_named[1] | attempts.c.fingerprint.startswith(text, autoescape=True))
    if before is not None:
        query = query.where(attempts.c.ended_at < before)
    rows = database.read(lambda connection: list(connection.execute(query)))
    return [
        MadeArtifact(
            run_id=row.run_id,
            recipe=row.recipe,
            stage_id=row.stage_id,
            stage_kind=row.stage_kind,
            fingerprint=row.fingerprint,
            made_at=row.ended_at,
        )
        for row in rows
    ]


def uses_of(database: Database, fingerprint: str, *, limit: int) -> list[StageUse]:
    """The stages of the newest runs that made or reused an artifact."""
    query = (
        select(stages, runs.c.recipe, runs.c.created_at)
        .join(runs, runs.c.run_id == stages.c.run_id)
        .where(stages.c.fingerprint == fingerprint)
        .order_by(runs.c.created_at.desc())
        .limit(limit)
    )
    found = database.read(lambda connection: list(connection.execute(query)))
    around = select(stages).where(stages.c.run_id.in_([row.run_id for row in found])).order_by(stages.c.position)
    neighbours = database.read(lambda connection: list(connection.execute(around)))
    uses = []
    for row in found:
        upstream = set(json.loads(row.upstream))
        of_run = [other for other in neighbours if other.run_id == row.run_id]
        above = tuple((s.stage_id, s.stage_kind, s.fingerprint) for s in of_run if s.stage_id in upstream)
        below = tuple(
            (s.stage_id, s.stage_kind, s.fingerprint) for s in of_run if row.stage_id in json.loads(s.upstream)
        )
        uses.append(
            StageUse(
                run_id=row.run_id,
                recipe=row.recipe,
                stage_id=row.stage_id,
                action=row.action,
                created_at=row.created_at,
                upstream=above,
                downstream=below,
            )
        )
    return uses
