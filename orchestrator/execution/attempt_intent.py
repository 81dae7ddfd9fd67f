"""What is recorded of an attempt before it starts: its stage, its config and what it reads."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.attempt_id import AttemptId
from orchestrator.history.attempts import AttemptIntent, InputSummary
from orchestrator.identity import config_to_json
from orchestrator.planning.plan import PlannedStage
from orchestrator.reference.kind_pages import kind_summary


def attempt_intent(
    planned: PlannedStage, inputs: Mapping[str, Sequence[PlannedStage]], attempt: AttemptId, artifacts: ArtifactStore
) -> AttemptIntent:
    """The record of an attempt at a planned stage; `inputs` are committed."""
    spec = planned.spec
    return AttemptIntent(
        attempt=attempt,
        key=planned.key,
        stage_version=spec.kind.version,
        config=config_to_json(spec.config),
        inputs=(*_input_summaries(inputs, artifacts), *_source_summaries(planned)),
        fields={"resources": dict(asdict(spec.resources)), "description": kind_summary(spec.kind)},
    )


def _input_summaries(inputs: Mapping[str, Sequence[PlannedStage]], artifacts: ArtifactStore) -> Iterator[InputSummary]:
    for slot, stages in inputs.items():
        for stage in stages:
            manifest = artifacts.find(stage.key)
            files = manifest.files if manifest else ()
            rows = [entry.rows for entry in files if entry.rows is not None]
            yield InputSummary(
                slot=slot,
                kind=stage.spec.kind.output,
                digest=stage.fingerprint,
                name=stage.spec.kind.name,
                bytes=sum(entry.bytes for entry in files),
                rows=sum(rows) if rows else None,
                files=len(files),
            )


def _source_summaries(planned: PlannedStage) -> Iterator[InputSummary]:
    sources = planned.payload.get("sources")
    for name, digest in sources.items() if isinstance(sources, dict) else ():
        yield InputSummary(slot="sources", kind="source", digest=str(digest), name=name)
