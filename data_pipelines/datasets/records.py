"""Records: annotated samples before curation, and the reasons why a unit of input is no record.

The id of a record is the SHA-256 of its task, its texts and its images' SHA-256, so equal content has one id.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

IMAGE = "<image>"
TASKS = ("text", "understanding", "generation", "editing")
ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "model": "gpt"}
KNOWN_KEYS = frozenset({"id", "sample_id", "images", "image", "conversations", "messages", "data", "license", "split",
                        "task", "meta", "source"})  # fmt: skip
_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_META_BYTES = 64 << 10
MAX_IMAGES = 64

SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("external_id", pa.string()),
        ("source", pa.string()),
        ("source_file", pa.string()),
        ("source_row", pa.int64()),  # line, row or member group, from 0; -1: the container itself
        ("license", pa.string()),
        ("split", pa.string()),
        ("task", pa.string()),
        ("conversations", pa.string()),
        ("images", pa.list_(pa.string())),
        ("image_names", pa.list_(pa.string())),  # in the source
        ("meta", pa.string()),
        ("reject", pa.string()),
        ("detail", pa.string()),
    ]
)
SOURCE_KEY = "source_file"  # in the metadata of a shard's records and of its ledger
INDEX_SCHEMA = pa.schema(
    [("sha256", pa.string()), ("member", pa.string()), ("offset", pa.int64()), ("bytes", pa.int64())]
)


@dataclass(frozen=True, kw_only=True)
class Reject:
    """Why a unit of input is rejected or dropped: `reason` is one of `reasons.REASONS`, `detail` is for people."""

    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """A consistent conversation; its images are only names, not yet read."""

    task: str
    turns: tuple[tuple[str, str], ...]  # (role, text), role "human" or "gpt"
    image_names: tuple[str, ...] = ()
    external_id: str | None = None
    license: str | None = None
    split: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def canonical(value: object) -> str:
    """Canonical JSON: equal values give equal text. ASCII only, so that it can always be written."""
    return _CANONICAL.encode(value)


def utf8_safe(text: str) -> str:
    """The text with everything that UTF-8 cannot encode (lone surrogates) replaced by U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def turns_to_json(turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "text": text} for role, text in turns]


def json_to_turns(conversations: str) -> list[tuple[str, str]]:
    """The inverse of `turns_to_json`, from the JSON text in a records file."""
    return [(turn["role"], turn["text"]) for turn in json.loads(conversations)]


def sample_id(task: str, turns: Sequence[tuple[str, str]], image_sha256s: Sequence[str]) -> str:
    content = {"task": task, "conversations": turns_to_json(turns), "images": list(image_sha256s)}
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def parse_record(value: object) -> Record | Reject:
    """The record in a decoded JSON value: an ILLUME+ line, chat messages, or the published pure-text layout."""
    if not isinstance(value, dict):
        return Reject(reason="bad_schema", detail=f"a JSON {type(value).__name__}, expected an object")
    turns = _parse_turns(value)
    if isinstance(turns, Reject):
        return turns
    names = _parse_image_names(value)
    if isinstance(names, Reject):
        return names
    meta = _parse_meta(value)
    if isinstance(meta, Reject):
        return meta
    system, turns = _split_system_prompt(turns)
    task = _infer_task(value.get("task"), turns, names)
    if isinstance(task, Reject):
        return task
    external = value.get("id", value.get("sample_id"))
    return Record(
        task=task,
        turns=tuple(turns),
        image_names=names,
        external_id=None if external is None else utf8_safe(str(external))[:500],
        license=_optional_text(value.get("license")),
        split=normalize_split(value.get("split")),
        meta={**meta, **({"system": system} if system else {})},
    )


def caption_record(caption: str, image_name: str, task: str, fields: Mapping[str, Any]) -> Record:
    """A captioned image as a conversation of a task, with the prompts of the published data."""
    if task == "generation":
        turns = (
            ("human", f"Generate an image of {{resolution_tag}}, the content of image is {utf8_safe(caption)}\n"),
            ("gpt", IMAGE),
        )
    else:
        turns = (("human", f"{IMAGE}\nDescribe the image."), ("gpt", utf8_safe(caption)))
    external = fields.get("id")
    return Record(
        task=task,
        turns=turns,
        image_names=(image_name,),
        external_id=None if external is None else utf8_safe(str(external))[:500],
        license=_optional_text(fields.get("license")),
        split=normalize_split(fields.get("split")),
    )


