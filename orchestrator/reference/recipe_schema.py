"""The JSON Schema (2020-12) of recipes, for editors. It accepts what the loader accepts, up to relations of values."""

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from typing import Any

from orchestrator.artifact import JSON
from orchestrator.recipe.loading import RECIPE_FORMAT
from orchestrator.reference.comments import FieldComment, field_comments
from orchestrator.reference.config_keys import default_of, unit_of
from orchestrator.reference.kind_pages import Kinds, kind_summary
from orchestrator.stage import Gate, Location, Resources, RetryPolicy, StageKind

DIALECT = "https://json-schema.org/draft/2020-12/schema"
STAGE_NAME, RECIPE_NAME = "^[A-Za-z][A-Za-z0-9_-]{0,63}$", "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Schema = dict[str, JSON]
_PLAIN: Mapping[object, Schema] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    str: {"type": "string"},
    Location: {"type": "string"},
    types.NoneType: {"type": "null"},
}


def recipe_schema(kinds: Kinds) -> Schema:
    """The schema of a recipe with these kinds; what decides between kinds is the key `kind` of each stage."""
    classes = _Classes()
    sections: Schema = {
        "resources": _or_null(classes.reference(Resources)),
        "retry": _or_null(classes.reference(RetryPolicy)),
        "approval": {"type": "boolean", "description": "it waits for the word of a person: `illume approve`"},
        "gates": _or_null({"type": "object", "additionalProperties": classes.reference(Gate)}),
    }
    stage_kinds: Schema = {f"stage_{name}": _stage(kind, sections, classes) for name, kind in kinds.items()}
    choices: list[JSON] = [
        {
            "if": {"properties": {"kind": {"const": name}}, "required": ["kind"]},
            "then": {"$ref": f"#/$defs/stage_{name}"},
        }
        for name in kinds
    ]
    known: list[JSON] = [{"const": name, "description": kind_summary(kind)} for name, kind in kinds.items()]
    stage: Schema = {
        "type": "object",
        "required": ["kind"],
        "properties": {"kind": {"description": "what the stage does", "oneOf": known}},
        "allOf": choices,
    }
    return {
        "$schema": DIALECT,
        "title": "illume recipe",
        "type": "object",
        "required": ["name", "stages"],
        "additionalProperties": False,
        "properties": {
            "format": {"type": "integer", "minimum": 1, "maximum": RECIPE_FORMAT, "default": 1},
            "name": {"type": "string", "pattern": RECIPE_NAME, "description": "in `illume status` and in targets"},
            "stages": {
                "type": "object",
                "minProperties": 1,
                "propertyNames": {"pattern": STAGE_NAME},
                "additionalProperties": {"$ref": "#/$defs/stage"},
            },
        },
        "$defs": {"stage": stage, **stage_kinds, **classes.definitions},
    }


def _stage(kind: StageKind[Any], sections: Schema, classes: "_Classes") -> Schema:
    name: Schema = {"type": "string"}
    names: Schema = {"type": "array", "items": name, "uniqueItems": True}
    slots: Schema = {
        slot_name: {
            "description": f"stages that make {slot.kind}" if slot.many else f"the stage that makes {slot.kind}",
            "anyOf": [name, names if slot.many else {**names, "maxItems": 1}],
        }
        for slot_name, slot in kind.inputs.items()
    }
    required_slots: list[JSON] = [slot_name for slot_name, slot in kind.inputs.items() if slot.required]
    inputs: Schema = {
        "type": "object",
        "properties": slots,
        "required": required_slots,
        "additionalProperties": False,
    }
    config = classes.reference(kind.config)
    needs_config = bool(classes.required(kind.config))
    required: list[JSON] = ["kind"]
    required += ["inputs"] if required_slots else []
    required += ["config"] if needs_config else []
    return {
        "type": "object",
        "description": kind_summary(kind),
        "required": required,
        "additionalProperties": False,
        "properties": {
            "kind": {"const": kind.name},
            "inputs": inputs if required_slots else _or_null(inputs),
            "config": config if needs_config else _or_null(config),
            "execution": _or_null(classes.reference(kind.execution)),
            **sections,
        },
    }


def _or_null(schema: Schema) -> Schema:
    """A section may be written without a value, which leaves everything in it at its default."""
    return {"anyOf": [schema, {"type": "null"}]}


class _Classes:
    """Schemas of the configuration classes met so far, by a name of their own."""

    def __init__(self) -> None:
        self.definitions: Schema = {}
        self._names: dict[type, str] = {}

    def reference(self, config_class: type) -> Schema:
        if config_class not in self._names:
            name = config_class.__name__
            taken = set(self._names.values())
            self._names[config_class] = name if name not in taken else f"{config_class.__module__}.{name}"
            self.definitions[self._names[config_class]] = self._object(config_class)
        return {"$ref": f"#/$defs/{self._names[config_class]}"}

    def required(self, config_class: type) -> list[str]:
        return [field.name for field in dataclasses.fields(config_class) if default_of(field)[0]]

    def _object(self, config_class: type) -> Schema:
        hints, comments = typing.get_type_hints(config_class), field_comments(config_class)
        properties: Schema = {}
        for field in dataclasses.fields(config_class):
            is_required, default = default_of(field)
            comment = comments.get(field.name, FieldComment()).text
            unit = unit_of(field.name, comment)
            description = comment if comment.startswith(unit) else "; ".join(filter(None, (unit, comment)))
            properties[field.name] = {
                **self._of_type(hints[field.name]),
                **({"description": description} if description else {}),
                **({} if is_required else {"default": default}),
            }
        required: list[JSON] = list(self.required(config_class))
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    def _of_type(self, hint: object) -> Schema:
        if hint in _PLAIN:
            return dict(_PLAIN[hint])
        arguments, origin = typing.get_args(hint), typing.get_origin(hint)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            return self.reference(hint)
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return {"enum": [member.value for member in hint]}
        if origin is typing.Literal:
            return {"enum": list(arguments)}
        if origin in (typing.Union, types.UnionType):
            return {"anyOf": [self._of_type(item) for item in arguments]}
        if origin is tuple and arguments[-1] is not Ellipsis:
            count = len(arguments)
            items: list[JSON] = [self._of_type(item) for item in arguments]
            return {"type": "array", "prefixItems": items, "minItems": count, "maxItems": count}
        if origin in (tuple, list):
            return {"type": "array", "items": self._of_type(arguments[0])}
        if arguments:
            return {"type": "object", "additionalProperties": self._of_type(arguments[-1])}
        return {}
