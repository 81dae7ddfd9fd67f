"""How records refer to images: by name, or by the bytes themselves, in the spellings that data sets use."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_pipelines.datasets.records import Reject

# Keys of an object that stands for an image, in the order in which they are tried.
NAME_KEYS = ("member", "path", "file_name", "filename", "image_name", "name", "image", "image_url", "url")
BYTES_KEYS = ("bytes", "data", "base64")
_DATA_URL = re.compile(r"data:image/[\w.+-]+(?:;[\w=.+-]+)*;base64,", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ImageReference:
    """An image of a record: its name, and its bytes where the record holds them."""

    name: str
    held: bytes | Reject | None = None  # None: to be looked up by its name


def image_reference(value: object, position: int) -> ImageReference | None:
    """The image that a value refers to; None for something that is neither a name nor bytes.

    Names, base64 data URLs, bytes, and objects with these under one of `NAME_KEYS` and `BYTES_KEYS`; null is as if the
    key were absent, and so are empty
    bytes beside a name; bytes count before a name. Images without a name of their own are named by their `position`.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return ImageReference(name=str(position), held=bytes(value))
    if isinstance(value, str):
        address = _DATA_URL.match(value)
        return _decoded(value[address.end() :], position) if address else ImageReference(name=value)
    if not isinstance(value, Mapping):
        return None
    return _reference_in_object(value, position)


def _reference_in_object(value: Mapping[str, Any], position: int) -> ImageReference | None:
    for key in BYTES_KEYS:
        held = value.get(key)
        if isinstance(held, bytes | bytearray | memoryview) and len(held):
            return ImageReference(name=str(position), held=bytes(held))
        if isinstance(held, str) and held:
            return image_reference(held, position) if held.startswith("data:") else _decoded(held, position)
    for key in (*NAME_KEYS, "source"):  # objects as values: {"image_url": {"url": ...}}, {"source": {"data": ...}}
        inner = value.get(key)
        if (isinstance(inner, str) and inner) or isinstance(inner, Mapping | bytes):
            found = image_reference(inner, position)
            if found is not None:
                return found
    is_empty = any(isinstance(value.get(key), bytes | bytearray | memoryview) for key in BYTES_KEYS)
    return ImageReference(name=str(position), held=b"") if is_empty else None


def _decoded(text: str, position: int) -> ImageReference:
    try:
        return ImageReference(name=str(position), held=base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        detail = f"image {position + 1}: not valid base64 ({error})"
        return ImageReference(name=str(position), held=Reject(reason="missing_file", detail=detail))
