"""Parts of which the schemas of outputs are made: kinds of values, lists, tables and objects of them."""

from collections.abc import Mapping

from orchestrator.artifact import JSON
from orchestrator.history.events import AttemptState, RunState
from orchestrator.history.run_status import NOT_RUN, REUSED, SKIPPED, WAITING

Schema = dict[str, JSON]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
YES_NO: Schema = {"type": "boolean"}
ANY: Schema = {}
TIME: Schema = {
    "type": "string",
    "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$",
    "description": "ISO 8601 with its zone",
}
DIGEST: Schema = {"type": "string", "pattern": "^[0-9a-f]*$"}
RUN_STATE: Schema = {"enum": [str(state) for state in RunState]}
STAGE_STATE: Schema = {"enum": [*(str(state) for state in AttemptState), WAITING, REUSED, SKIPPED, NOT_RUN]}


def a_list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def a_table(values: Schema) -> Schema:
    """An object whose keys are names of the user's."""
    return {"type": "object", "additionalProperties": values}


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def an_object(properties: Mapping[str, Schema], *, optional: Mapping[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "required": list(properties),
        "properties": {**properties, **(optional or {})},
    }
