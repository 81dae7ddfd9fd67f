"""Where a stored dataset comes from, for its page: run, recipe, identity, date, code, who asked, all thresholds."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from orchestrator.actor import current_actor
from orchestrator.artifact import JSON, ArtifactKey, Manifest
from orchestrator.artifacts.artifact_store import ArtifactStore, StoredArtifact
from orchestrator.artifacts.takedowns import PROVENANCE_TAKEDOWNS
from orchestrator.commands.shared.targets import planned_stages
from orchestrator.errors import OrchestratorError
from orchestrator.history.actors import ActorRecord, actor_of
from orchestrator.history.run_status import run_status
from orchestrator.history.run_store import RunStore
from orchestrator.planning.defaults import complete_config
from orchestrator.planning.stage_identity import PROVENANCE_CODE
from orchestrator.recipe.loading import Kinds
from orchestrator.times import short_time

if TYPE_CHECKING:
    from data_pipelines.audit.origin import Origin, Threshold

EVALUATION_SLOT, EVALUATION_IMAGES, EVALUATION_UNREAD = "evaluation", "evaluation_images", "evaluation_unread"
NOT_RECORDED = "not recorded"
NOT_THRESHOLDS = ("paths", "images")  # of a configuration: what was read, which is no limit on it


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What the history knows of the run that made the dataset."""

    text: str
    asked_by: ActorRecord | None
    planned: Mapping[str, Mapping[str, Any]]  # by stage


def dataset_origin(artifacts: ArtifactStore, runs: RunStore, kinds: Kinds, stored: StoredArtifact) -> "Origin":
    """The origin of a dataset in the store; what the history does not know any more is called so."""
    from data_pipelines.audit.origin import Origin

    manifest = stored.manifest
    run = _run(artifacts, runs, str(manifest.provenance.get("run", "")))
    metrics = manifest.metrics
    is_compared = bool(manifest.inputs.get(EVALUATION_SLOT))
    return Origin(
        facts=list(_facts(stored, run)),
        thresholds=list(_thresholds(artifacts, kinds, manifest, run)),
        evaluation_images=int(metrics.get(EVALUATION_IMAGES, 0)) if is_compared else 0,
        evaluation_unread=int(metrics.get(EVALUATION_UNREAD, 0)),
    )


def failed_origin(
    artifacts: ArtifactStore, runs: RunStore, kinds: Kinds, *, run_id: str, stage_id: str, attempt: str
) -> "Origin":
    """The origin of what a failed attempt found, of which nothing is in the store."""
    from data_pipelines.audit.origin import Origin

    run = _run(artifacts, runs, run_id)
    planned = run.planned.get(stage_id, {})
    facts = [
        ("run", run.text),
        ("stage", f"{stage_id}, kind {planned.get('kind', NOT_RECORDED)}"),
        ("attempt", f"{attempt}, which failed: nothing of it is committed"),
        ("identity", f"{planned.get('fingerprint', NOT_RECORDED)}, which it would have had"),
        *_asked(run.asked_by),
        ("this page", f"{_time_text(datetime.now(UTC).timestamp())}, written by {current_actor().name}"),
    ]
    return Origin(facts=facts, thresholds=list(_planned_thresholds(kinds, run, stage_id)))


def _asked(asked: ActorRecord | None) -> Iterator[tuple[str, str]]:
    yield "asked for by", asked.name if asked else NOT_RECORDED
    if asked and asked.command:
        yield "command", asked.command
    if asked and asked.reason:
        yield "reason", asked.reason


def _planned_thresholds(kinds: Kinds, run: _Run, stage_id: str) -> "Iterator[Threshold]":
    """Of a stage of the plan and of those that it reads, the nearest first."""
    pending, known = [stage_id], {stage_id}
    while pending:
        name = pending.pop(0)
        planned = run.planned.get(name, {})
        payload = planned.get("payload", {})
        yield from _of_config(name, kinds, str(planned.get("kind")), payload.get("config", {}))
        yield from _of_plan(name, planned)
        above = [str(parent) for parents in planned.get("inputs", {}).values() for parent in parents]
        pending += [parent for parent in above if parent not in known]
        known.update(above)


