"""Conversations: ILLUME+ lines, LLaVA, ShareGPT, chat messages with parts, and the published pure-text layout.

Null is as if a key were absent, wherever one of several names is looked for: tables that join data sets of several
layouts hold every key in every row.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_pipelines.datasets.records import (
    IMAGE,
    Record,
    Reject,
    canonical,
    external_id,
    normalize_split,
    optional_text,
    utf8_safe,
)
from data_pipelines.ingest.layouts.image_references import ImageReference, image_reference
from data_pipelines.ingest.layouts.nulls import decoded_list, is_filled

TURN_KEYS = ("conversations", "messages", "data", "conversation")
ROLE_KEYS = ("from", "role")
TEXT_KEYS = ("value", "text", "content")
ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "model": "gpt"}
SYSTEM_ROLES = ("system", "developer")
KNOWN_KEYS = frozenset({*TURN_KEYS, "id", "sample_id", "images", "image", "license", "split", "task", "meta", "source"})
TEXT_PARTS = ("text", "input_text", "output_text")
IMAGE_PARTS = ("image", "image_url", "input_image", "image_path")
MAX_META_BYTES = 64 << 10
MAX_IMAGES = 64


@dataclass(kw_only=True)
class _Turns:
    """Turns while they are read; `images`: for each placeholder its own image, None: the next of the listed ones."""

    turns: list[tuple[str, str]] = field(default_factory=list)
    images: list[ImageReference | None] = field(default_factory=list)
    num_parts: int = 0  # of pictures


def first_filled(value: Mapping[str, Any], names: Sequence[str]) -> tuple[str | None, Any]:
    """The first of several keys that is filled, else the first that is not null; (None, None) if all are absent."""
    present = [(name, value[name]) for name in names if value.get(name) is not None]
    return next((pair for pair in present if is_filled(pair[1])), present[0] if present else (None, None))


def has_turns(value: Mapping[str, Any]) -> bool:
    """Whether an object holds a conversation, sound or not."""
    name, turns = first_filled(value, TURN_KEYS)
    return isinstance(turns, list) if name == "data" else bool(turns)


def parse_record(value: object) -> Record | Reject:
    """The record in a decoded JSON value that holds a conversation."""
    if not isinstance(value, Mapping):
        return Reject(reason="bad_schema", detail=f"a JSON {type(value).__name__}, expected an object")
    found = _parse_turns(value)
    if isinstance(found, Reject):
        return found
    listed = _listed_images(value)
    if isinstance(listed, Reject):
        return listed
    images = _placed_images(found, listed)
    if isinstance(images, Reject):
        return images
    meta = parse_meta(value, KNOWN_KEYS)
    if isinstance(meta, Reject):
        return meta
    system, turns = _split_system_prompt(found.turns)
    names = tuple(image.name for image in images)
    task = _infer_task(value.get("task"), turns, names)
    if isinstance(task, Reject):
        return task
    return Record(
        task=task,
        turns=tuple(turns),
        image_names=names,
        external_id=external_id(first_filled(value, ("id", "sample_id"))[1]),
        license=optional_text(value.get("license")),
        split=normalize_split(value.get("split")),
        meta={**meta, **({"system": system} if system else {})},
        held={position: image.held for position, image in enumerate(images) if image.held is not None},
    )


def _parse_turns(value: Mapping[str, Any]) -> _Turns | Reject:
    turns = _listed(decoded_list(first_filled(value, TURN_KEYS)[1]))
    if not isinstance(turns, list) or not turns:
        return Reject(reason="bad_schema", detail="no list under 'conversations', 'messages' or 'data'")
    result = _Turns()
    for index, turn in enumerate(turns):
        if not isinstance(turn, Mapping):
            return Reject(reason="bad_schema", detail=f"turn {index}: a {type(turn).__name__}, expected an object")
        stated = first_filled(turn, ROLE_KEYS)[1]
        role = stated.strip().lower() if isinstance(stated, str) else ""
        text = _turn_text(turn, index, result)
        if isinstance(text, Reject):
            return text
        if role in SYSTEM_ROLES and index == 0 and text is not None:
            result.turns.append(("system", utf8_safe(text)))
            continue
        if role not in ROLES:
            detail = f"turn {index}: speaker {utf8_safe(str(stated)[:40])!r}, expected human or gpt"
            return Reject(reason="bad_schema", detail=detail)
        if text is None:
            return Reject(reason="bad_schema", detail=f"turn {index}: no text")
        result.turns.append((ROLES[role], utf8_safe(text)))
    speakers = [role for role, _ in result.turns if role != "system"]
    if not speakers or speakers != ["human", "gpt"] * (len(speakers) // 2):
        return Reject(reason="bad_schema", detail="turns must alternate human, gpt and end with gpt")
    return result


def _listed(turns: object) -> object:
    """The list of objects that an object of equally long lists stands for: `datasets` stores sequences so."""
    columns = list(turns.values()) if isinstance(turns, Mapping) else []
    if not columns or not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return turns
    assert isinstance(turns, Mapping), "columns come from a mapping"
    return [dict(zip(turns, values, strict=True)) for values in zip(*columns, strict=True)]


def _turn_text(turn: Mapping[str, Any], index: int, result: _Turns) -> str | Reject | None:
    """The text of a turn, a string or a list of parts, with a placeholder where a part is an image."""
    content = first_filled(turn, TEXT_KEYS)[1]
    if isinstance(content, str):
        result.images += [None] * content.count(IMAGE)
        return content
    content = [content] if isinstance(content, Mapping) else content
    if not isinstance(content, list):
        return None
    texts = []
    for number, part in enumerate(content):
        text = _part_text(part, result)
        if text is None:
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            shown = utf8_safe(str(kind)[:40])
            detail = f"turn {index}: part {number + 1} is of type {shown!r}, expected text or an image"
            return Reject(reason="bad_schema", detail=detail)
        texts.append(text)
    return "\n".join(texts)


def _part_text(part: object, result: _Turns) -> str | None:
    """The text of a part of a turn, the placeholder for an image; None for any other part."""
    if isinstance(part, str):
        part = {"text": part}
    if not isinstance(part, Mapping):
        return None
    kind = part.get("type")
    kind = kind.lower() if isinstance(kind, str) else kind
    text = part.get("text")
    text = text.get("string") if isinstance(text, Mapping) else text
    if isinstance(text, str) and (kind in TEXT_PARTS or kind is None):
        result.images += [None] * text.count(IMAGE)
        return text
    image = first_filled(part, (*IMAGE_PARTS, "url", "path", "source"))[1]
    if kind in IMAGE_PARTS or (kind is None and image is not None):
        result.images.append(image_reference(image, len(result.images)))
        result.num_parts += 1
        return IMAGE
    return None


def _split_system_prompt(turns: list[tuple[str, str]]) -> tuple[str, list[tuple[str, str]]]:
    """The system prompt, "" if there is none, and the other turns."""
    if turns[0][0] == "system":
        return turns[0][1], turns[1:]
    return "", turns


def _listed_images(value: Mapping[str, Any]) -> list[ImageReference] | Reject:
    """The images under `images` or `image`, apart from those of parts of turns."""
    key, images = first_filled(value, ("images", "image"))
    if key == "image" and not isinstance(images, list):
        images = [images] if is_filled(images) else []  # "" where a text has no image
    if images is None or (isinstance(images, list) and all(_is_null(image) for image in images)):
        return []
    if not isinstance(images, list):
        return Reject(reason="bad_schema", detail=f"'images' is a {type(images).__name__}, expected a list of names")
    if len(images) > MAX_IMAGES:
        return Reject(reason="bad_schema", detail=f"{len(images)} images, at most {MAX_IMAGES} are taken")
    found = [image_reference(image, position) for position, image in enumerate(images)]
    references = [image for image in found if image is not None]
    if len(references) < len(found):
        return Reject(reason="bad_schema", detail="'images' holds something that is not a name")
    return references


def _is_null(image: object) -> bool:
    """Whether a listed image is none at all. One with an empty name is an image that cannot be read."""
    return image is None or (isinstance(image, Mapping) and not is_filled(image))


def _placed_images(found: _Turns, listed: Sequence[ImageReference]) -> list[ImageReference] | Reject:
    """The images in the order of their placeholders: those of parts, and the listed ones for all other placeholders."""
    if len(found.images) > MAX_IMAGES:
        return Reject(reason="bad_schema", detail=f"{len(found.images)} images, at most {MAX_IMAGES} are taken")
    if not found.num_parts:
        return list(listed)  # their number is checked with the placeholders
    own = [image for image in found.images if image is not None]
    if len(own) == len(found.images) and len(listed) in (0, len(own)):
        return own  # listed once more beside their parts
    if len(own) + len(listed) != len(found.images):
        detail = f"{len(found.images)} images in the turns, of which {len(own)} have a name, and {len(listed)} listed"
        return Reject(reason="placeholder_mismatch", detail=detail)
    others: Iterator[ImageReference] = iter(listed)
    return [next(others) if image is None else image for image in found.images]


def parse_meta(value: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any] | Reject:
    """The record's own `meta`, and all unknown keys."""
    meta = {key: value[key] for key in value if key not in known}
    own = value.get("meta")
    meta.update(own if isinstance(own, dict) else {} if own is None else {"meta": own})
    try:
        size = len(canonical(meta))
    except (TypeError, ValueError) as error:  # an infinite number, bytes, a date
        odd = next((key for key in meta if not _can_be_json(meta[key])), "")
        detail = f"{utf8_safe(str(odd)[:100])!r} holds a value that JSON cannot hold: {str(error)[:100]}"
        return Reject(reason="bad_schema", detail=detail)
    if size > MAX_META_BYTES:
        return Reject(reason="bad_schema", detail=f"{size} bytes beside the conversation, at most {MAX_META_BYTES}")
    return meta


def _can_be_json(value: object) -> bool:
    try:
        canonical(value)
    except (TypeError, ValueError):
        return False
    return True


def _infer_task(stated: object, turns: Sequence[tuple[str, str]], names: Sequence[str]) -> str | Reject:
    """The task that follows from the placeholders; a record that states another one is rejected."""
    num_inputs = sum(text.count(IMAGE) for role, text in turns if role == "human")
    num_outputs = sum(text.count(IMAGE) for role, text in turns if role == "gpt")
    if num_inputs + num_outputs != len(names):
        detail = f"{num_inputs + num_outputs} {IMAGE} in the text, {len(names)} images"
        return Reject(reason="placeholder_mismatch", detail=detail)
    task = {(False, True): "generation", (True, True): "editing"}.get((num_inputs > 0, num_outputs > 0))
    task = task or ("understanding" if names else "text")
    if stated is not None and stated != task:
        shown = utf8_safe(str(stated)[:40])
        return Reject(reason="bad_schema", detail=f"task {shown!r}, but its placeholders make it {task!r}")
    return task
