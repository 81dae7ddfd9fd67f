"""Samples of a curated dataset in memory, parsed from the JSON members of its shards."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from models.errors import DataError

Role = Literal["human", "gpt"]
IMAGE = "<image>"  # the placeholder of one image in a turn, literal
RESOLUTION_TAG = "{resolution_tag}"  # replaced literally, never by str.format
TASKS = ("text", "understanding", "generation", "editing")
TASKS_WITH_TARGETS = ("generation", "editing")  # the answer holds images, so training needs their codes
SAMPLE_ID = re.compile(r"[0-9a-f]{64}")


class SampleError(DataError):
    """A sample cannot be used; the message names it and says why."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    role: Role
    text: str


@dataclass(frozen=True, kw_only=True)
class SampleImage:
    width: int  # pixels, upright (after EXIF)
    height: int
    anchor: tuple[int, int] | None = None  # (height, width) of the size that it is cropped to, if one fits
    member: str = ""  # name in the shard
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A conversation with its images in order of their placeholders."""

    sample_id: str  # 64 hex digits
    task: str  # "text", "understanding", "generation" or "editing"
    turns: tuple[Turn, ...]
    images: tuple[SampleImage, ...] = ()
    source: str = ""
    split: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


def sample_name(sample: Sample) -> str:
    """A sample in a message: its id, and the SHA-256 of its images."""
    images = ", ".join(image.sha256 for image in sample.images)
    return f"{sample.sample_id} (images {images})" if images else sample.sample_id


def parse_sample(data: bytes, where: str) -> Sample:
    """The sample in one JSON member of a dataset shard.

    Raises: SampleError if it is not what `dataset@1` prescribes; `where` opens the message.
    """
    try:
        fields = json.loads(data)
        images = tuple(
            SampleImage(
                width=int(image["width"]),
                height=int(image["height"]),
                anchor=(int(image["anchor"][0]), int(image["anchor"][1])) if image.get("anchor") else None,
                member=str(image["member"]),
                sha256=str(image["sha256"]),
            )
            for image in fields["images"]
        )
        turns = tuple(_parse_turn(turn) for turn in fields["conversations"])
        sample = Sample(
            sample_id=fields["sample_id"],
            task=fields["task"],
            turns=turns,
            images=images,
            source=fields.get("source") or "",
            split=fields.get("split") or "",
            meta=fields.get("meta") or {},
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise SampleError(
            f"{where}: not a sample of a curated dataset ({type(error).__name__}: {error}); "
            "make the dataset again, its shard is damaged or of another format"
        ) from error
    if not isinstance(sample.sample_id, str) or not SAMPLE_ID.fullmatch(sample.sample_id):
        raise SampleError(f"{where}: sample_id {sample.sample_id!r} is not 64 hex digits")
    if sample.task not in TASKS:
        raise SampleError(f"{where}: task {sample.task!r}; expected one of {', '.join(TASKS)}")
    return sample


def _parse_turn(fields: Mapping[str, Any]) -> Turn:
    if fields["role"] not in ("human", "gpt") or not isinstance(fields["text"], str):
        raise ValueError(f"a turn by {fields['role']!r} with {type(fields['text']).__name__} text")
    return Turn(role=fields["role"], text=fields["text"])
