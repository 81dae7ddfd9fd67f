"""Units of WebDataset tars, damaged ones included: all members whose names agree up to the first dot are a sample.

What follows the first dot is a member's field. Which fields are the image and the caption is stated in the config, or
there is one of each; a sample with several is left out, as nothing tells which words belong to which picture.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from data_pipelines.archives.compressed_files import decode_text
from data_pipelines.archives.tar_reader import OpenedTar, TarMember, open_tar, scan_tar
from data_pipelines.datasets.records import Record, Reject
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.files.image_sources import check_name
from data_pipelines.ingest.files.leftovers import is_leftover
from data_pipelines.ingest.layouts.captions import caption_records, plain_meta, stated_value
from data_pipelines.ingest.layouts.chat import has_turns, parse_record
from data_pipelines.ingest.units import (
    CAPTION_ENDINGS,
    IMAGE_ENDINGS,
    IngestShard,
    OtherFiles,
    Unit,
    decode_json,
    digest,
)

JSON_KEYS = frozenset({"id", "license", "split", "task", "key", "caption", "text"})  # with a place of their own


def tar_units(shard: IngestShard, config: IngestConfig, _files: OtherFiles) -> Iterator[Unit]:
    """Units of a tar: a sample is all members whose paths agree up to the first dot of the file name."""
    opened = open_tar(Path(shard.file), max_unpacked_bytes=config.max_unpacked_bytes)
    with opened.file:
        members = list(scan_tar(opened.file, opened.size))
        problem = _container_problem(opened, members)
        if problem is not None:
            yield Unit(row=-1, content=problem, raw_sha256=digest(shard.source_file.encode()))
        if not any(member.kind != "damaged" for member in members):
            return
        for row, (key, group) in enumerate(_samples(members, config)):
            yield from _group_units(opened, config, row, key, group)


def _samples(members: list[TarMember], config: IngestConfig) -> Iterator[tuple[str, list[TarMember]]]:
    """The members of each sample by its key. Names with dots before their ending, such as v2.4.png and v2.4.txt, are
    samples of their own if each of them has one image and its words."""
    for key, group in _grouped(members).items():
        stems: dict[str, list[TarMember]] = {}
        for member in group:
            stems.setdefault(str(PurePosixPath(member.name).with_suffix("")) if member.name else "", []).append(member)
        stated = config.image or config.caption
        if len(stems) > 1 and not stated and all(_is_pair(same) for same in stems.values()):
            yield from stems.items()
        else:
            yield key, group


def _is_pair(group: list[TarMember]) -> bool:
    """Whether these members are one sound image and its words."""
    endings = [_ending(member) for member in group]
    sound = all(member.kind == "file" and not member.problem for member in group)
    words = [ending for ending in endings if ending in (".json", *CAPTION_ENDINGS)]
    images = sum(ending in IMAGE_ENDINGS for ending in endings)
    return sound and images == 1 and len(words) == len(endings) - 1 == len(set(words)) >= 1


def _ending(member: TarMember) -> str:
    return PurePosixPath(member.name).suffix.lower()


def _container_problem(opened: OpenedTar, members: list[TarMember]) -> Reject | None:
    if opened.problem:
        return Reject(reason="truncated_archive", detail=opened.problem)
    if opened.size == 0:
        return Reject(reason="zero_byte", detail="the tar is empty: not even end marks")
    if members and all(member.kind == "damaged" for member in members):
        return Reject(reason="broken_tar", detail="not a tar: no header with a right checksum")
    return None


def _grouped(members: list[TarMember]) -> dict[str, list[TarMember]]:
    """Members by sample, in order of first appearance; a member that fits no sample is a group of its own."""
    groups: dict[str, list[TarMember]] = {}
    for number, member in enumerate(members):
        path = PurePosixPath(member.name)
        if is_leftover(member.name) and check_name(member.name) is None:
            continue
        if member.kind == "folder" and path.suffix.lower() not in IMAGE_ENDINGS:
            continue
        usable = member.kind in ("file", "damaged") and member.name and check_name(member.name) is None
        stem = (
            str(path.parent / path.name.split(".", 1)[0]) if usable else member.name.rstrip("/") or f"member {number}"
        )
        groups.setdefault(unicodedata.normalize("NFC", stem), []).append(member)
    return groups


@dataclass(kw_only=True)
class _Sample:
    """The members of a sample by their field, what follows the first dot of their names."""

    images: dict[str, TarMember] = field(default_factory=dict)
    texts: dict[str, TarMember] = field(default_factory=dict)  # captions and JSON
    clash: str = ""  # a member whose field another one has, but for upper case or the form of its letters
    num_repeated: int = 0

    @classmethod
    def of(cls, group: Sequence[TarMember]) -> "_Sample":
        sample, seen = cls(), set()
        for member in group:
            if member.name in seen:
                sample.num_repeated += 1
                continue
            seen.add(member.name)
            name = PurePosixPath(member.name).name
            found = sample.images if _ending(member) in IMAGE_ENDINGS else sample.texts
            if found is sample.images or _ending(member) in (".json", *CAPTION_ENDINGS):
                field_name = name.split(".", 1)[1].lower() if "." in name else name
                sample.clash = sample.clash or (member.name if field_name in found else "")
                found[field_name] = member
        return sample

    def fields_ending(self, ending: str) -> list[str]:
        return [name for name in self.texts if f".{name}".endswith(ending)]


def _group_units(opened: OpenedTar, config: IngestConfig, row: int, key: str, group: list[TarMember]) -> Iterator[Unit]:
    problem = _member_problem(group)
    if problem is not None:
        raw = "|".join(f"{member.name}:{member.size}" for member in group)
        yield Unit(row=row, key=key, content=problem, raw_sha256=digest(raw.encode("utf-8", "replace")))
        return
    sample = _Sample.of(group)
    if sample.clash:
        detail = f"member {sample.clash[:200]!r} differs from another one of its sample in upper case or accents alone"
        yield Unit(
            row=row,
            key=key,
            content=Reject(reason="ambiguous_sample", detail=detail),
            raw_sha256=digest(detail.encode("utf-8", "replace")),
        )
        return
    texts = {name: _member_bytes(opened, member, config.max_line_bytes) for name, member in sample.texts.items()}
    images = {
        PurePosixPath(member.name).name: _member_bytes(opened, member, config.max_image_bytes)
        for member in sample.images.values()
    }
    parts = [data if isinstance(data, bytes) else data.detail.encode() for data in texts.values()]
    raw = digest(b"|".join([key.encode("utf-8", "replace"), *parts]))
    note = f"{sample.num_repeated} members of the same name come again and were left out" if sample.num_repeated else ""
    for content in _group_records(sample, texts, images, config):
        yield Unit(row=row, key=key, content=content, raw_sha256=raw, images=images, note=note)


def _member_problem(group: list[TarMember]) -> Reject | None:
    for member in group:
        if member.problem:
            return Reject(reason=member.problem, detail=f"member {member.name[:200]!r} is damaged or cut off")
        if member.kind != "file":
            return Reject(reason="not_regular_file", detail=f"member {member.name[:200]!r} is a {member.kind}")
        problem = check_name(member.name)
        if problem is not None:
            return problem
    return None


def _member_bytes(opened: OpenedTar, member: TarMember, max_bytes: int) -> bytes | Reject:
    if member.size > max_bytes:
        return Reject(
            reason="too_large", detail=f"member {member.name[:200]!r}: {member.size} bytes, at most {max_bytes}"
        )
    opened.file.seek(member.offset)
    return opened.file.read(member.size)


def _group_records(
    sample: _Sample, texts: Mapping[str, bytes | Reject], images: Mapping[str, bytes | Reject], config: IngestConfig
) -> list[Record | Reject]:
    fields = _json_fields(sample, texts, config)
    if isinstance(fields, Reject):
        return [fields]
    if has_turns(fields):
        listed = fields.get("images") or fields.get("image")
        return [parse_record(fields if listed else {**fields, "images": sorted(images, key=_natural)})]
    if not images:
        return [Reject(reason="missing_file", detail="a sample without a picture and without a conversation")]
    image = _chosen_image(sample, config)
    if isinstance(image, Reject):
        return [image]
    caption = _chosen_caption(sample, texts, fields, config)
    if isinstance(caption, Reject):
        return [caption]
    stated = fields if caption is None else {**fields, "caption": caption}
    text = caption if isinstance(caption, str) else None
    config = replace(config, caption="caption") if isinstance(caption, list) else config
    return caption_records(text, stated, PurePosixPath(image.name).name, config, meta=plain_meta(fields, JSON_KEYS))


def _json_fields(sample: _Sample, texts: Mapping[str, bytes | Reject], config: IngestConfig) -> dict[str, Any] | Reject:
    """The object in the sample's JSON; empty if it has none."""
    names = sample.fields_ending(".json")
    chosen = "json" if "json" in names and (config.caption or len(names) == 1) else names[0] if names else ""
    if not chosen:
        return {}
    if len(names) > 1 and not config.caption:
        return _ambiguous(sample)
    data = texts[chosen]
    if isinstance(data, Reject):
        return data
    try:
        value = decode_json(data)
    except ValueError as error:
        return Reject(reason="broken_json", detail=str(error)[:200])
    return value if isinstance(value, dict) else {}


