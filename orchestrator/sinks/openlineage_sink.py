"""The OpenLineage sink: runs and attempts as OpenLineage 2-0-2 run events, one JSON line each.

Rule: a line, including its ids, is a pure function of one event, so events may be delivered twice, from any process.
Each epoch of a run is a separate OpenLineage run, because an OpenLineage run starts once and ends once.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from orchestrator.artifact import JSON
from orchestrator.artifacts.manifest_summary import recorded_metrics
from orchestrator.history.actors import ActorRecord, actor_of
from orchestrator.history.events import AttemptState, Event, EventKind, RunState, flatten
from orchestrator.redaction.masking import mask_text
from orchestrator.sinks.file_sinks import file_sink_name
from orchestrator.sinks.line_file import LineFile
from orchestrator.times import iso_time

PRODUCER = "https://github.com/illume-orchestrator"
SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
FACETS = "https://openlineage.io/spec/facets"
NAMESPACE = "illume"  # of jobs
REPOSITORY = "https://github.com/illume-orchestrator/illume-orchestrator"
OUR_FACETS = f"{PRODUCER}/facets/1"
_IDS = uuid.uuid5(uuid.NAMESPACE_URL, PRODUCER)

_RUN_TYPES: Mapping[str, str] = {
    RunState.PLANNED: "OTHER",  # queued again
    RunState.RUNNING: "START",
    RunState.STOPPING: "RUNNING",
    RunState.SUCCEEDED: "COMPLETE",
    RunState.FAILED: "FAIL",
    RunState.CANCELLED: "ABORT",
    RunState.INTERRUPTED: "ABORT",
}
_ATTEMPT_TYPES: Mapping[str, str] = {
    AttemptState.INTENT: "START",
    AttemptState.RUNNING: "RUNNING",
    AttemptState.COMMITTED: "COMPLETE",
    AttemptState.FAILED: "FAIL",
    AttemptState.LOST: "ABORT",
    AttemptState.CANCELLED: "ABORT",
}


class OpenLineageSink:
    """Appends to `path` in the format of OpenLineage's file transport, which Marquez and other tools read."""

    linger_s = 0.0

    def __init__(self, path: Path, *, store_url: str) -> None:
        self.name = file_sink_name("openlineage", path)
        self._location = store_location(store_url)
        self._file = LineFile(path, event_id=_event_id)

    def deliver(self, events: Sequence[Event]) -> None:
        lines = [(event, line) for event in events if (line := run_event(event, self._location)) is not None]
        self._file.append(lines)


@dataclass(frozen=True)
class StoreLocation:
    """Where artifacts are stored, by OpenLineage's naming rules for datasets."""

    namespace: str  # "file", "s3://bucket"
    prefix: str  # path of the store in the namespace, with a trailing slash


def store_location(store_url: str) -> StoreLocation:
    parts = urlsplit(mask_text(store_url))
    if parts.scheme in ("", "file"):
        return StoreLocation("file", f"{Path(unquote(parts.path)).absolute()}/")
    prefix = parts.path.strip("/")
    return StoreLocation(f"{parts.scheme}://{parts.netloc}", f"{prefix}/" if prefix else "")


def run_event(event: Event, location: StoreLocation) -> dict[str, JSON] | None:
    """The OpenLineage event for `event`; None for kinds that have no OpenLineage equivalent."""
    if event.kind == EventKind.RUN_STATE:
        return _event_of_run(event)
    if event.kind == EventKind.ATTEMPT_STATE:
        return _event_of_attempt(event, location)
    return None


def _event_of_run(event: Event) -> dict[str, JSON]:
    facets = _run_facets(event) | _error_facet(event)
    facets["tags"] = _tags({"illume.run": event.run_id, "illume.epoch": str(event.epoch)})
    recipe = str(event.fields["recipe"])
    return {
        "eventTime": iso_time(event.time),
        "eventType": _RUN_TYPES[str(event.fields["to"])],
        "producer": PRODUCER,
        "schemaURL": SPEC,
        "run": {"runId": run_uuid(event.run_id, event.epoch), "facets": facets},
        "job": _job(event, recipe, "DAG", f"Runs of the recipe {recipe!r}: its stages, each a job of its own"),
        "inputs": [],
        "outputs": [],
    }


