import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from orchestrator.actor import Actor, acting_as
from orchestrator.history.database.database import Database
from orchestrator.history.events import AttemptState, Event, EventKind, RunState
from orchestrator.sinks.openlineage_sink import OpenLineageSink, StoreLocation, run_event, store_location

TellStory = Callable[[Database, str], Any]
FACET_PLACES = {  # where a facet stands -> how the names of its schemas end
    "run": "RunFacet",
    "job": "JobFacet",
    "dataset": "DatasetFacet",
    "input": "InputDatasetFacet",
    "output": "OutputDatasetFacet",
}


@pytest.fixture
def index(tmp_path: Path) -> Database:
    return Database(str(tmp_path / "index.db"))


@pytest.fixture(scope="module")
def schemas(shared: Path) -> Registry[Any]:
    files = sorted((shared / "specs" / "openlineage").rglob("*.json"))
    contents = [json.loads(file.read_text()) for file in files]
    resources = [(schema["$id"], Resource.from_contents(schema, DRAFT202012)) for schema in contents]
    return Registry().with_resources(resources)


def problems(line: dict[str, Any], schemas: Registry[Any]) -> list[str]:
    """What the official schemas find wrong with an event and with each of its facets."""

    def check(schema_url: str, value: object) -> list[str]:
        validator = Draft202012Validator({"$ref": schema_url}, registry=schemas, format_checker=FormatChecker())
        return [f"{schema_url}: {error.json_path}: {error.message}" for error in validator.iter_errors(value)]

    found = check("https://openlineage.io/spec/2-0-2/OpenLineage.json", line)
    found += check(line["schemaURL"], line)
    for facet in facets_of(line):
        if facet["_schemaURL"].startswith("https://openlineage.io/"):
            found += check(facet["_schemaURL"], facet)
    return found


