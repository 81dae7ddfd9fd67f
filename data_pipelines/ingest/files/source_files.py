"""Finds the input files behind paths and glob patterns, and detects the format of each."""

import glob
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from data_pipelines.archives.compressed_files import open_compressed
from data_pipelines.archives.tar_reader import BLOCK, is_header
from data_pipelines.ingest.config import FOLDER_FORMATS, IngestConfig
from data_pipelines.ingest.files.image_sources import TAR_ENDINGS
from data_pipelines.ingest.files.leftovers import files_below, is_leftover, valid_name
from data_pipelines.ingest.units import CAPTION_ENDINGS, IMAGE_ENDINGS, SIDECAR_SPELLINGS, sidecar_name
from models.errors import DataError

PACKED_ENDINGS = ("", ".gz", ".bz2", ".xz", ".zst")
ENDINGS = {
    "illume": tuple(ending + packed for ending in (".jsonl", ".json", ".ndjson") for packed in PACKED_ENDINGS),
    "webdataset": TAR_ENDINGS,
    "parquet": (".parquet",),
    "arrow": (".arrow",),
    "csv": tuple(ending + packed for ending in (".csv", ".tsv") for packed in PACKED_ENDINGS),
}
PARQUET_MAGIC, ARROW_MAGIC = b"PAR1", b"ARROW1"
# What `datasets` and others write beside the records.
DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
SIDECAR_ENDINGS = (*CAPTION_ENDINGS, ".json")


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """An input file or folder, with a name that does not depend on where the data lies."""

    path: Path
    display_name: str  # path below the given folder, or the file's own name; unique
    format: str  # any of `config.FORMATS` but "auto"
    folder: Path  # the given folder, or that of the given file
    members: tuple[str, ...] = ()  # of a folder of images: those that are read


@dataclass(frozen=True, kw_only=True)
class FolderContent:
    """The files below a folder, by what becomes of them."""

    sources: tuple[SourceFile, ...]
    images: tuple[str, ...]
    captioned: tuple[str, ...]  # images with a file of words beside them
    others: tuple[str, ...]  # files that nobody reads


def find_sources(config: IngestConfig, paths: Sequence[str | Path]) -> list[SourceFile]:
    """The input files below files, folders and glob patterns, in a fixed order; one that is given twice comes once.

    Raises: FileNotFoundError if a path matches nothing; DataError as `folder_content`.
    """
    found: dict[tuple[str, str], SourceFile] = {}
    for given in paths:
        text = str(given)
        sources = [source for match in matches(text) for source in _sources_at(match, config.format)]
        if not sources:
            raise FileNotFoundError(f"{text}: {_nothing_found(text, config.format)}")
        for source in sources:
            found.setdefault((os.path.realpath(source.path), source.format), source)
    return sorted(_with_unique_names(list(found.values())), key=lambda source: source.display_name)


def matches(text: str) -> list[Path]:
    """The files and folders of a path or a glob pattern. The part of a pattern that exists as a folder is taken as it
    is, whatever brackets its name has; further brackets are a choice of characters if that finds something."""
    path = Path(text)
    if path.exists():
        return [path]
    fixed = next(parent for parent in path.parents if parent.exists() or parent == parent.parent)
    pattern = path.relative_to(fixed)
    for spelling in (str(pattern), str(pattern).replace("[", "[[]")):  # brackets as a choice, else as they are
        found = glob.glob(os.path.join(glob.escape(str(fixed)), spelling), recursive=True)
        if found:
            break
    return [Path(name) for name in sorted(found) if not is_leftover(os.path.relpath(name, fixed))]


def _nothing_found(text: str, file_format: str) -> str:
    wanted = "a folder of images" if file_format in FOLDER_FORMATS else f"{_endings(file_format)} files"
    message = f"found nothing to ingest, expected {wanted} (read.format: {file_format})"
    if "[" in text:
        message += "; brackets are read as a choice of characters, write [[] for one that is part of a name"
    return message


def _endings(file_format: str) -> str:
    return " or ".join(endings[0] for name, endings in ENDINGS.items() if file_format in (name, "auto"))


def _sources_at(path: Path, file_format: str) -> list[SourceFile]:
    if file_format in FOLDER_FORMATS:
        return [_image_folder(path, file_format, _images_in(files_below(path)))] if path.is_dir() else []
    if path.is_file():
        found_format = _format_of(path) if file_format == "auto" else file_format
        return [SourceFile(path=path, display_name=path.name, format=found_format, folder=path.parent)]
    return list(folder_content(path, file_format).sources)


