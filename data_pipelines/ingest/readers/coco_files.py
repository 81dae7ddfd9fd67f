"""COCO captions: one JSON object whose lists `images` and `annotations` belong together by the images' ids."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from data_pipelines.datasets.records import Reject, utf8_safe
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.layouts.captions import caption_records
from data_pipelines.ingest.units import Unit, digest

MAX_BYTES = 4 << 30  # it is held in memory
_FIRST_KEY = re.compile(rb'\s*\{\s*"(?:info|licenses|images|annotations|type|categories)"\s*:')
_CONVERSATION = re.compile(rb'"(?:conversations|messages)"\s*:')


def may_be_coco(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a COCO object rather than of a record."""
    return _FIRST_KEY.match(head.removeprefix(b"\xef\xbb\xbf")) is not None and not _CONVERSATION.search(head)


def is_coco(value: object) -> bool:
    """Whether a JSON value is a COCO object."""
    if not isinstance(value, Mapping):
        return False
    images, annotations = value.get("images"), value.get("annotations")
    if not (isinstance(images, list) and isinstance(annotations, list)):
        return False
    return any(isinstance(image, Mapping) and "id" in image and "file_name" in image for image in images)


def coco_units(value: Mapping[str, Any], config: IngestConfig) -> Iterator[Unit]:
    """A unit for each image, with its captions; then one for each annotation that belongs to no image."""
    captions: dict[str, list[str]] = {}
    for annotation in value["annotations"]:
        if isinstance(annotation, Mapping) and isinstance(annotation.get("caption"), str):
            captions.setdefault(str(annotation.get("image_id")), []).append(annotation["caption"])
    licences = _licence_names(value.get("licenses"))
    ids = Counter(str(image.get("id")) for image in value["images"] if isinstance(image, Mapping))
    shared = {image_id: captions.pop(image_id, []) for image_id, count in ids.items() if count > 1}
    for row, image in enumerate(value["images"]):
        image_id = str(image.get("id")) if isinstance(image, Mapping) else ""
        if image_id in shared:
            detail = f"{ids[image_id]} images have the id {utf8_safe(image_id[:100])!r}; whose {len(shared[image_id])} "
            detail += f"captions are meant is not known (image {row} of the list)"
            content = Reject(reason="ambiguous_sample", detail=detail)
            yield Unit(row=row, content=content, raw_sha256=digest(detail.encode()))
            continue
        yield from _image_units(row, image, captions, licences, config)
    for number, (image_id, lost) in enumerate(sorted(captions.items()), len(value["images"])):
        detail = f"{len(lost)} captions of the image {utf8_safe(image_id[:100])!r}, which the file does not list"
        content = Reject(reason="missing_file", detail=detail)
        yield Unit(row=number, content=content, raw_sha256=digest(detail.encode()))


def _image_units(
    row: int, image: object, captions: dict[str, list[str]], licences: Mapping[str, str], config: IngestConfig
) -> Iterator[Unit]:
    """The units of one image, whose captions are taken out of `captions`."""
    name = image.get("file_name") if isinstance(image, Mapping) else None
    if not isinstance(image, Mapping) or not isinstance(name, str) or not name:
        detail = f"image {row} of the list 'images' has no 'file_name'"
        yield Unit(row=row, content=Reject(reason="bad_schema", detail=detail), raw_sha256=digest(detail.encode()))
        return
    key = str(image.get("id"))
    found = captions.pop(key, [])
    fields = {"id": key, "license": licences.get(str(image.get("license")))}
    raw = digest("\0".join((key, name, *found)).encode("utf-8", "surrogatepass"))
    stated = replace(config, caption="captions")  # whatever names the records of other files use
    for content in caption_records(None, {**fields, "captions": found}, name, stated):
        yield Unit(row=row, key=key, content=content, raw_sha256=raw)


def _licence_names(licences: object) -> dict[str, str]:
    listed = licences if isinstance(licences, list) else []
    return {
        str(licence["id"]): licence["name"]
        for licence in listed
        if isinstance(licence, Mapping) and "id" in licence and isinstance(licence.get("name"), str)
    }