def facets_of(line: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [line["run"]["facets"], line["job"]["facets"]]
    groups += [dataset["facets"] for dataset in line["inputs"] + line["outputs"]]
    groups += [dataset["inputFacets"] for dataset in line["inputs"]]
    groups += [dataset["outputFacets"] for dataset in line["outputs"]]
    return [facet for group in groups for facet in group.values()]


def written(sink_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sink_path.read_text().splitlines()]


def test_every_event_and_facet_fits_the_official_schemas(
    index: Database, tell_story: TellStory, tmp_path: Path, schemas: Registry[Any]
) -> None:
    path = tmp_path / "lineage.jsonl"
    OpenLineageSink(path, store_url=str(tmp_path / "store")).deliver(tell_story(index, "r1").run_store.events("r1"))
    lines = written(path)
    assert len(lines) == 10
    assert [problems(line, schemas) for line in lines] == [[]] * len(lines)
    assert {facet["_schemaURL"].split("/")[2] for line in lines for facet in facets_of(line)} >= {"openlineage.io"}


def test_jobs_and_datasets_name_their_owner_their_code_and_what_they_are(
    index: Database, tell_story: TellStory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.history.actors.version_text", lambda: "0.2.0 (commit 1a2b3c4d-dirty)")
    path = tmp_path / "lineage.jsonl"
    with acting_as(Actor(user="alice", host="h7")):
        events = tell_story(index, "r1").run_store.events("r1")
    OpenLineageSink(path, store_url=str(tmp_path)).deliver(events)
    jobs = [line["job"]["facets"] for line in written(path)]
    assert {job["ownership"]["owners"][0]["name"] for job in jobs} == {"user:alice@h7"}
    assert {job["sourceCodeLocation"]["version"] for job in jobs} == {"1a2b3c4d"}
    assert all(job["sourceCodeLocation"]["url"].endswith("/tree/1a2b3c4d") for job in jobs)
    runs = [line["job"]["facets"] for line in written(path) if line["job"]["name"] == "tiny"]
    assert {job["documentation"]["description"].split(":")[0] for job in runs} == {"Runs of the recipe 'tiny'"}
    (made,) = next(line["outputs"] for line in written(path) if line["outputs"])
    assert made["facets"]["documentation"]["description"] == "dataset@1 by the stage clean of tiny, 38 rows"


def test_the_schema_check_finds_mistakes(
    index: Database, tell_story: TellStory, tmp_path: Path, schemas: Registry[Any]
) -> None:
    path = tmp_path / "lineage.jsonl"
    OpenLineageSink(path, store_url=str(tmp_path)).deliver(tell_story(index, "r1").run_store.events("r1"))
    line = next(line for line in written(path) if "parent" in line["run"]["facets"])
    assert problems({**line, "eventType": "BEGIN"}, schemas) != []
    del line["run"]["facets"]["parent"]["job"]
    assert problems(line, schemas) != []


def test_every_run_starts_once_and_ends_once_and_attempts_name_their_parent(
    index: Database, tell_story: TellStory, tmp_path: Path
) -> None:
    path = tmp_path / "lineage.jsonl"
    OpenLineageSink(path, store_url=str(tmp_path)).deliver(tell_story(index, "r1").run_store.events("r1"))
    types: dict[str, list[str]] = {}
    for line in written(path):
        types.setdefault(line["run"]["runId"], []).append(line["eventType"])
    assert list(types.values()) == [
        ["START", "ABORT"],  # the driver that died
        ["START", "RUNNING", "FAIL"],
        ["START", "RUNNING", "COMPLETE"],
        ["START", "COMPLETE"],  # its successor
    ]
    first_epoch = next(iter(types))
    attempts = [line for line in written(path) if line["job"]["name"] == "tiny.clean"]
    assert len(attempts) == 6
    for line in attempts:
        parent = line["run"]["facets"]["parent"]
        assert parent["run"]["runId"] == first_epoch
        assert parent["job"] == {"namespace": "illume", "name": "tiny"}


def test_datasets_have_their_names_in_the_store(index: Database, tell_story: TellStory, tmp_path: Path) -> None:
    path = tmp_path / "lineage.jsonl"
    story = tell_story(index, "r1")
    sink = OpenLineageSink(path, store_url="s3://bucket/team/store?endpoint=http://me:hunter2@host")
    sink.deliver(story.run_store.events("r1"))
    assert "hunter2" not in path.read_text()
    start = next(line for line in written(path) if line["inputs"])
    end = next(line for line in written(path) if line["outputs"])
    (used,), (made,) = start["inputs"], end["outputs"]
    fingerprint = story.artifact.fingerprint
    assert used["namespace"] == made["namespace"] == "s3://bucket"
    assert used["name"] == f"team/store/artifacts/ingest/ee/{'e' * 64}"
    assert made["name"] == f"team/store/artifacts/curate/{fingerprint[:2]}/{fingerprint}"
    assert made["facets"]["version"]["datasetVersion"] == fingerprint
    statistics = made["outputFacets"]["outputStatistics"]
    assert (statistics["rowCount"], statistics["size"], statistics["fileCount"]) == (38, 1000, 1)
    assert used["inputFacets"]["inputStatistics"]["rowCount"] == 40
    assert made["facets"]["illume_metrics"]["metrics"] == {"kept": 38.0, "share": "nan"}
    parameters = start["run"]["facets"]["executionParameters"]["parameters"]
    assert {"key": "min_side", "value": "256"} in parameters


def test_the_quality_of_an_output_has_its_counts_and_gates(schemas: Registry[Any]) -> None:
    artifact = {"kind": "dataset@1", "stage_kind": "curate", "fingerprint": "f" * 64, "manifest_sha256": "c" * 64}
    artifact |= {
        "files": 2,
        "bytes": 1000,
        "rows": None,
        "stats": {"keep_share": 0.5, "column/width/min": 64.0, "column/width/sum": 1e9, "column/height/max": 0.5},
        "inputs": {},
    }
    gates = [
        {"metric": "keep_share", "at_least": 0.25, "at_most": 0.75, "severity": "error", "actual": 0.5, "holds": True},
        {"metric": "odd", "at_least": None, "at_most": 0.1, "severity": "warning", "actual": "nan", "holds": False},
    ]
    fields = {"recipe": "tiny", "to": "committed", "attempt_epoch": 1, "fingerprint": "f" * 64, "artifact": artifact}
    event = Event(
        run_id="r1",
        sequence=1,
        time=1.5,
        epoch=1,
        kind=EventKind.ATTEMPT_STATE,
        fields={**fields, "to": str(AttemptState.COMMITTED), "gates": gates},
        stage_id="clean",
        attempt_id="a1",
    )
    line: Any = run_event(event, store_location("/data/store"))
    assert problems(line, schemas) == []
    facets = line["outputs"][0]["facets"]
    metrics = facets["dataQualityMetrics"]
    assert {key: metrics[key] for key in ("bytes", "fileCount")} == {"bytes": 1000, "fileCount": 2}
    assert "rowCount" not in metrics
    assert metrics["columnMetrics"] == {"width": {"min": 64, "sum": 1_000_000_000}, "height": {"max": 0.5}}
    first, second = facets["dataQualityAssertions"]["assertions"]
    assert (first["name"], first["success"], first["expected"], first["actual"]) == (
        "keep_share",
        True,
        "at least 0.25, at most 0.75",
        "0.5",
    )
    assert (second["success"], second["severity"]) == (False, "warn")


def test_events_delivered_again_are_not_written_again(index: Database, tell_story: TellStory, tmp_path: Path) -> None:
    path = tmp_path / "lineage.jsonl"
    events = tell_story(index, "r1").run_store.events("r1")
    OpenLineageSink(path, store_url=str(tmp_path)).deliver(events[:7])
    OpenLineageSink(path, store_url=str(tmp_path)).deliver(events)
    ids = [line["run"]["facets"]["illume_event"]["id"] for line in written(path)]
    assert ids == sorted(set(ids))
    assert len(ids) == 10


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("/data/my store", StoreLocation("file", "/data/my store/")),
        ("file:///data/my%20store", StoreLocation("file", "/data/my store/")),
        ("s3://bucket/a/b/?endpoint=http://h", StoreLocation("s3://bucket", "a/b/")),
        ("gs://bucket", StoreLocation("gs://bucket", "")),
    ],
)
def test_stores_are_named_by_the_rules_of_openlineage(url: str, place: StoreLocation) -> None:
    assert store_location(url) == place