def folder_content(folder: Path, file_format: str = "auto") -> FolderContent:
    """What a folder holds, and which of it is read: files of records, and images with words beside them.

    Images without words are read only where the folder holds no files of records, which name theirs.

    Raises: DataError if `datasets` saved a selection of rows there, whose files hold the other rows too.
    """
    names = files_below(folder)
    images = _images_in(names)
    everything = set(names)
    captioned = tuple(name for name in images if any(beside in everything for beside in _sidecars(name)))
    sidecars = {beside for name in images for beside in _sidecars(name)} & everything
    described = {name for name in names if _is_description(name, everything)}
    for name in described:
        _refuse_selection(folder / name)
    sources = [
        SourceFile(path=folder / name, display_name=name, format=found_format, folder=folder)
        for name in names
        for found_format in (_format_by_name(name),)
        if found_format in ENDINGS and file_format in (found_format, "auto") and name not in sidecars | described
    ]
    if file_format == "auto" and (captioned or (images and not sources)):
        members = captioned if sources else images
        sources.append(_image_folder(folder, "image_caption_pairs", members))
    read = {source.display_name for source in sources} | sidecars | set(images) | described
    others = tuple(name for name in names if name not in read)
    return FolderContent(sources=tuple(sources), images=images, captioned=captioned, others=others)


def _image_folder(folder: Path, file_format: str, members: tuple[str, ...]) -> SourceFile:
    name = folder.name or folder.resolve().name or "images"
    return SourceFile(path=folder, display_name=name, format=file_format, folder=folder, members=members)


def _images_in(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if PurePosixPath(name).suffix.lower() in IMAGE_ENDINGS)


def _sidecars(image: str) -> Iterator[str]:
    return (
        sidecar_name(image, ending, spelling) for spelling in range(SIDECAR_SPELLINGS) for ending in SIDECAR_ENDINGS
    )


def _is_description(name: str, everything: set[str]) -> bool:
    """Whether a file only describes others: of `datasets`, or the table and counts that img2dataset writes beside a
    tar with the samples."""
    path = PurePosixPath(name)
    stem = path.name.removesuffix("_stats.json") if path.name.endswith("_stats.json") else path.stem
    beside_tar = path.suffix == ".parquet" or path.name.endswith("_stats.json")
    return path.name in DESCRIPTIONS or (beside_tar and str(path.with_name(f"{stem}.tar")) in everything)


def _refuse_selection(description: Path) -> None:
    """Refuse a saved dataset of which only some rows are meant, in an order of their own."""
    if description.name != "state.json":
        return
    try:
        state = json.loads(description.read_bytes())
    except ValueError:
        return
    indices = [state.get(key) for key in ("_indices_files", "_indices_data_files")] if isinstance(state, dict) else []
    if any(indices):
        raise DataError(
            f"{description}: found a selection of rows (indices), expected whole files; load it with `datasets`, call "
            "flatten_indices() and save it again"
        )


def _with_unique_names(sources: list[SourceFile]) -> list[SourceFile]:
    """The sources, those of equal names with as many of their folders before the name as tell them apart."""
    parts = {n: len(PurePosixPath(source.display_name).parts) for n, source in enumerate(sources)}
    names = {n: source.display_name for n, source in enumerate(sources)}
    while repeated := [n for n in names if Counter(names.values())[names[n]] > 1]:
        for n in repeated:
            path = Path(os.path.abspath(sources[n].path)).parts
            parts[n] += 1
            names[n] = "/".join(path[-parts[n] :]) if parts[n] < len(path) else f"{names[n]}-{n}"
    return [replace(source, display_name=valid_name(names[n])) for n, source in enumerate(sources)]


def _format_by_name(name: str) -> str | None:
    return next((known for known, endings in ENDINGS.items() if name.lower().endswith(endings)), None)


def _format_of(path: Path) -> str:
    """The format of a file: by its first bytes, else by its name, else JSON."""
    with path.open("rb") as file:
        start = file.read(BLOCK)
    if start.startswith(PARQUET_MAGIC):
        return "parquet"
    if start.startswith(ARROW_MAGIC):
        return "arrow"
    packed = open_compressed(path, BLOCK)
    if packed is not None:
        with io.BufferedReader(packed) as file:
            start = file.read(BLOCK)
    return "webdataset" if is_header(start) else _format_by_name(path.name) or "illume"
