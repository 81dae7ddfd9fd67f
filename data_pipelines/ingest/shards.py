"""Turns source files into records (`records@1`): plans shards with stable names and ingests them one at a time.

The files of a shard depend on its own source and the config only. Every unit of input gets a row, readable or not.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.archives.tar_writer import TarWriter
from data_pipelines.datasets.records import (
    INDEX_SCHEMA,
    SCHEMA,
    SOURCE_KEY,
    Record,
    Reject,
    canonical,
    normalize_split,
    optional_text,
    sample_id,
    split_from_name,
    turns_to_json,
    utf8_safe,
)
from data_pipelines.datasets.tombstones import TAKEN_DOWN, Tombstones
from data_pipelines.images.decoding import file_ending
from data_pipelines.ingest.config import FOLDER_FORMATS, IngestConfig
from data_pipelines.ingest.files.counted_files import NO_DIGESTS, CountedFiles
from data_pipelines.ingest.files.image_sources import ImageSource
from data_pipelines.ingest.files.source_files import ENDINGS, SourceFile, find_sources
from data_pipelines.ingest.formats import UNIT_READERS
from data_pipelines.ingest.readers.json_files import line_ranges
from data_pipelines.ingest.units import IngestShard, Unit, decode_json
from models.errors import DataError

IMAGES_PER_SHARD = 2000
NO_TOMBSTONES = Tombstones()
_TAKEN_DOWN_FIELDS = {"conversations": "[]", "images": [], "image_names": [], "meta": "{}", "reject": TAKEN_DOWN,
                      "detail": "was taken down; neither its words nor its pictures are kept"}  # fmt: skip


def plan_ingest(config: IngestConfig, paths: Sequence[str | Path]) -> list[IngestShard]:
    """The shards of the input: one per file, or one per `rows_per_shard` rows of a file.

    Raises: FileNotFoundError if a path matches nothing.
    """
    sources = find_sources(config, paths)
    names = _shard_names([source.display_name for source in sources])
    shards = []
    for source, name in zip(sources, names, strict=True):
        shards += _shards_of(source, name, config)
    counts = Counter(shard.name for shard in shards)  # part 0 of "a" and a file "a-00000"
    return [
        shard if counts[shard.name] == 1 else replace(shard, name=f"{shard.name}-{_short_digest(shard.source_file)}")
        for shard in shards
    ]


def _shards_of(source: SourceFile, name: str, config: IngestConfig) -> list[IngestShard]:
    whole = IngestShard(
        name=name,
        file=str(source.path),
        source_file=source.display_name,
        format=source.format,
        folder=str(source.folder),
    )
    rows = config.rows_per_shard
    if source.format in FOLDER_FORMATS:
        images, shared = _stated_images(source.members, config)
        step = rows or IMAGES_PER_SHARD
        return [
            replace(
                whole,
                name=f"{name}-{first // step:05d}",
                first_row=first,
                members=images[first : first + step],
                shared=tuple(name for name in images[first : first + step] if name in shared),
            )
            for first in range(0, len(images), step)
        ]
    if source.format == "illume" and rows:
        ranges = line_ranges(source.path, config)
        return [
            replace(
                whole,
                name=f"{name}-{number:05d}" if len(ranges) > 1 else name,
                first_row=first,
                start_byte=start,
                stop_byte=stop,
            )
            for number, (first, start, stop) in enumerate(ranges)
        ]
    if source.format == "parquet" and rows:
        total = _parquet_rows(source.path)
        return [
            replace(
                whole,
                name=f"{name}-{first // rows:05d}" if total > rows else name,
                first_row=first,
                num_rows=min(rows, total - first),
            )
            for first in range(0, max(total, 1), rows)
        ]
    return [whole]


def _stated_images(members: Sequence[str], config: IngestConfig) -> tuple[tuple[str, ...], frozenset[str]]:
    """The images of a folder that are read, and those of which several have one name but for their ending. Of these the
    one with the ending that the config states is read, if it is there."""
    by_stem: dict[str, list[str]] = {}
    for name in members:
        by_stem.setdefault(str(PurePosixPath(name).with_suffix("")), []).append(name)
    left_out, shared = set[str](), set[str]()
    for names in by_stem.values():
        if len(names) < 2:
            continue
        endings = {PurePosixPath(name).suffix.lower().lstrip("."): name for name in reversed(names)}
        stated = next((endings[ending] for ending in config.names_of("image") if ending in endings), None)
        (shared if stated is None else left_out).update(name for name in names if name != stated)
    return tuple(name for name in members if name not in left_out), frozenset(shared)


def _parquet_rows(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError, ValueError):
        return 0  # reading the shard reports what is wrong with the file


def _shard_names(paths: Sequence[str]) -> list[str]:
    """Safe and unique file stems: the path without its ending, plus a digest where two would be equal."""
    stems = []
    for name in paths:
        ending = next((e for e in sorted(sum(ENDINGS.values(), ()), key=len)[::-1] if name.lower().endswith(e)), "")
        stems.append(
            re.sub(r"[^A-Za-z0-9_-]+", "-", name.removesuffix(name[len(name) - len(ending) :])).strip("-")[:80]
        )
    counts = Counter(stems)
    return [
        stem if stem and counts[stem] == 1 else f"{stem or 'shard'}-{_short_digest(name)}"
        for stem, name in zip(stems, paths, strict=True)
    ]


def _short_digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def load_metadata(path: Path) -> dict[str, dict[str, Any]]:
    """Licence and split by image name, from JSON lines with a `file` key. Raises: DataError with the line."""
    metadata: dict[str, dict[str, Any]] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = decode_json(line)
                metadata[str(row["file"])] = {name: optional_text(row.get(name)) for name in ("license", "split")}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(f"{path}:{number}: expected a JSON object with 'file' ({error})") from error
    return metadata


@dataclass(kw_only=True)
class _ShardFiles:
    """The files of a shard while it is written: rows in memory, each distinct image once straight to disk."""

    tar: TarWriter
    rows: list[dict[str, Any]] = field(default_factory=list)
    index: dict[str, dict[str, Any]] = field(default_factory=dict)

    def store(self, digest: str, data: bytes) -> None:
        if digest not in self.index:
            member = digest + file_ending(data)
            span = self.tar.add(member, data)
            self.index[digest] = {"sha256": digest, "member": member, "offset": span.data, "bytes": len(data)}


def ingest_shard(
    shard: IngestShard,
    output: Path,
    config: IngestConfig,
    *,
    images: ImageSource | None = None,
    metadata: Mapping[str, Mapping[str, Any]] | None = None,
    tombstones: Tombstones = NO_TOMBSTONES,
    archives: Mapping[str, str] = NO_DIGESTS,
    counted: str = "",
) -> dict[str, int]:
    """Write `records/`, `images/` and `index/` of one shard below `output`; returns counts of rows, rejects, images
    and bytes.

    `images`: source of the images that annotations name. `metadata`: licence and split by image name. Of records that
    `tombstones` forbid only a row that says so is kept. `archives`: the digests of the tars of images; `counted`: what
    `formats.count_files` counted when the shard was planned, "": not checked.

    Raises: DataError if other files are read than were counted.
    """
    other_files = CountedFiles(images, digest=lambda path: str(path), archives=archives)
    for folder in ("records", "images", "index"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    with (output / "images" / f"{shard.name}.tar").open("wb") as file:
        files = _ShardFiles(tar=TarWriter(file))
        for unit in UNIT_READERS[shard.format](shard, config, other_files):
            _write_unit(files, unit, shard, config, other_files, metadata or {}, tombstones)
        files.tar.close()
    if counted and other_files.counted() != counted:
        raise DataError(f"{shard.source_file}: the files that it names changed after the plan was made; plan again")
    # So that a source without a single record is still known by its name.
    schema = SCHEMA.with_metadata({SOURCE_KEY: utf8_safe(shard.source_file)})
    table = pa.Table.from_pylist(files.rows, schema=schema)
    pq.write_table(table, output / "records" / f"{shard.name}.parquet", compression="zstd")
    index = pa.Table.from_pylist(list(files.index.values()), schema=INDEX_SCHEMA)
    pq.write_table(index, output / "index" / f"{shard.name}.parquet", compression="zstd")
    counts: Counter[str] = Counter(rows=len(files.rows), images=len(files.index))
    counts["image_bytes"] = sum(entry["bytes"] for entry in files.index.values())
    counts.update(f"reject {row['reject']}" for row in files.rows if row["reject"])
    counts["rejects"] = sum(1 for row in files.rows if row["reject"])
    return dict(counts)


def _write_unit(
    files: _ShardFiles,
    unit: Unit,
    shard: IngestShard,
    config: IngestConfig,
    other_files: CountedFiles,
    metadata: Mapping[str, Mapping[str, Any]],
    tombstones: Tombstones,
) -> None:
    image_bytes: list[bytes] = []
    content = unit.content
    if isinstance(content, Record):
        found = [
            _image_bytes(position, content, unit, other_files, config) for position in range(len(content.image_names))
        ]
        image_bytes = [data for data in found if isinstance(data, bytes)]
        content = next((data for data in found if isinstance(data, Reject)), content)
    digests = [hashlib.sha256(data).hexdigest() for data in image_bytes]
    row = _row(unit, content, digests, shard, config, metadata)
    if tombstones.forbids(row["sample_id"], digests):
        files.rows.append(row | _TAKEN_DOWN_FIELDS)
        return
    for digest, data in zip(digests, image_bytes, strict=True):
        files.store(digest, data)
    files.rows.append(row)


def _image_bytes(
    position: int, record: Record, unit: Unit, other_files: CountedFiles, config: IngestConfig
) -> bytes | Reject:
    name = record.image_names[position]
    data = record.held.get(position)
    if data is None and unit.images is not None:
        data = unit.images.get(name, Reject(reason="missing_file", detail=f"no member {name[:200]!r} in the sample"))
    if data is None:
        return other_files.read(name)
    if isinstance(data, bytes) and len(data) > config.max_image_bytes:
        detail = f"picture {position + 1}: {len(data)} bytes, at most {config.max_image_bytes}"
        return Reject(reason="too_large", detail=detail)
    return data


def _row(
    unit: Unit,
    content: Record | Reject,
    digests: Sequence[str],
    shard: IngestShard,
    config: IngestConfig,
    metadata: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    record = unit.content if isinstance(unit.content, Record) else None
    known = next((metadata[name] for name in record.image_names if name in metadata), {}) if record else {}
    stated = record.split if record else None
    split = config.split or stated or normalize_split(known.get("split")) or _guessed_split(shard, unit) or "train"
    reject = content if isinstance(content, Reject) else None
    row = {
        "sample_id": unit.raw_sha256,
        "external_id": record.external_id if record and record.external_id is not None else unit.key,
        "source": config.source,
        "source_file": shard.source_file,
        "source_row": unit.row,
        "license": (record.license if record else None) or known.get("license") or config.license or None,
        "split": split,
        "task": record.task if record else "",
        "conversations": canonical(turns_to_json(record.turns)) if record else "[]",
        "images": list(digests),
        "image_names": list(record.image_names) if record else [],
        "meta": canonical(dict(record.meta)) if record else "{}",
        "reject": reject.reason if reject else None,
        "detail": reject.detail if reject else unit.note or None,
    }
    if record and not reject:
        row["sample_id"] = sample_id(record.task, record.turns, digests)
    return {key: _clean(value) for key, value in row.items()}


def _guessed_split(shard: IngestShard, unit: Unit) -> str | None:
    """The split that the file's name and folders tell; of an image in a folder, its folders."""
    if shard.format in FOLDER_FORMATS and unit.key:
        return split_from_name(f"{shard.source_file}/{PurePosixPath(unit.key).parent}")
    return split_from_name(shard.source_file)


def _clean(value: Any) -> Any:
    """The value with all text made valid UTF-8, which Arrow requires."""
    if isinstance(value, str):
        return utf8_safe(value)
    return [_clean(item) for item in value] if isinstance(value, list) else value


def sum_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sums of the counts of several shards."""
    total: Counter[str] = Counter()
    for shard_counts in counts:
        total.update(shard_counts)
    return dict(sorted(total.items()))


def shard_to_json(shard: IngestShard) -> dict[str, Any]:
    """The shard as a JSON value for `shard_from_json`."""
    return {**vars(shard), "members": list(shard.members), "shared": list(shard.shared)}


def shard_from_json(value: Mapping[str, Any]) -> IngestShard:
    return IngestShard(**{**value, "members": tuple(value["members"]), "shared": tuple(value["shared"])})
