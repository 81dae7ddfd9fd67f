"""The layouts of one object of a record file, whether a line of JSON, a row of a table or the JSON of a tar's sample.

A conversation, a document with images between its texts, or an image with captions. Null is as if a key were absent.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from data_pipelines.datasets.records import (
    IMAGE,
    Record,
    Reject,
    external_id,
    normalize_split,
    optional_text,
    utf8_safe,
)
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.layouts.captions import (
    CAPTION_KEYS,
    caption_records,
    find_captions,
    plain_meta,
    stated_value,
)
from data_pipelines.ingest.layouts.chat import TURN_KEYS, first_filled, has_turns, parse_record
from data_pipelines.ingest.layouts.image_references import ImageReference, image_reference
from data_pipelines.ingest.layouts.nulls import is_filled

IMAGE_KEYS = ("image", "images", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "img",
              "image_path", "image_file", "file_name", "filename", "path", "image_name", "filepath", "file",
              "image_url", "url")  # fmt: skip
# Keys that a caption's record gives a place of their own, or whose value is taken from them.
_PLACED = frozenset({*IMAGE_KEYS, *CAPTION_KEYS, "id", "__key__", "key", "license", "split", "task"} - {"url"})


def parse_object(value: object, config: IngestConfig) -> list[Record | Reject]:
    """The records in an object, or why it is none."""
    if not isinstance(value, Mapping):
        return [parse_record(value)]
    if has_turns(value):
        return [parse_record(value)]
    pieces = _interleaved_pieces(value)
    if pieces is not None:
        return [_document_record(value, pieces)]
    return _captioned(value, config)


def layout_name(value: object, config: IngestConfig) -> str:
    """What people call the layout of an object; "" if it is none that is read."""
    if not isinstance(value, Mapping):
        return ""
    if has_turns(value):
        key, turns = first_filled(value, TURN_KEYS)
        first = turns[0] if isinstance(turns, list) and turns and isinstance(turns[0], Mapping) else {}
        with_images = first_filled(value, ("images", "image"))[0] is not None
        if key == "data":
            return "published text"
        if first.get("from") is None:
            return "chat messages"
        return ("LLaVA" if "image" in value else "ILLUME+") if with_images else "ShareGPT"
    if _interleaved_pieces(value) is not None:
        return "interleaved documents"
    return "captions" if image_cell(value, config)[0] and find_captions(value, config) else ""


def image_cell(fields: Mapping[str, Any], config: IngestConfig) -> tuple[str, Any]:
    """The key and value that hold the image or images of an object; ("", None) if none does."""
    stated = config.names_of("image")
    spelled = {} if stated else {key.lower(): key for key in reversed(list(fields)) if isinstance(key, str)}
    names = stated or tuple(spelled.get(name, name) for name in IMAGE_KEYS)  # `Image` of a table's header is no other
    values = ((name, stated_value(fields, name)) for name in names)
    return next(((name, value) for name, value in values if is_filled(value)), ("", None))


def references(cell: object) -> list[ImageReference | None]:
    """The images in the value that holds them: one, or a list."""
    cells = cell if isinstance(cell, list) else [] if cell is None else [cell]
    return [image_reference(item, position) for position, item in enumerate(cells)]


def _captioned(value: Mapping[str, Any], config: IngestConfig) -> list[Record | Reject]:
    key, cell = image_cell(value, config)
    images = references(cell)
    if not images:
        if find_captions(value, config):
            return [Reject(reason="missing_file", detail="a caption without a picture")]
        shown = utf8_safe(", ".join(map(str, list(value)[:12])))[:200]
        detail = f"no list under {', '.join(TURN_KEYS[:3])}, and no picture with a caption; its keys: {shown or 'none'}"
        return [Reject(reason="bad_schema", detail=detail)]
    image = images[0]
    if image is None:
        return [Reject(reason="missing_file", detail=f"picture 1 under {key!r} is neither bytes nor a name")]
    if len(images) > 1:
        detail = (
            f"{len(images)} pictures under {key!r} with one caption, which does not tell which of them it describes"
        )
        return [Reject(reason="ambiguous_sample", detail=detail)]
    held = {0: image.held} if image.held is not None else {}
    meta = plain_meta(value, _PLACED)
    return caption_records(None, value, image.name, config, meta=meta, held=held)


# ---------------------------------------------------------------- documents with images between their texts


def _interleaved_pieces(value: Mapping[str, Any]) -> list[str | ImageReference | None] | None:
    """The texts and images of a document in order: MMC4's `text_list` and `image_info`, or the equally long lists
    `texts` and `images` in which one of both is null at each place. None for any other object; a None among the pieces
    is an image that cannot be understood.
    """
    texts, infos = value.get("text_list"), value.get("image_info")
    if isinstance(texts, list) and isinstance(infos, list):
        return _placed_before_texts(texts, infos)
    texts, images = value.get("texts"), value.get("images")
    if not (isinstance(texts, list) and isinstance(images, list) and len(texts) == len(images)):
        return None
    if not all((text is None) != (image is None) for text, image in zip(texts, images, strict=True)):
        return None
    pieces: list[str | ImageReference | None] = []
    for text, image in zip(texts, images, strict=True):
        pieces.append(text if isinstance(text, str) else image_reference(image, len(pieces)))
    return pieces


def _placed_before_texts(texts: Sequence[Any], infos: Sequence[Any]) -> list[str | ImageReference | None]:
    """The texts with each image before the text that its `matched_text_index` says."""
    before: dict[int, list[ImageReference | None]] = {}
    for position, info in enumerate(infos):
        index = info.get("matched_text_index") if isinstance(info, Mapping) else None
        is_placed = isinstance(index, int) and 0 <= index < len(texts)
        place = index if isinstance(index, int) and is_placed else 0
        image = image_reference(info, position) if is_placed or index is None else None
        before.setdefault(place, []).append(image)
    pieces: list[str | ImageReference | None] = []
    for index, text in enumerate(texts):
        pieces += before.get(index, [])
        pieces += [text] if isinstance(text, str) and text.strip() else []
    return pieces


def _document_record(value: Mapping[str, Any], pieces: Sequence[str | ImageReference | None]) -> Record | Reject:
    """A document as one exchange: all up to its last image is what is given, the text after it the answer.

    Images after the last text are given before that text.
    """
    texts = [number for number, piece in enumerate(pieces) if isinstance(piece, str)]
    images = [number for number, piece in enumerate(pieces) if not isinstance(piece, str)]
    if not texts:
        return Reject(reason="caption_missing", detail="a document without a text")
    if not images:
        return Reject(reason="missing_file", detail="a document without a picture")
    ordered = list(pieces)
    if images[-1] > texts[-1]:
        last = ordered.pop(texts[-1])
        ordered.append(last)
    split_at = max(number for number, piece in enumerate(ordered) if not isinstance(piece, str)) + 1
    given = [piece if isinstance(piece, str) else IMAGE for piece in ordered[:split_at]]
    found = [piece for piece in ordered if not isinstance(piece, str)]
    references_found = [image for image in found if image is not None]
    if len(references_found) < len(found):
        return Reject(
            reason="missing_file", detail="a picture of the document is neither bytes nor a name, or of no text"
        )
    if any(IMAGE in piece for piece in ordered if isinstance(piece, str)):
        return Reject(reason="placeholder_mismatch", detail=f"a text of the document holds {IMAGE} itself")
    answer = "\n".join(piece for piece in ordered[split_at:] if isinstance(piece, str))
    return Record(
        task="understanding",
        turns=(("human", utf8_safe("\n".join(given))), ("gpt", utf8_safe(answer))),
        image_names=tuple(image.name for image in references_found),
        external_id=external_id(value.get("id")),
        license=optional_text(value.get("license")),
        split=normalize_split(value.get("split")),
        meta=plain_meta(value, _PLACED),
        held={n: image.held for n, image in enumerate(references_found) if image.held is not None},
    )
