"""Artifacts of the store as OpenLineage events: for each the COMPLETE event of the attempt that made it.

Made from manifests alone, with the ids and names that the OpenLineage sink uses, so that a catalogue which has heard
of an attempt from the sink takes this for more about the same. An input that is no longer in the store is left out.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from orchestrator.artifact import JSON
from orchestrator.artifacts.artifact_store import StoredArtifact
from orchestrator.artifacts.manifest_summary import artifact_fields, counted_rows
from orchestrator.history.events import AttemptState, Event, EventKind, masked_fields
from orchestrator.sinks.openlineage_sink import run_event, store_place

UNKNOWN = "unknown"


def lineage_events(
    stored: Iterable[StoredArtifact], recipes: Mapping[str, str], *, store_url: str
) -> Iterator[dict[str, JSON]]:
    """`recipes`: the names of recipes by run, as far as they are known. Parents come before what is made from them."""
    place = store_place(store_url)
    known = {str(one.manifest.fingerprint): one for one in stored}
    for one in sorted(known.values(), key=lambda artifact: (artifact.commit.committed_s, artifact.commit.attempt)):
        line: Any = run_event(_event(one, known, recipes), place)
        del line["run"]["facets"]["illume_event"]  # it is of no event that a run has recorded
        yield line


def _event(one: StoredArtifact, known: Mapping[str, StoredArtifact], recipes: Mapping[str, str]) -> Event:
    manifest, provenance = one.manifest, one.manifest.provenance
    run_id = str(provenance.get("run", UNKNOWN))
    parents = [(slot, parent) for slot, found in manifest.inputs.items() for parent in found]
    inputs: list[JSON] = [_input(slot, known[parent]) for slot, parent in parents if parent in known]
    fields: dict[str, JSON] = {
        "to": AttemptState.COMMITTED,
        "recipe": recipes.get(run_id, UNKNOWN),
        "attempt_epoch": one.commit.epoch,
        "fingerprint": str(manifest.fingerprint),
        "config": manifest.payload.get("config", {}),
        "inputs": inputs,
        "artifact": artifact_fields(manifest, one.manifest_sha256),
    }
    return Event(
        run_id=run_id,
        sequence=0,
        time=one.commit.committed_s,
        epoch=one.commit.epoch,
        kind=EventKind.ATTEMPT_STATE,
        fields=masked_fields(fields),
        stage_id=str(provenance.get("stage", manifest.stage_kind)),
        attempt_id=one.commit.attempt,
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
