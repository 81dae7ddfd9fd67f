"""Units of folders of images: each with its caption in a file of the same name, or without captions."""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from data_pipelines.datasets.records import Record, Reject
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.layouts.captions import caption_records, plain_meta, stated_value
from data_pipelines.ingest.layouts.chat import has_turns, parse_record
from data_pipelines.ingest.units import CAPTION_ENDINGS, IngestShard, OtherFiles, Unit, decode_json, digest

JSON_KEYS = frozenset({"id", "license", "split", "task", "key", "caption", "text"})


def captioned_image_units(shard: IngestShard, config: IngestConfig, files: OtherFiles) -> Iterator[Unit]:
    """Units of a folder of images, each with its caption in a file of the same name that ends in .txt, or in the
    .json beside it."""
    for index, name in enumerate(shard.members):
        raw = digest(name.encode("utf-8", "replace"))
        for content in _member_records(name, config, files):
            yield Unit(row=shard.first_row + index, key=name, content=content, raw_sha256=raw)


def _member_records(name: str, config: IngestConfig, files: OtherFiles) -> list[Record | Reject]:
    stated = config.names_of("caption") or tuple(ending.lstrip(".") for ending in CAPTION_ENDINGS)
    fields = _fields_beside(name, config, files)
    if isinstance(fields, Reject):
        return [fields]
    for source in stated:
        ending, _, path = source.partition(".")
        if ending == "json":
            value = stated_value(fields, path) if path else None
            if isinstance(value, str | list):
                return caption_records(None, {**fields, "caption": value}, name, config, meta=_meta(fields))
            continue
        data = sidecar(name, f".{ending}", config, files)
        if isinstance(data, Reject):
            return [data]
        if data is not None:
            return caption_records(data.decode("utf-8", "replace"), fields, name, config, meta=_meta(fields))
    if has_turns(fields):
        images = {} if fields.get("images") or fields.get("image") else {"images": [name]}
        return [parse_record({**fields, **images})]
    return caption_records(None, fields, name, config, meta=_meta(fields))


def _meta(fields: Mapping[str, Any]) -> dict[str, Any]:
    return plain_meta(fields, JSON_KEYS)


def _fields_beside(name: str, config: IngestConfig, files: OtherFiles) -> dict[str, Any] | Reject:
    """The object in the .json beside an image; empty if there is none."""
    data = sidecar(name, ".json", config, files)
    if data is None or isinstance(data, Reject):
        return {} if data is None else data
    try:
        value = decode_json(data)
    except ValueError as error:
        return Reject(reason="broken_json", detail=f"{PurePosixPath(name).with_suffix('.json').name}: {error}"[:200])
    return value if isinstance(value, dict) else {}


def sidecar(name: str, ending: str, config: IngestConfig, files: OtherFiles) -> bytes | Reject | None:
    """The bytes of the file beside an image, None if there is none."""
    data = files.read(str(PurePosixPath(name).with_suffix(ending)))
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
