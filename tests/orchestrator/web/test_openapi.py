import json
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from starlette.testclient import TestClient

from orchestrator.web.openapi import FILE, openapi, text
from tests.orchestrator.web.conftest import MadeUp
from tests.orchestrator.web.views.test_stage import record_shards


def validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    whole = Resource.from_contents(openapi(), default_specification=DRAFT202012)
    found = json.loads(json.dumps(schema).replace('"#/', '"urn:api#/'))
    return jsonschema.Draft202012Validator(found, registry=Registry().with_resource("urn:api", whole))


def test_the_file_is_what_the_tables_say() -> None:
    assert FILE.read_text() == text(), "run `python -m orchestrator.web.openapi`"


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/runs", "/runs"),
        ("/runs/r1", "/runs/{run}"),
        ("/runs/r1/stages/raw", "/runs/{run}/stages/{stage}"),
        ("/runs/r1/stages/raw/shards", "/runs/{run}/stages/{stage}/shards"),
        ("/events", "/events"),
        ("/questions", "/questions"),
        ("/denied", "/denied"),
    ],
)
def test_answers_are_as_described(client: TestClient, made_up: MadeUp, path: str, template: str) -> None:
    made_up.start("r1")
    record_shards(made_up, made_up.attempt("r1", "raw"), num_shards=50)
    made_up.fail("r1", "curated", "curated: no", failure_class="data")
    described = openapi()["paths"][f"/api/v1{template}"]["get"]["responses"]["200"]
    answer = client.get(f"/api/v1{path}")
    assert answer.status_code == 200, answer.text
    validator(described["content"]["application/json"]["schema"]).validate(answer.json())


def test_problems_are_as_described(client: TestClient) -> None:
    answer = client.get("/api/v1/runs/r9")
    described = openapi()["paths"]["/api/v1/runs/{run}"]["get"]["responses"][str(answer.status_code)]
    validator(described["content"]["application/json"]["schema"]).validate(answer.json())


def test_the_description_is_served(client: TestClient) -> None:
    assert client.get("/api/v1/openapi.json").json() == openapi()
