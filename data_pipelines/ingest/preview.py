"""What an ingest will read, and how: counts by layout, guesses, and a sample of records, before anything runs."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_pipelines.archives.compressed_files import open_text
from data_pipelines.datasets.records import Record, split_from_name
from data_pipelines.ingest.config import FOLDER_FORMATS, IngestConfig
from data_pipelines.ingest.files.counted_files import CountedFiles, ImageSources
from data_pipelines.ingest.files.source_files import SourceFile, find_sources, folder_content, matches
from data_pipelines.ingest.formats import UNIT_READERS
from data_pipelines.ingest.layouts.objects import layout_name
from data_pipelines.ingest.readers.coco_files import may_be_coco
from data_pipelines.ingest.shards import plan_ingest
from data_pipelines.ingest.units import IngestShard, Unit

NUM_SAMPLED = 5
SNIFFED_BYTES = 1 << 20
MAX_SHOWN = 3  # names in a line
FORMAT_NAMES = {"illume": "JSON", "webdataset": "WebDataset", "parquet": "Parquet", "arrow": "Arrow", "csv": "CSV"}


def preview(config: IngestConfig, paths: Sequence[str], images: Sequence[str]) -> list[str]:
    """Lines for people. Reads folder listings and the first records of the first files.

    Raises: as `find_sources` and `open_images`.
    """
    sources = find_sources(config, paths)
    limits = {"max_bytes": config.max_image_bytes, "max_unpacked_bytes": config.max_unpacked_bytes}
    places = ImageSources([Path(path) for path in images], **limits)
    units = list(itertools.islice(_first_units(config, paths, places), NUM_SAMPLED))
    lines = [
        *_counts(sources, config),
        *_unread(config, paths),
        *_guessed_splits(config, sources),
        *_not_trained(units),
    ]
    return [*lines, *(f"  {_unit_line(shard, unit)}" for shard, unit in units)]


def _kind_of_file(source: SourceFile, config: IngestConfig) -> str:
    """`JSON (LLaVA)`: the format, and of JSON the layout of the first object."""
    kind = FORMAT_NAMES[source.format]
    if source.format != "illume":
        return kind
    with open_text(source.path, config.max_unpacked_bytes) as text:
        start = text.file.read(SNIFFED_BYTES)
    if may_be_coco(start):
        return f"{kind} (COCO)"
    text_start = start.decode("utf-8", "replace").lstrip("\ufeff \t\r\n[")
    try:
        value = json.JSONDecoder().raw_decode(text_start)[0]
    except (ValueError, RecursionError):
        return f"{kind} (first record not understood)"
    return f"{kind} ({layout_name(value, config) or 'first record not understood'})"


def _counts(sources: Sequence[SourceFile], config: IngestConfig) -> Iterator[str]:
    files = Counter(_kind_of_file(source, config) for source in sources if source.format not in FOLDER_FORMATS)
    if files:
        yield ", ".join(f"{count:,} {_files(count)} of {kind}" for kind, count in sorted(files.items()))
    for source in sources:
        if source.format == "images_only":
            yield f"{source.display_name}: {len(source.members):,} pictures, read without words"
        elif source.format == "image_caption_pairs":
            captioned = set(folder_content(source.path).captioned)
            num_captioned = sum(member in captioned for member in source.members)
            yield f"{source.display_name}: {len(source.members):,} pictures, {num_captioned:,} with words beside them"


def _files(count: int) -> str:
    return "file" if count == 1 else "files"


def _unread(config: IngestConfig, paths: Sequence[str]) -> Iterator[str]:
    """Files below the given folders that nobody reads."""
    folders = [match for path in paths for match in matches(str(path)) if match.is_dir()]
    others = [name for folder in folders for name in folder_content(folder, config.format).others]
    if others and config.format not in FOLDER_FORMATS:
        yield f"{len(others):,} {_files(len(others))} not understood: {_some(others)}"


def _guessed_splits(config: IngestConfig, sources: Sequence[SourceFile]) -> Iterator[str]:
    """The splits that follow from names, for records that state none."""
    if config.split:
        return
    names: dict[str, list[str]] = {}
    for source in sources:
        for name in source.members or (source.display_name,):
            split = split_from_name(f"{source.display_name}/{Path(name).parent}" if source.members else name)
            names.setdefault(split or "", []).append(name)
    for split, found in sorted(names.items()):
        if split:
            yield f"split {split!r} is guessed from the names of {len(found):,} {_files(len(found))}: {_some(found)}"


def _not_trained(units: Sequence[tuple[IngestShard, Unit]]) -> Iterator[str]:
    records = [unit.content for _, unit in units if isinstance(unit.content, Record)]
    with_system = sum("system" in record.meta for record in records)
    if with_system:
        yield f"{with_system} of {len(records)} sampled records have a system turn: it is kept, and not trained on"


def _first_units(
    config: IngestConfig, paths: Sequence[str], places: ImageSources
) -> Iterator[tuple[IngestShard, Unit]]:
    """The first records of each of the first shards, one of each in turn."""
    shards = plan_ingest(config, paths)[:NUM_SAMPLED]
    readers = [iter(UNIT_READERS[s.format](s, config, CountedFiles(places.of(s), digest=str))) for s in shards]
    for _ in range(NUM_SAMPLED):
        for shard, reader in zip(shards, readers, strict=True):
            unit = next(reader, None)
            if unit is not None:
                yield shard, unit


def _unit_line(shard: IngestShard, unit: Unit) -> str:
    where = f"{shard.source_file}[{unit.row}]"
    if not isinstance(unit.content, Record):
        return f"{where}: rejected, {unit.content.reason}: {unit.content.detail[:100]}"
    shown = json.dumps(unit.content.turns[-1][1][:60], ensure_ascii=False)
    return f"{where}: {unit.content.task}, {_some(unit.content.image_names) or 'no picture'}, {shown}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(name[:60] for name in names[:MAX_SHOWN])
    text = f"{shown}, ..." if len(names) > MAX_SHOWN else shown
    return text.encode("utf-8", "replace").decode()
