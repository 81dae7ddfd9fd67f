"""Units of folders of images: each with its caption in a file of the same name, or without captions."""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from data_pipelines.archives.compressed_files import decode_text
from data_pipelines.datasets.records import Record, Reject
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.layouts.captions import caption_records, plain_meta, stated_value
from data_pipelines.ingest.layouts.chat import has_turns, parse_record
from data_pipelines.ingest.units import (
    CAPTION_ENDINGS,
    SIDECAR_SPELLINGS,
    IngestShard,
    OtherFiles,
    Unit,
    decode_json,
    digest,
    sidecar_name,
)

JSON_KEYS = frozenset({"id", "license", "split", "task", "key", "caption", "text"})


def captioned_image_units(shard: IngestShard, config: IngestConfig, files: OtherFiles) -> Iterator[Unit]:
    """Units of a folder of images, each with its caption in a file of the same name that ends in .txt, or in the
    .json beside it; 1.png.txt and 1.TXT are looked for where there is no 1.txt."""
    for index, name in enumerate(shard.members):
        raw = digest(name.encode("utf-8", "replace"))
        for content in _member_records(name, name in shard.shared, config, files):
            yield Unit(row=shard.first_row + index, key=name, content=content, raw_sha256=raw)


def _member_records(name: str, shared: bool, config: IngestConfig, files: OtherFiles) -> list[Record | Reject]:
    """The records of an image. `shared`: whether a file of words without its ending may be those of another image."""
    for spelling in range(SIDECAR_SPELLINGS):
        found = _records_beside(name, spelling, config, files)
        if found is None:
            continue
        if shared and spelling % 2 == 0:
            detail = (
                f"several pictures are called {PurePosixPath(name).with_suffix('').name[:100]!r} but for their ending, "
                "and one file of words; say which picture is meant: read.image"
            )
            return [Reject(reason="ambiguous_sample", detail=detail)]
        return found
    return caption_records(None, {}, name, config)


def _records_beside(name: str, spelling: int, config: IngestConfig, files: OtherFiles) -> list[Record | Reject] | None:
    """The records of an image and the words beside it, under one spelling of their names; None if there are none."""
    stated = config.names_of("caption") or tuple(ending.lstrip(".") for ending in CAPTION_ENDINGS)
    fields = _fields_beside(name, spelling, config, files)
    if isinstance(fields, Reject):
        return [fields]
    for source in stated:
        ending, _, path = source.partition(".")
        if ending == "json":
            value = stated_value(fields, path) if path else None
            if isinstance(value, str | list):
                return caption_records(None, {**fields, "caption": value}, name, config, meta=_meta(fields))
            continue
        data = _sidecar(name, f".{ending}", spelling, config, files)
        if isinstance(data, Reject):
            return [data]
        if data is not None:
            return caption_records(decode_text(data), fields, name, config, meta=_meta(fields))
    if has_turns(fields):
        images = {} if fields.get("images") or fields.get("image") else {"images": [name]}
        return [parse_record({**fields, **images})]
    return caption_records(None, fields, name, config, meta=_meta(fields)) if fields else None


def _meta(fields: Mapping[str, Any]) -> dict[str, Any]:
    return plain_meta(fields, JSON_KEYS)


def _fields_beside(name: str, spelling: int, config: IngestConfig, files: OtherFiles) -> dict[str, Any] | Reject:
    """The object in the .json beside an image; empty if there is none."""
    data = _sidecar(name, ".json", spelling, config, files)
    if data is None or isinstance(data, Reject):
        return {} if data is None else data
    try:
        value = decode_json(data)
    except ValueError as error:
        beside = PurePosixPath(sidecar_name(name, ".json", spelling)).name
        return Reject(reason="broken_json", detail=f"{beside}: {error}"[:200])
    return value if isinstance(value, dict) else {}


def _sidecar(name: str, ending: str, spelling: int, config: IngestConfig, files: OtherFiles) -> bytes | Reject | None:
    """The bytes of the file beside an image, None if there is none."""
    data = files.read(sidecar_name(name, ending, spelling))
    if isinstance(data, Reject):
        return None if data.reason == "missing_file" else data
    if len(data) > config.max_line_bytes:
        detail = f"the {ending} of {name[:200]!r}: {len(data)} bytes, at most {config.max_line_bytes}"
        return Reject(reason="too_large", detail=detail)
    return data


def bare_image_units(shard: IngestShard, config: IngestConfig, _files: OtherFiles) -> Iterator[Unit]:
    """Units of a folder of images without captions: records with an empty caption, which no curation keeps."""
    for index, name in enumerate(shard.members):
        raw = digest(name.encode("utf-8", "replace"))
        for content in caption_records("", {}, name, config):
            yield Unit(row=shard.first_row + index, key=name, content=content, raw_sha256=raw)
