"""Records: annotated samples before curation, and the reasons why a unit of input is no record.

The id of a record is the SHA-256 of its task, its texts and its images' SHA-256, so equal content has one id.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pyarrow as pa

IMAGE = "<image>"
TASKS = ("text", "understanding", "generation", "editing")
NO_META: Mapping[str, Any] = MappingProxyType({})
NOTHING_HELD: Mapping[int, "bytes | Reject"] = MappingProxyType({})
_SURROGATE = re.compile("[\ud800-\udfff]")

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
    held: Mapping[int, bytes | Reject] = field(default_factory=dict)  # images in the record itself, by their position


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


def external_id(value: object) -> str | None:
    """The id that a source gives a record, as text."""
    return None if value is None or value == "" else utf8_safe(str(value))[:500]


def caption_record(
    caption: str,
    image_name: str,
    task: str,
    fields: Mapping[str, Any],
    *,
    meta: Mapping[str, Any] = NO_META,
    held: Mapping[int, bytes | Reject] = NOTHING_HELD,
) -> Record:
    """A captioned image as a conversation of a task, with the prompts of the published data."""
    if task == "generation":
        turns = (
            ("human", f"Generate an image of {{resolution_tag}}, the content of image is {utf8_safe(caption)}\n"),
            ("gpt", IMAGE),
        )
    else:
        turns = (("human", f"{IMAGE}\nDescribe the image."), ("gpt", utf8_safe(caption)))
    return Record(
        task=task,
        turns=turns,
        image_names=(image_name,),
        external_id=external_id(fields.get("id")),
        license=optional_text(fields.get("license")),
        split=normalize_split(fields.get("split")),
        meta=meta,
        held=held,
    )


_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation"), "val"),
}


def normalize_split(value: object) -> str | None:
    """ "train" or "val" for the common names of splits, None for any other value."""
    return _SPLITS.get(value.strip().lower()) if isinstance(value, str) else None


def split_from_name(name: str) -> str | None:
    """The split named in a file's name, as in `generation_val-00001.jsonl`."""
    found = [normalize_split(word) for word in re.split(r"[^a-z]+", name.lower())]
    return next((split for split in reversed(found) if split), None)


def optional_text(value: object) -> str | None:
    """A short text without blanks around it, None for anything else."""
    return utf8_safe(value.strip())[:200] if isinstance(value, str) and value.strip() else None
