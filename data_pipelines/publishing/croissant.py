"""Describes a curated dataset in Croissant 1.1 (JSON-LD), so that other tools find, check and load it.

File addresses are relative to the description, which must lie in the folder of `dataset.json`.
Source: Croissant Format Specification 1.1, http://mlcommons.org/croissant/1.1, and its RAI vocabulary 1.0.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.audit.summary import AuditSummary
from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from data_pipelines.publishing.publication import (
    Publication,
    description_paragraph,
    kept_languages,
    kept_licences,
    kept_values,
    limitations,
    num_without_licence,
    personal_data_statement,
)

CROISSANT = "http://mlcommons.org/croissant/1.1"
RAI = "http://mlcommons.org/croissant/RAI/1.0"
READ_BYTES = 1 << 20
_MEMBER = r"([0-9a-f]{64})\.json"
IMAGE_PATTERNS = ["*.jpg", "*.png", "*.webp", "*.gif", "*.bmp", "*.tif", "*.avif", "*.jp2", "*.j2k"]
_ENCODINGS = {".tar": "application/x-tar", ".parquet": "application/x-parquet", ".json": "application/json"}
_DATA_TYPES = {
    pa.string(): "sc:Text",
    pa.bool_(): "sc:Boolean",
    pa.int16(): "cr:Int16",
    pa.int32(): "cr:Int32",
    pa.int64(): "cr:Int64",
    pa.uint64(): "cr:UInt64",
    pa.float32(): "cr:Float32",
    pa.float64(): "cr:Float64",
}
_COLUMNS = {  # descriptions of columns whose names are not enough
    "sample_id": "SHA-256 of the record's task, its words and its pictures' SHA-256; equal content has one id.",
    "external_id": "The id that the source gave.",
    "source_row": "Line, row or group of members in the source file, from 0; -1: the file itself.",
    "images": "SHA-256 of each picture's file.",
    "image_names": "What the source calls the pictures.",
    "reject": "Why the record could not be read, if so.",
    "caption": "The first 500 characters of the text.",
    "width": "Of the first image, upright, in pixels.",
    "height": "Of the first image, upright, in pixels.",
    "image_bytes": "Size of the first image's file.",
    "phash": "Perceptual hash of each picture, 64 bits.",
    "verdict": "keep, drop, or the kind of copy.",
    "reason": "Why the record is left out; null: it is kept.",
    "duplicate_of": "sample_id of the kept record that this one repeats.",
    "anchor_h": "Height that the first image is cropped to for training; null: none fits.",
    "anchor_w": "Width that the first image is cropped to for training; null: none fits.",
    "scores": "Measures of the first image, a JSON object.",
    "shard": "Name of the tar that holds the sample, without its ending; null: it is not kept.",
    "row": "Place among the samples of the tar, from 0.",
    "offset": "Byte of the tar at which the sample begins.",
    "span_bytes": "Bytes of the tar that the sample takes.",
}
_CONTEXT: dict[str, Any] = {  # appendix 1 of the specification, and the provenance terms
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


@dataclass(frozen=True, kw_only=True)
class DatasetFile:
    path: str  # relative to the dataset's folder
    num_bytes: int
    sha256: str


def hash_files(folder: Path) -> list[DatasetFile]:
    """Size and digest of the files that the description of a dataset lists. Raises: DatasetError if one is missing."""
    dataset = CuratedDataset(folder)
    paths = ["dataset.json"]
    paths += [path for shard in dataset.shards for path in (f"ledger/{shard}.parquet", f"shards/{shard}.tar")]
    return [_hashed(folder, path) for path in paths]


def _hashed(folder: Path, path: str) -> DatasetFile:
    digest, num_bytes = hashlib.sha256(), 0
    try:
        with (folder / path).open("rb") as file:
            while part := file.read(READ_BYTES):
                digest.update(part)
                num_bytes += len(part)
    except OSError as error:
        raise DatasetError(f"{folder / path}: cannot be read ({error}); run `illume verify`") from error
    return DatasetFile(path=path, num_bytes=num_bytes, sha256=digest.hexdigest())


def croissant_metadata(
    folder: Path, summary: AuditSummary, files: Sequence[DatasetFile], publication: Publication
) -> dict[str, Any]:
    """The JSON-LD of the dataset in `folder`, given its audit summary and files.

    Raises: DatasetError if the columns cannot be read from a ledger.
    """
    listed = [file for file in files if file.path == "dataset.json" or file.path.endswith((".parquet", ".tar"))]
    listed = sorted((file for file in listed if not file.path.startswith("thumbnails/")), key=lambda file: file.path)
    tars = [file.path for file in listed if file.path.startswith("shards/")]
    # A name derived from the content, for datasets without an address.
    identity = hashlib.sha256("".join(f"{file.path} {file.sha256}\n" for file in listed).encode()).hexdigest()
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": [CROISSANT, RAI],
        "name": summary.name,
        "description": description_paragraph(summary),
        "url": publication.url or f"urn:sha256:{identity}",
        "creator": {"@type": "sc:Organization", "name": publication.creator or "not stated"},
        "datePublished": publication.published.isoformat(),
        "version": publication.version,
        "license": _licences(summary),
        "isLiveDataset": False,
        "citeAs": _citation(summary.name, publication),
        "keywords": ["image-text", "multimodal", "webdataset", *kept_values(summary, "task")],
        **({"inLanguage": languages} if (languages := kept_languages(summary)) else {}),
        "distribution": [*(_file(file) for file in listed), *_file_sets(tars)],
        "recordSet": _record_sets(folder, has_samples=bool(summary.whole.rows.get("keep")) and bool(tars)),
        "prov:wasDerivedFrom": [
            {"@type": "prov:Entity", "prov:label": source} for source in kept_values(summary, "source")
        ],
        "prov:wasGeneratedBy": {"@type": "prov:Activity", "prov:label": "illume: ingest and curate"},
        "rai:dataPreprocessingProtocol": [
            "Pictures are decoded within limits and measured; records that break, are too small, blank, blurred or "
            "whose words are no description are left out with a reason; copies are found and one of them is kept.",
            "Kept pictures are stored byte for byte as they came.",
        ],
        "rai:dataLimitations": limitations(summary),
        "rai:personalSensitiveInformation": [personal_data_statement(summary)],
    }


def write_croissant(target: Path, metadata: dict[str, Any]) -> None:
    target.write_text(json.dumps(metadata, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _licences(summary: AuditSummary) -> list[Any]:
    """Addresses of known licences; others as they are stated."""
    found: list[Any] = []
    for licence in kept_licences(summary):
        entry = licence.address or {"@type": "sc:CreativeWork", "name": licence.stated}
        if entry not in found:
            found.append(entry)
    if num_without_licence(summary) or not found:
        found.append({"@type": "sc:CreativeWork", "name": "none stated for some records"})
    return found


def _citation(name: str, publication: Publication) -> str:
    """A BibTeX entry; characters that are special in BibTeX are removed from the values."""
    fields = {"title": name, "author": publication.creator, "year": str(publication.published.year)}
    fields |= {"url": publication.url}
    plain = {key: re.sub(r"[{}\\%\x00-\x1f]", "", value) for key, value in fields.items() if value}
    return "@misc{dataset, " + ", ".join(f"{key} = {{{value}}}" for key, value in plain.items()) + "}"


def _file(file: DatasetFile) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file.path,
        "name": file.path,
        "contentUrl": file.path,
        "contentSize": f"{file.num_bytes} B",
        "encodingFormat": _ENCODINGS[Path(file.path).suffix],
        "sha256": file.sha256,
    }


def _file_sets(tars: Sequence[str]) -> list[dict[str, Any]]:
    ledgers = {
        "@type": "cr:FileSet",
        "@id": "ledgers",
        "name": "ledgers",
        "description": "A row for every record that came in, kept or not.",
        "encodingFormat": _ENCODINGS[".parquet"],
        "includes": "ledger/*.parquet",
    }
    containers = [{"@id": path} for path in tars]
    samples = {
        "@type": "cr:FileSet",
        "@id": "samples",
        "name": "samples",
        "description": "One JSON object for each kept sample, before its pictures in the same tar.",
        "containedIn": containers,
        "encodingFormat": _ENCODINGS[".json"],
        "includes": "*.json",
    }
    images = {
        "@type": "cr:FileSet",
        "@id": "image_files",
        "name": "image_files",
        "description": "Pictures of the kept samples, named <sample_id>.<slot> with the ending of their format.",
        "containedIn": containers,
        "encodingFormat": ["image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff",
                           "image/avif", "image/jp2"],
        "includes": IMAGE_PATTERNS,
    }  # fmt: skip
    return [ledgers, samples, images] if tars else [ledgers]


def _record_sets(folder: Path, *, has_samples: bool) -> list[dict[str, Any]]:
    fields = [_column(column) for column in _ledger_schema(folder) if _data_type(column.type)]
    ledger = {
        "@type": "cr:RecordSet",
        "@id": "ledger",
        "name": "ledger",
        "description": "Every record that came in, with its verdict.",
        "field": fields,
    }
    samples = {
        "@type": "cr:RecordSet",
        "@id": "sample",
        "name": "sample",
        "description": "The kept samples without their pictures.",
        "key": {"@id": "sample/sample_id"},
        "field": [
            _member("sample_id", _COLUMNS["sample_id"], {"fileProperty": "filename"}, transform={"regex": _MEMBER}),
            _member("json", "The sample: its words, and where its pictures lie.", {"fileProperty": "content"}),
        ],
    }
    return [ledger, samples] if has_samples else [ledger]


def _ledger_schema(folder: Path) -> Any:
    shards = CuratedDataset(folder).shards
    if not shards:
        raise DatasetError(f"{folder}: found a dataset without shards, expected at least one; curate again")
    path = folder / "ledger" / f"{shards[0]}.parquet"
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: not a ledger that can be read ({error}); curate again") from error


def _data_type(kind: Any) -> str | None:
    """The data type of a column or of the items of its lists; None if Croissant has none."""
    return _DATA_TYPES.get(kind.value_type if pa.types.is_list(kind) else kind)


def _column(column: Any) -> dict[str, Any]:
    is_list = pa.types.is_list(column.type)
    return {
        "@type": "cr:Field",
        "@id": f"ledger/{column.name}",
        "name": column.name,
        "description": _COLUMNS.get(column.name, column.name.replace("_", " ")),
        "dataType": _data_type(column.type),
        **({"isArray": True, "arrayShape": "-1"} if is_list else {}),
        "source": {"fileSet": {"@id": "ledgers"}, "extract": {"column": column.name}},
    }


def _member(name: str, description: str, extract: dict[str, str], **transform: Any) -> dict[str, Any]:
    """A field of the JSON member of each kept sample."""
    return {
        "@type": "cr:Field",
        "@id": f"sample/{name}",
        "name": name,
        "description": description,
        "dataType": "sc:Text",
        "source": {"fileSet": {"@id": "samples"}, "extract": extract, **transform},
    }
