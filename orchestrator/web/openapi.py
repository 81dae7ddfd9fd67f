"""The description of the JSON API, made from the tables of pages and actions; `openapi.json` is written from it.

`python -m orchestrator.web.openapi` writes the file again; a test compares both.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from orchestrator.web.actions import ACTIONS, Action, Done
from orchestrator.web.page import Page
from orchestrator.web.pages.table import PAGES
from orchestrator.web.questions.kinds import KINDS
from orchestrator.web.views.plain import FORMAT

API = "/api/v1"
FILE = Path(__file__).with_name("openapi.json")
REFERENCE = "#/components/schemas/{model}"
DESCRIPTION = (
    "What the pages of `illume serve` show, as JSON. Times are seconds since 1970, UTC; numbers that are not finite "
    "are the texts 'nan', 'inf' and '-inf'. Fields are added within a version; a reader ignores those it does not know."
)
PROBLEM = {
    "type": "object",
    "properties": {"format": {"const": FORMAT}, "error": {"type": "string"}, "message": {"type": "string"}},
    "required": ["format", "error", "message"],
}


def openapi() -> dict[str, Any]:
    """The description, as OpenAPI 3.1."""
    adapters = {page.name: TypeAdapter(page.view) for page in PAGES} | {"done": TypeAdapter(Done)}
    mode: JsonSchemaMode = "serialization"
    inputs = [(name, mode, adapter) for name, adapter in adapters.items()]
    found, definitions = TypeAdapter.json_schemas(inputs, ref_template=REFERENCE)
    schemas = {name: schema for (name, _mode), schema in found.items()}
    paths: dict[str, Any] = {f"{API}{page.path}": {"get": _page(page, schemas[page.name])} for page in PAGES}
    for action in ACTIONS:
        paths.setdefault(f"{API}{action.path}", {})["post"] = _action(action, schemas["done"])
    paths[f"{API}/questions"]["post"] = _ask()
    return {
        "openapi": "3.1.0",
        "info": {"title": "illume", "version": str(FORMAT), "description": DESCRIPTION},
        "paths": paths,
        "components": {
            "schemas": {**definitions.get("$defs", {}), "Problem": PROBLEM},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],  # none on loopback
    }


def _page(page: Page[Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    parameters = []
    hints = get_type_hints(page.query)
    for entry in fields(page.query):
        is_in_path = f"{{{entry.name}}}" in page.path
        kind = TypeAdapter(hints[entry.name]).json_schema()
        known = {} if is_in_path else {"default": entry.default}
        place = "path" if is_in_path else "query"
        parameters.append({"name": entry.name, "in": place, "required": is_in_path, "schema": {**kind, **known}})
    return {
        "operationId": page.name,
        "summary": page.summary,
        "description": f"Role: {page.role.name.lower()}.",
        "parameters": parameters,
        "responses": _responses(_with_format(schema), ("400", "401", "403", "404", "429", "503")),
    }


def _action(action: Action, schema: Mapping[str, Any]) -> dict[str, Any]:
    names = [part[1:-1] for part in action.path.split("/") if part.startswith("{")]
    text = {"type": "string"}
    body = {"type": "object", "properties": {"reason": text}, "additionalProperties": False}
    return {
        "operationId": action.name,
        "summary": action.summary,
        "description": f"Role: {action.role.name.lower()}. 409: somebody was faster, or it cannot be done.",
        "parameters": [{"name": name, "in": "path", "required": True, "schema": text} for name in names],
        "requestBody": {"content": {"application/json": {"schema": body}}},
        "responses": _responses(_with_format(schema), ("400", "401", "403", "404", "409", "503")),
    }


def _ask() -> dict[str, Any]:
    text = {"type": "string"}
    bodies = [
        {
            "type": "object",
            "description": kind.summary,
            "properties": {
                "kind": {"const": kind.name},
                **{name: {**text, "description": meaning} for name, meaning in kind.fields.items()},
            },
            "required": ["kind", *kind.required],
            "additionalProperties": False,
        }
        for kind in KINDS.values()
    ]
    asked = {"format": {"const": FORMAT}, "id": text, "is_new": {"type": "boolean"}, "link": text}
    answer = {"type": "object", "properties": asked, "required": list(asked)}
    return {
        "operationId": "ask",
        "summary": "Ask what takes long: it runs in a process of its own, and its answer stays.",
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"oneOf": bodies}}}},
        "responses": _responses(answer, ("400", "401", "403"), status="202"),
    }


def _with_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    named = {"type": "object", "properties": {"format": {"const": FORMAT}}, "required": ["format"]}
    return {"allOf": [dict(schema), named]}


def _responses(schema: Mapping[str, Any], problems: tuple[str, ...], *, status: str = "200") -> dict[str, Any]:
    problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": "Found.", "content": {"application/json": {"schema": dict(schema)}}},
        **{code: {"description": "See `message`.", "content": problem} for code in problems},
    }


def text() -> str:
    return json.dumps(openapi(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
