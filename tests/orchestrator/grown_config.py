"""Configurations as they are after the next release: every class in them has one more field, which has a default."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any


@functools.cache
def grown_class(config_class: Any) -> Any:
    return dataclasses.make_dataclass(
        f"Grown{config_class.__name__}",
        [("fresh", int, dataclasses.field(default=7))],
        bases=(config_class,),
        frozen=True,
        kw_only=True,
    )


def grown(value: Any) -> Any:
    """The same value, each dataclass in it with a new field."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: grown(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return grown_class(type(value))(**fields)
    if isinstance(value, Mapping):
        return {key: grown(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(grown(item) for item in value)
    return value
