"""Units of WebDataset tars, damaged ones included: all members whose names agree up to the first dot are a sample."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from data_pipelines.archives.tar_reader import OpenedTar, TarMember, open_tar, scan_tar
from data_pipelines.datasets.records import Record, Reject, parse_record
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.image_sources import check_name
from data_pipelines.ingest.units import (
    CAPTION_ENDINGS,
    IMAGE_ENDINGS,
    IngestShard,
    Unit,
    caption_records,
    decode_json,
    digest,
)


def tar_units(shard: IngestShard, config: IngestConfig) -> Iterator[Unit]:
    """Units of a tar: a sample is all members whose paths agree up to the first dot of the file name."""
    opened = open_tar(Path(shard.file), max_unpacked_bytes=config.max_unpacked_bytes)
    with opened.file:
        members = list(scan_tar(opened.file, opened.size))
        problem = _container_problem(opened, members)
        if problem is not None:
            yield Unit(row=-1, content=problem, raw_sha256=digest(shard.source_file.encode()))
        if not any(member.kind != "damaged" for member in members):
            return
        for row, (key, group) in enumerate(_grouped(members).items()):
            yield from _group_units(opened, config, row, key, group)


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
        if member.kind == "folder" and path.suffix.lower() not in IMAGE_ENDINGS:
            continue
        usable = member.kind in ("file", "damaged") and member.name and check_name(member.name) is None
        stem = (
            str(path.parent / path.name.split(".", 1)[0]) if usable else member.name.rstrip("/") or f"member {number}"
        )
        groups.setdefault(stem, []).append(member)
    return groups


def _group_units(opened: OpenedTar, config: IngestConfig, row: int, key: str, group: list[TarMember]) -> Iterator[Unit]:
    problem = _member_problem(group)
    if problem is not None:
        raw = "|".join(f"{member.name}:{member.size}" for member in group)
        yield Unit(row=row, key=key, content=problem, raw_sha256=digest(raw.encode()))
        return
    first: dict[str, TarMember] = {}
    for member in group:
        first.setdefault(member.name, member)
    repeated = len(group) - len(first)
    note = f"{repeated} members of the same name come again and were left out" if repeated else ""
    images: dict[str, bytes | Reject] = {}
    texts: dict[str, bytes] = {}
    for name, member in first.items():
        ending = PurePosixPath(name).suffix.lower()
        if ending in IMAGE_ENDINGS:
            images[PurePosixPath(name).name] = _member_bytes(opened, member, config.max_image_bytes)
        elif ending in (".json", *CAPTION_ENDINGS):
            data = _member_bytes(opened, member, config.max_line_bytes)
            if isinstance(data, Reject):
                yield Unit(row=row, key=key, content=data, raw_sha256=digest(name.encode()))
                return
            texts[ending] = data
    for content in _group_records(texts, images, config):
        raw = digest(b"|".join([key.encode("utf-8", "replace"), *texts.values()]))
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
    texts: Mapping[str, bytes], images: Mapping[str, bytes | Reject], config: IngestConfig
) -> list[Record | Reject]:
    fields: dict[str, Any] = {}
    if ".json" in texts:
        try:
            value = decode_json(texts[".json"])
        except ValueError as error:
            return [Reject(reason="broken_json", detail=str(error)[:200])]
        if isinstance(value, dict) and ("conversations" in value or "messages" in value):
            value = value if "images" in value else {**value, "images": sorted(images)}
            return [parse_record(value)]
        fields = value if isinstance(value, dict) else {}
    if not images:
        return [Reject(reason="missing_file", detail="a sample without a picture and without a conversation")]
    caption = next((texts[ending].decode("utf-8", "replace") for ending in CAPTION_ENDINGS if ending in texts), None)
    return caption_records(caption, fields, next(iter(images)), config)
