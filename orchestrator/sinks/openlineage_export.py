"""Export of the store's artifacts as OpenLineage events: for each, the COMPLETE event of the attempt that made it.

Made from manifests alone, with the ids and names that the OpenLineage sink uses, so that a catalogue that received an
attempt's events from the sink merges these with them. Inputs that are no longer in the store are omitted.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from orchestrator.artifact import JSON
from orchestrator.artifacts.artifact_store import StoredArtifact
from orchestrator.artifacts.manifest_summary import artifact_fields, counted_rows
from orchestrator.history.actors import ACTOR_FIELD
from orchestrator.history.events import AttemptState, Event, EventKind, event_fields
from orchestrator.sinks.openlineage_sink import run_event, store_location

UNKNOWN = "unknown"


def lineage_events(
    artifacts: Iterable[StoredArtifact], recipes: Mapping[str, str], *, store_url: str
) -> Iterator[dict[str, JSON]]:
    """The events, parents before the artifacts made from them. `recipes`: recipe names by run, as far as known."""
    location = store_location(store_url)
    known = {str(artifact.manifest.fingerprint): artifact for artifact in artifacts}
    for artifact in sorted(known.values(), key=lambda found: (found.commit.committed_s, found.commit.attempt)):
        line: Any = run_event(_event(artifact, known, recipes), location)
        del line["run"]["facets"]["illume_event"]  # it does not correspond to an event recorded by a run
        yield line


def _event(artifact: StoredArtifact, known: Mapping[str, StoredArtifact], recipes: Mapping[str, str]) -> Event:
    manifest, provenance = artifact.manifest, artifact.manifest.provenance
    run_id = str(provenance.get("run", UNKNOWN))
    parents = [(slot, parent) for slot, found in manifest.inputs.items() for parent in found]
    inputs: list[JSON] = [_input(slot, known[parent]) for slot, parent in parents if parent in known]
    fields: dict[str, JSON] = {
        "to": AttemptState.COMMITTED,
        "recipe": recipes.get(run_id, UNKNOWN),
        "attempt_epoch": artifact.commit.epoch,
        "fingerprint": str(manifest.fingerprint),
        "config": manifest.payload.get("config", {}),
        "inputs": inputs,
        "artifact": artifact_fields(manifest, artifact.manifest_sha256),
        ACTOR_FIELD: {"program": str(provenance.get("version", ""))},
    }
    return Event(
        run_id=run_id,
        sequence=0,
        time=artifact.commit.committed_s,
        epoch=artifact.commit.epoch,
        kind=EventKind.ATTEMPT_STATE,
        fields=event_fields(fields),
        stage_id=str(provenance.get("stage", manifest.stage_kind)),
        attempt_id=artifact.commit.attempt,
    )


def _input(slot: str, parent: StoredArtifact) -> JSON:
    manifest = parent.manifest
    return {
        "slot": slot,
        "kind": manifest.kind,
        "digest": str(manifest.fingerprint),
        "name": manifest.stage_kind,
        "bytes": sum(entry.bytes for entry in manifest.files),
        "rows": counted_rows(manifest.files),
        "files": len(manifest.files),
    }