def normalize_split(value: object) -> str | None:
    """ "train" or "val" for the common names of splits, None for any other value."""
    splits = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "val"}
    return splits.get(value.strip().lower()) if isinstance(value, str) else None


def split_from_name(name: str) -> str | None:
    """The split named in a file's name, as in `generation_val-00001.jsonl`."""
    found = [normalize_split(word) for word in re.split(r"[^a-z]+", name.lower())]
    return next((split for split in reversed(found) if split), None)


def _optional_text(value: object) -> str | None:
    return utf8_safe(value.strip())[:200] if isinstance(value, str) and value.strip() else None


def _parse_turns(value: Mapping[str, Any]) -> list[tuple[str, str]] | Reject:
    key = next((name for name in ("conversations", "messages", "data") if name in value), None)
    turns = value.get(key) if key else None
    if not isinstance(turns, list) or not turns:
        return Reject(reason="bad_schema", detail="no list under 'conversations', 'messages' or 'data'")
    result = []
    for index, turn in enumerate(turns):
        role = turn.get("from", turn.get("role")) if isinstance(turn, dict) else None
        text = _turn_text(turn) if isinstance(turn, dict) else None
        if role == "system" and index == 0 and text is not None:
            result.append(("system", utf8_safe(text)))
            continue
        if not isinstance(role, str) or role not in ROLES:
            return Reject(
                reason="bad_schema", detail=f"turn {index}: speaker {str(role)[:40]!r}, expected human or gpt"
            )
        if text is None:
            return Reject(reason="bad_schema", detail=f"turn {index}: no text")
        result.append((ROLES[role], utf8_safe(text)))
    speakers = [role for role, _ in result if role != "system"]
    if not speakers or speakers != ["human", "gpt"] * (len(speakers) // 2):
        return Reject(reason="bad_schema", detail="turns must alternate human, gpt and end with gpt")
    return result


def _turn_text(turn: Mapping[str, Any]) -> str | None:
    """The text of a turn: a string, or the text parts of a list as in the published pure-text files."""
    content = next((turn[key] for key in ("value", "text", "content") if key in turn), None)
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        text = text.get("string") if isinstance(text, dict) else text
        if not isinstance(text, str):
            return None
        texts.append(text)
    return "\n".join(texts)


def _split_system_prompt(turns: list[tuple[str, str]]) -> tuple[str, list[tuple[str, str]]]:
    """The system prompt, "" if there is none, and the other turns."""
    if turns[0][0] == "system":
        return turns[0][1], turns[1:]
    return "", turns


def _parse_image_names(value: Mapping[str, Any]) -> tuple[str, ...] | Reject:
    images = value.get("images", value.get("image", []))
    if "image" in value and "images" not in value and isinstance(images, str):
        images = [images]
    images = [] if images is None else images
    if not isinstance(images, list):
        return Reject(reason="bad_schema", detail=f"'images' is a {type(images).__name__}, expected a list of names")
    if len(images) > MAX_IMAGES:
        return Reject(reason="bad_schema", detail=f"{len(images)} images, at most {MAX_IMAGES} are taken")
    names = [image.get("member") if isinstance(image, dict) else image for image in images]
    if not all(isinstance(name, str) for name in names):
        return Reject(reason="bad_schema", detail="'images' holds something that is not a name")
    return tuple(str(name) for name in names)


def _parse_meta(value: Mapping[str, Any]) -> dict[str, Any] | Reject:
    """The record's own `meta`, and all unknown keys."""
    meta = {key: value[key] for key in value if key not in KNOWN_KEYS}
    own = value.get("meta")
    meta.update(own if isinstance(own, dict) else {} if own is None else {"meta": own})
    size = len(canonical(meta))
    if size > MAX_META_BYTES:
        return Reject(reason="bad_schema", detail=f"{size} bytes beside the conversation, at most {MAX_META_BYTES}")
    return meta


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
        return Reject(reason="bad_schema", detail=f"task {str(stated)[:40]!r}, but its placeholders make it {task!r}")
    return task