def _chosen_image(sample: _Sample, config: IngestConfig) -> TarMember | Reject:
    """The image that the config states, or the only one."""
    stated = config.names_of("image")
    if stated:
        found = next((sample.images[name.lower()] for name in stated if name.lower() in sample.images), None)
        if found is not None:
            return found
        held = ", ".join(sample.images)[:200]
        return Reject(reason="missing_file", detail=f"no picture {' or '.join(stated)!r}; the sample holds {held}")
    return next(iter(sample.images.values())) if len(sample.images) == 1 else _ambiguous(sample)


def _chosen_caption(
    sample: _Sample, texts: Mapping[str, bytes | Reject], fields: Mapping[str, Any], config: IngestConfig
) -> str | list[Any] | Reject | None:
    """The caption that the config states, or the only text of the first ending; None: it is in the JSON, or nowhere."""
    stated = config.names_of("caption")
    for name in stated:
        if name.lower() in texts and name.lower() != "json":
            return _text(texts[name.lower()])
        value = stated_value(fields, name.removeprefix("json.")) if name.startswith("json.") else None
        if isinstance(value, str | list):
            return value
    if stated:
        return Reject(reason="caption_missing", detail=f"no caption {' or '.join(stated)!r} in the sample")
    for ending in CAPTION_ENDINGS:
        names = sample.fields_ending(ending)
        if len(names) > 1:
            return _ambiguous(sample)
        if names:
            return _text(texts[names[0]])
    return None


def _text(data: bytes | Reject) -> str | Reject:
    return data if isinstance(data, Reject) else decode_text(data)


def _ambiguous(sample: _Sample) -> Reject:
    images, texts = (", ".join(sorted(names)) for names in (sample.images, sample.texts))
    detail = (
        f"one sample holds {len(sample.images)} pictures ({images[:150]}) and {len(sample.texts)} texts "
        f"({texts[:150]}); say which belong together: read.image, read.caption"
    )
    return Reject(reason="ambiguous_sample", detail=detail)


def _natural(name: str) -> list[tuple[int, str]]:
    """Orders names by the numbers in them: x.2.jpg before x.10.jpg."""
    return [(int(part), "") if part.isdigit() and len(part) < 20 else (-1, part) for part in re.split(r"(\d+)", name)]
