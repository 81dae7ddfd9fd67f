"""View models as plain JSON values."""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

FORMAT = 1


def view_to_json(view: Any) -> dict[str, Any]:
    """A view as the JSON API returns it: times are seconds since 1970, non-finite numbers are texts."""
    found = _plain(view)
    assert isinstance(found, dict), "views are dataclasses"
    return {"format": FORMAT, **found}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: _plain(vars(value)[entry.name]) for entry in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
