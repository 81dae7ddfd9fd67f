"""Finds the input files behind paths and glob patterns, and detects the format of each."""

import glob
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.archives.compressed_files import open_compressed
from data_pipelines.archives.tar_reader import BLOCK, is_header
from data_pipelines.ingest.config import FOLDER_FORMATS, IngestConfig
from data_pipelines.ingest.image_sources import TAR_ENDINGS

PACKED_ENDINGS = ("", ".gz", ".bz2", ".xz", ".zst")
ENDINGS = {
    "illume": tuple(ending + packed for ending in (".jsonl", ".json", ".ndjson") for packed in PACKED_ENDINGS),
    "webdataset": TAR_ENDINGS,
    "parquet": (".parquet",),
}
PARQUET_MAGIC = b"PAR1"


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """An input file or folder, with a name that does not depend on where the data lies."""

    path: Path
    display_name: str  # path below the given folder, or the file's own name
    format: str  # any of `config.FORMATS` but "auto"


def find_sources(config: IngestConfig, paths: Sequence[str | Path]) -> list[SourceFile]:
    """The input files below files, folders and glob patterns, in a fixed order.

    Raises: FileNotFoundError if a path matches nothing; ValueError for a folder of files of several formats if the
    config does not choose one.
    """
    found: dict[Path, SourceFile] = {}
    for given in paths:
        text = str(given)
        matches = [Path(text)] if Path(text).exists() else sorted(map(Path, glob.glob(text, recursive=True)))
        sources = [source for match in matches for source in _sources_at(match, config.format)]
        if not sources:
            wanted = "a folder of images" if config.format in FOLDER_FORMATS else f"{_endings(config.format)} files"
            raise FileNotFoundError(
                f"{text}: found nothing to ingest, expected {wanted} (read.format: {config.format})"
            )
        for source in sources:
            found.setdefault(source.path, source)
    return sorted(found.values(), key=lambda source: source.display_name)


def _endings(file_format: str) -> str:
    return " or ".join(endings[0] for name, endings in ENDINGS.items() if file_format in (name, "auto"))


def _sources_at(path: Path, file_format: str) -> list[SourceFile]:
    if file_format in FOLDER_FORMATS:
        return [SourceFile(path=path, display_name=path.name, format=file_format)] if path.is_dir() else []
    if path.is_file():
        return [
            SourceFile(
                path=path,
                display_name=path.name,
                format=_format_of(path) if file_format == "auto" else file_format,
            )
        ]
    inside = [
        SourceFile(path=file, display_name=file.relative_to(path).as_posix(), format=found_format)
        for file in sorted(path.rglob("*"))
        for found_format in (_format_by_name(file),)
        if found_format and file_format in (found_format, "auto") and file.is_file()
    ]
    counts = Counter(source.format for source in inside)
    if len(counts) > 1:
        listed = ", ".join(f"{count} of {name!r}" for name, count in sorted(counts.items()))
        raise ValueError(f"{path}: holds files of several formats: {listed}; say which are meant: read.format")
    return inside


def _format_by_name(path: Path) -> str | None:
    return next((name for name, endings in ENDINGS.items() if path.name.lower().endswith(endings)), None)


def _format_of(path: Path) -> str:
    """The format of a file: by its first bytes, else by its name, else JSON."""
    with path.open("rb") as file:
        start = file.read(BLOCK)
    if start.startswith(PARQUET_MAGIC):
        return "parquet"
    packed = open_compressed(path, BLOCK)
    if packed is not None:
        with io.BufferedReader(packed) as file:
            start = file.read(BLOCK)
    return "webdataset" if is_header(start) else _format_by_name(path) or "illume"