def test_every_state_has_a_type_and_sources_are_inputs(tmp_path: Path, schemas: Registry[Any]) -> None:
    source = {"slot": "files", "kind": "source", "digest": "a" * 64, "name": "annotations", "bytes": None, "rows": None}
    common: dict[str, Any] = {"recipe": "tiny", "message": "broken", "attempt_epoch": 1, "fingerprint": "f" * 64}
    place = store_location(str(tmp_path))
    for state in [*RunState, *AttemptState]:
        is_run = isinstance(state, RunState)
        if state == RunState.PLANNED:
            continue  # no event leads there
        event = Event(
            run_id="r1",
            sequence=1,
            time=1.5,
            epoch=1,
            kind=EventKind.RUN_STATE if is_run else EventKind.ATTEMPT_STATE,
            fields={**common, "to": str(state), "inputs": [source]},
            stage_id=None if is_run else "clean",
            attempt_id=None if is_run else "a1",
        )
        line: Any = run_event(event, place)
        assert problems(line, schemas) == []
        has_error = "errorMessage" in line["run"]["facets"]
        assert has_error == (line["eventType"] == "FAIL" or state in (RunState.INTERRUPTED, AttemptState.LOST))
        if not is_run:
            assert line["inputs"][0]["namespace"] == "illume.sources"
    note = Event(run_id="r1", sequence=2, time=1.5, epoch=1, kind="note")
    assert run_event(note, place) is None