def _facts(stored: StoredArtifact, run: _Run) -> Iterator[tuple[str, str]]:
    manifest, provenance = stored.manifest, stored.manifest.provenance
    code = provenance.get(PROVENANCE_CODE)
    digest = str(code.get("digest", ""))[:16] if isinstance(code, dict) else ""
    yield "run", run.text
    yield (
        "stage",
        f"{provenance.get('stage', '')}, kind {manifest.stage_kind} version {manifest.payload.get('version')}",
    )
    yield "identity", str(manifest.fingerprint)
    yield "manifest SHA-256", stored.manifest_sha256
    yield "made", f"{_time_text(stored.commit.committed_s)}, on {provenance.get('host', 'an unknown host')}"
    yield from _asked(run.asked_by)
    yield "code", f"illume {provenance.get('version', NOT_RECORDED)}, source digest {digest or NOT_RECORDED}"
    takedowns = provenance.get(PROVENANCE_TAKEDOWNS)
    yield "takedowns respected", ", ".join(map(str, takedowns)) if isinstance(takedowns, list) and takedowns else "none"
    yield "this page", f"{_time_text(datetime.now(UTC).timestamp())}, written by {current_actor().name}"


def _time_text(seconds: float) -> str:
    """In UTC and, where that differs, in the time of this machine; both with their zone."""
    local = datetime.fromtimestamp(seconds, UTC).astimezone()
    here = f" ({local.isoformat(timespec='seconds')})" if local.utcoffset() else ""
    return f"{short_time(seconds)}{here}"


def _run(artifacts: ArtifactStore, runs: RunStore, run_id: str) -> _Run:
    try:
        summary = run_status(runs.database, run_id).run
        planned = {str(stage["id"]): stage for stage in planned_stages(artifacts, summary)}
    except OrchestratorError:  # of another database, or its plan was deleted
        return _Run(text=f"{run_id or NOT_RECORDED}, which the history does not know", asked_by=None, planned={})
    first = runs.events(run_id, limit=1)
    return _Run(
        text=f"{run_id} of recipe {summary.recipe}, plan {summary.plan_digest[:12]}",
        asked_by=actor_of(first[0]) if first else None,
        planned=planned,
    )


def _thresholds(artifacts: ArtifactStore, kinds: Kinds, manifest: Manifest, run: _Run) -> "Iterator[Threshold]":
    """Of the dataset's stage and of those that it was made from, the nearest first."""
    pending, known = [manifest], {str(manifest.fingerprint)}
    while pending:
        found = pending.pop(0)
        stage = str(found.provenance.get("stage", found.stage_kind))
        yield from _of_config(stage, kinds, found.stage_kind, found.payload.get("config", {}))
        yield from _of_plan(stage, run.planned.get(stage, {}))
        for parents in found.inputs.values():
            for parent in parents:
                stored = None if parent in known else _stored(artifacts, kinds, parent)
                known.add(str(parent))
                if stored is not None:
                    pending.append(stored.manifest)


def _stored(artifacts: ArtifactStore, kinds: Kinds, fingerprint: str) -> StoredArtifact | None:
    found = (artifacts.stored(ArtifactKey(kind, fingerprint)) for kind in kinds)
    return next((stored for stored in found if stored is not None), None)


def _of_config(stage: str, kinds: Kinds, stage_kind: str, config: JSON) -> "Iterator[Threshold]":
    from data_pipelines.audit.origin import Threshold

    kind = kinds.get(stage_kind)
    given = dict(_leaves(config))
    whole = complete_config(kind.config, config) if kind else config
    for name, value in _leaves(whole):
        if name.split(".")[-1] not in NOT_THRESHOLDS:
            yield Threshold(stage=stage, name=name, value=_text(value), is_default=name not in given)


def _of_plan(stage: str, planned: Mapping[str, Any]) -> "Iterator[Threshold]":
    from data_pipelines.audit.origin import Threshold

    for section in ("gates", "execution"):
        for name, value in _leaves(planned.get(section, {})):
            if value is not None:
                yield Threshold(
                    stage=stage, name=f"{section}.{name}", value=_text(value), is_default=section != "gates"
                )


def _leaves(value: JSON, path: str = "") -> Iterator[tuple[str, JSON]]:
    """(dotted path, value) of every leaf; a list is one leaf."""
    if isinstance(value, dict) and (value or not path):
        for name, item in value.items():
            yield from _leaves(item, f"{path}.{name}" if path else name)
    else:
        yield path, value


def _text(value: JSON) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
