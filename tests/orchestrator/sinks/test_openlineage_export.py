"""Artifacts of the store as OpenLineage events, with the ids and names of the OpenLineage sink."""

import json
from pathlib import Path
from typing import Any

from referencing import Registry

from orchestrator.sinks.openlineage_export import lineage_events
from orchestrator.workspace import Workspace
from tests.orchestrator import test_cli
from tests.orchestrator.sinks import test_openlineage_sink
from tests.orchestrator.test_cli import Illume

illume = test_cli.illume
schemas = test_openlineage_sink.schemas


def test_lineage_has_short_options_and_writes_openlineage(illume: Illume, schemas: Registry[Any]) -> None:
    illume("run", "words.yaml")
    assert [len(illume("lineage", "words:loud", way, "--json").data["nodes"]) for way in ("--up", "--down")] == [2, 2]
    lines = [json.loads(line) for line in illume("lineage", "words:pair", "--up", "--openlineage").out.splitlines()]
    assert [line["job"]["name"] for line in lines] == ["words.said", "words.loud", "words.pair"]
    assert [len(line["inputs"]) for line in lines] == [0, 1, 1]
    assert lines[1]["inputs"][0]["name"] == lines[0]["outputs"][0]["name"]
    assert {line["eventType"] for line in lines} == {"COMPLETE"}
    assert [test_openlineage_sink.problems(line, schemas) for line in lines] == [[], [], []]


def test_lineage_names_attempts_and_artifacts_as_the_sink_does(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    delivered = [json.loads(line) for line in (tmp_path / ".illume" / "lineage.jsonl").read_text().splitlines()]
    ended = {line["run"]["runId"]: line for line in delivered if line["outputs"]}
    lines = [json.loads(line) for line in illume("lineage", "words:pair", "--openlineage").out.splitlines()]
    assert {line["run"]["runId"] for line in lines} == set(ended)
    for line in lines:
        assert line["outputs"] == ended[line["run"]["runId"]]["outputs"]


def test_an_input_that_is_no_longer_in_the_store_is_omitted(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    with Workspace.open(root=tmp_path / ".illume", tracking_url="none") as workspace:
        stored = [artifact for artifact in workspace.artifacts.all() if artifact.manifest.stage_kind == "shout"]
        lines: list[Any] = list(lineage_events(reversed(stored), {}, store_url=workspace.store.url))
    assert [line["job"]["name"] for line in lines] == ["unknown.loud", "unknown.pair"]
    assert [len(line["inputs"]) for line in lines] == [0, 1]
