"""Captions of images: which key of a record holds one, and which of several is taken."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipelines.archives.compressed_files import decode_text
from data_pipelines.datasets.records import NO_META, NOTHING_HELD, Record, Reject, caption_record, utf8_safe
from data_pipelines.ingest.config import IngestConfig

CAPTION_KEYS = ("caption", "text", "prompt", "txt", "sentence", "description",
                "captions", "sentences", "texts", "alt_text", "alt")  # fmt: skip
LAST_CAPTION_KEY = "title"  # kept beside a caption; the caption where there is no other, as in tables for OpenCLIP
CAPTION_PARTS = ("raw", "caption", "text", "value")  # of an object in a list of captions
MAX_META_TEXT = 2000  # characters of a value that is kept beside a caption


def stated_value(fields: Mapping[str, Any], path: str) -> Any:
    """The value under a dotted path of keys; None if there is none."""
    if path in fields:
        return fields[path]
    value: Any = fields
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def captions_of(value: object) -> list[str]:
    """The captions in a value: a text, or a list of texts or of objects with one."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, bytes):  # of a column that does not say that it is text
        return [decode_text(value)]
    if isinstance(value, Mapping):
        return captions_of(next((value[key] for key in CAPTION_PARTS if isinstance(value.get(key), str)), None))
    if isinstance(value, list):
        return [caption for item in value if isinstance(item, str | bytes | Mapping) for caption in captions_of(item)]
    return []


def find_captions(fields: Mapping[str, Any], config: IngestConfig) -> list[str]:
    """The captions of a record: under the keys that the config states, else under the first usual one that has any."""
    stated = config.names_of("caption")
    if stated:
        values = (stated_value(fields, name.removeprefix("json.")) for name in stated)
    else:
        by_lower_case = {key.lower(): fields[key] for key in reversed(list(fields)) if isinstance(key, str)}
        values = (by_lower_case.get(key) for key in (*CAPTION_KEYS, LAST_CAPTION_KEY))
    found = [captions_of(value) for value in values]
    return next(
        (captions for captions in found if any(caption.strip() for caption in captions)),
        next((captions for captions in found if captions), []),
    )


def chosen_captions(captions: Sequence[str], image_name: str, config: IngestConfig) -> Sequence[str]:
    """Those of several captions that become records: all, the first, or the one that a digest of them all points to."""
    if len(captions) < 2 or config.caption_choice == "all":
        return captions
    if config.caption_choice == "first":
        return captions[:1]
    text = "\0".join((str(config.caption_seed), image_name, *captions))
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return [captions[int.from_bytes(digest[:8], "big") % len(captions)]]


def caption_records(
    caption: str | None,
    fields: Mapping[str, Any],
    image_name: str,
    config: IngestConfig,
    *,
    meta: Mapping[str, Any] = NO_META,
    held: Mapping[int, bytes | Reject] = NOTHING_HELD,
) -> list[Record | Reject]:
    """One record per task of `config.caption_tasks`, with the given caption or else one from `fields`."""
    captions = find_captions(fields, config) if caption is None else [caption]
    if not captions:
        detail = f"the picture {utf8_safe(image_name[:200])!r} has no text"
        return [Reject(reason="caption_missing", detail=detail)]
    return [
        caption_record(text.rstrip("\r\n"), image_name, task, fields, meta=meta, held=held)
        for text in chosen_captions(captions, image_name, config)
        for task in config.caption_tasks
    ]


def plain_meta(fields: Mapping[str, Any], without: frozenset[str]) -> dict[str, Any]:
    """The short plain values beside a caption: addresses, sizes, scores. Others, and null, are left out."""
    return {
        key: value
        for key, value in fields.items()
        if isinstance(key, str)
        and key not in without
        and isinstance(value, str | int | float | bool)
        and (not isinstance(value, str) or len(value) <= MAX_META_TEXT)
        and (not isinstance(value, float) or abs(value) <= 1e300)
    }