def _event_of_attempt(event: Event, location: StoreLocation) -> dict[str, JSON]:
    fields: Mapping[str, Any] = event.fields
    recipe = str(fields["recipe"])
    parent: dict[str, JSON] = {
        "run": {"runId": run_uuid(event.run_id, fields["attempt_epoch"])},
        "job": {"namespace": NAMESPACE, "name": recipe},
    }
    facets = _run_facets(event) | _error_facet(event)
    facets["parent"] = _facet("1-2-0/ParentRunFacet", {**parent, "root": dict(parent)})
    facets["tags"] = _tags(
        {
            "illume.run": event.run_id,
            "illume.attempt": str(event.attempt_id),
            "illume.fingerprint": fields["fingerprint"],
            "illume.epoch": str(event.epoch),
        }
    )
    if "config" in fields:
        parameters: list[JSON] = [{"key": key, "value": text} for key, text in flatten(fields["config"])]
        facets["executionParameters"] = _facet("1-0-0/ExecutionParametersRunFacet", {"parameters": parameters})
    artifact = fields.get("artifact")
    return {
        "eventTime": iso_time(event.time),
        "eventType": _ATTEMPT_TYPES[fields["to"]],
        "producer": PRODUCER,
        "schemaURL": SPEC,
        "run": {"runId": str(uuid.uuid5(_IDS, f"attempt/{event.attempt_id}")), "facets": facets},
        "job": _job(event, f"{recipe}.{event.stage_id}", "TASK", fields.get("description", "")),
        "inputs": [_input(dataset, location) for dataset in fields.get("inputs", [])],
        "outputs": [_output(event, artifact, location)] if artifact else [],
    }


def run_uuid(run_id: str, epoch: int) -> str:
    return str(uuid.uuid5(_IDS, f"run/{run_id}/{epoch}"))


def _job(event: Event, name: str, job_type: str, description: str) -> dict[str, JSON]:
    """`job_type` is one of OpenLineage's job types."""
    kind = {"processingType": "BATCH", "integration": "ILLUME", "jobType": job_type}
    facets: dict[str, JSON] = {"jobType": _facet("2-0-4/JobTypeJobFacet", dict(kind))}
    if description:
        facets["documentation"] = _facet("1-1-0/DocumentationJobFacet", {"description": description})
    actor = actor_of(event)
    if actor is not None and actor.name:
        facets["ownership"] = _facet("1-0-1/OwnershipJobFacet", {"owners": _owners(actor)})
    if actor is not None and actor.program:
        facets["sourceCodeLocation"] = _facet("1-1-0/SourceCodeLocationJobFacet", _source_code(actor.program))
    return {"namespace": NAMESPACE, "name": name, "facets": facets}


def _owners(actor: ActorRecord) -> list[JSON]:
    """Whoever asked for the work; a name as OpenLineage recommends it."""
    kind = "application" if actor.token_name else "user"
    return [{"name": f"{kind}:{actor.name}", "type": "MAINTAINER"}]


def _source_code(program: str) -> dict[str, JSON]:
    """`program`: `0.2.0 (commit 1a2b3c)`, or `0.2.0` where the commit is not known."""
    version, _, commit = program.partition(" (commit ")
    commit = commit.removesuffix(")").removesuffix("-dirty")
    url = f"{REPOSITORY}/tree/{commit}" if commit else REPOSITORY
    return {"type": "git", "url": url, "repoUrl": f"{REPOSITORY}.git", "version": commit or version, "tag": version}


def _run_facets(event: Event) -> dict[str, JSON]:
    engine = {"name": "ray", "version": _version("ray"), "openlineageAdapterVersion": _version("illume-orchestrator")}
    return {
        "processing_engine": _facet("1-1-1/ProcessingEngineRunFacet", dict(engine)),
        "illume_event": {"_producer": PRODUCER, "_schemaURL": f"{OUR_FACETS}/EventRunFacet.json", "id": event.id},
    }


def _error_facet(event: Event) -> dict[str, JSON]:
    message = event.fields.get("message")
    if not message or str(event.fields["to"]) not in (RunState.FAILED, RunState.INTERRUPTED, AttemptState.LOST):
        return {}
    error = {"message": str(message), "programmingLanguage": "python"}
    return {"errorMessage": _facet("1-0-1/ErrorMessageRunFacet", dict(error))}


def _tags(tags: Mapping[str, str]) -> dict[str, JSON]:
    listed: list[JSON] = [{"key": key, "value": value, "source": "ILLUME"} for key, value in tags.items()]
    return _facet("1-0-0/TagsRunFacet", {"tags": listed})


def _input(dataset: Mapping[str, Any], location: StoreLocation) -> dict[str, JSON]:
    is_source = dataset["kind"] == "source"
    statistics = _statistics(dataset)
    facet = _facet("1-0-0/InputStatisticsInputDatasetFacet", statistics)
    return {
        "namespace": f"{NAMESPACE}.sources" if is_source else location.namespace,
        "name": dataset["name"] if is_source else _artifact_name(dataset["name"], dataset["digest"], location),
        "facets": _dataset_facets(dataset["kind"], dataset["digest"]),
        "inputFacets": {"inputStatistics": facet} if statistics else {},
    }


