"""What counts as absent: tables that join datasets of several layouts hold every key in each row."""

from collections.abc import Mapping
from typing import Any

from data_pipelines.ingest.units import decode_json


def is_filled(value: object) -> bool:
    """Whether a value holds anything: null, blank texts, empty bytes, and lists and objects of nothing else do not."""
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, bytes | bytearray | memoryview):
        return len(value) > 0
    if isinstance(value, Mapping):
        return any(is_filled(inner) for inner in value.values())
    if isinstance(value, list):
        return any(is_filled(inner) for inner in value)
    return value is not None


def decoded_list(value: Any) -> Any:
    """The list or object that a text of JSON holds, as tables without nested columns have it; any other value as it
    is."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            return decode_json(value.encode("utf-8", "replace"))
        except ValueError:
            return value  # a text or file name that begins so
    return value