def _output(event: Event, artifact: Mapping[str, Any], location: StoreLocation) -> dict[str, JSON]:
    fields: Mapping[str, Any] = event.fields
    gates = fields.get("gates", [])
    facets = _dataset_facets(artifact["kind"], artifact["fingerprint"])
    rows = f", {artifact['rows']:,} rows" if artifact["rows"] is not None else ""
    description = f"{artifact['kind']} by the stage {event.stage_id} of {fields['recipe']}{rows}"
    facets["documentation"] = _facet("1-1-0/DocumentationDatasetFacet", {"description": description})
    names = {"rows": "rowCount", "bytes": "bytes", "files": "fileCount"}
    counts: dict[str, JSON] = {
        facet_name: artifact[field] for field, facet_name in names.items() if artifact[field] is not None
    }
    metrics = recorded_metrics(artifact)
    quality = {**counts, "columnMetrics": _column_metrics(metrics)}
    facets["dataQualityMetrics"] = _facet("1-0-0/DataQualityMetricsDatasetFacet", quality)
    if gates:
        assertions: list[JSON] = [_assertion(gate) for gate in gates]
        facets["dataQualityAssertions"] = _facet("1-1-0/DataQualityAssertionsDatasetFacet", {"assertions": assertions})
    header: dict[str, JSON] = {"_producer": PRODUCER, "_schemaURL": f"{OUR_FACETS}/MetricsDatasetFacet.json"}
    facets["illume_metrics"] = {**header, "manifestSha256": artifact["manifest_sha256"], "metrics": metrics}
    return {
        "namespace": location.namespace,
        "name": _artifact_name(artifact["stage_kind"], artifact["fingerprint"], location),
        "facets": facets,
        "outputFacets": {"outputStatistics": _facet("1-0-2/OutputStatisticsOutputDatasetFacet", _statistics(artifact))},
    }


def _column_metrics(stage_metrics: Mapping[str, float]) -> dict[str, JSON]:
    """From the metrics of a stage named `column/COLUMN/METRIC`, where METRIC is OpenLineage's name."""
    found: dict[str, JSON] = {}
    for name, value in stage_metrics.items():
        match name.split("/"):
            case ["column", column, metric] if isinstance(value, float):
                metrics = found.setdefault(column, {})
                assert isinstance(metrics, dict), "made here"
                metrics[metric] = int(value) if value.is_integer() else value
    return found


def _assertion(gate: Mapping[str, Any]) -> dict[str, JSON]:
    """A gate as an OpenLineage assertion."""
    bounds = {"at least": gate["at_least"], "at most": gate["at_most"]}
    return {
        "assertion": "figure_within_bounds",
        "name": gate.get("metric", gate.get("figure")),
        "success": gate["holds"],
        "severity": "error" if gate["severity"] == "error" else "warn",
        "expected": ", ".join(f"{words} {bound:g}" for words, bound in bounds.items() if bound is not None),
        "actual": str(gate["actual"]),
    }


def _artifact_name(stage_kind: str, fingerprint: str, location: StoreLocation) -> str:
    return f"{location.prefix}artifacts/{stage_kind}/{fingerprint[:2]}/{fingerprint}"


def _dataset_facets(kind: str, digest: str) -> dict[str, JSON]:
    return {
        "version": _facet("1-0-1/DatasetVersionDatasetFacet", {"datasetVersion": digest}),
        "datasetType": _facet("1-0-1/DatasetTypeDatasetFacet", {"datasetType": "FILE", "subType": kind}),
    }


def _statistics(counts: Mapping[str, Any]) -> dict[str, JSON]:
    names = {"rows": "rowCount", "bytes": "size", "files": "fileCount"}
    return {facet_name: counts[field] for field, facet_name in names.items() if counts.get(field) is not None}


def _facet(schema: str, fields: Mapping[str, JSON]) -> dict[str, JSON]:
    """`schema`: version and name, e.g. `1-2-0/ParentRunFacet`."""
    name = schema.rpartition("/")[2]
    return {"_producer": PRODUCER, "_schemaURL": f"{FACETS}/{schema}.json#/$defs/{name}", **fields}


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _event_id(line: dict[str, Any]) -> str | None:
    found = line.get("run", {}).get("facets", {}).get("illume_event", {}).get("id")
    return found if isinstance(found, str) else None
