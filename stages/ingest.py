"""Reads raw files into records: every unit of input gets an id, a source, a licence and a row, even if unreadable."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from data_pipelines.ingest.config import IngestConfig
from orchestrator.artifact import JSON
from orchestrator.identity import semantic_config
from orchestrator.shards import Shard, ShardInput, ShardOutcome, ShardRecord, sum_metrics
from orchestrator.stage import Location, NodeInputs, Slot, StageContext, StageKind

if TYPE_CHECKING:
    from data_pipelines.ingest.units import IngestShard


@dataclass(frozen=True, kw_only=True)
class IngestStageConfig:
    read: IngestConfig
    paths: tuple[Location, ...] = ()  # files, folders or glob patterns; without them the `raw` input is read
    images: tuple[Location, ...] = ()  # folders and tars in which files of records name their images
    metadata: Location = Location("")  # JSON lines with licence and split by image name


@dataclass(frozen=True, kw_only=True)
class InputPaths:
    """The input files on this machine."""

    paths: tuple[Path, ...]
    images: tuple[Path, ...]
    metadata: Path | None


@dataclass(frozen=True, kw_only=True)
class IngestWorker:
    config: IngestConfig
    inputs: InputPaths
    node: NodeInputs
    tombstones: Mapping[str, frozenset[str]]

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        from data_pipelines.datasets.tombstones import marks_to_tombstones
        from data_pipelines.ingest.files.counted_files import ImageSources
        from data_pipelines.ingest.shards import ingest_shard, load_metadata, shard_from_json

        self.node.open()
        tombstones = marks_to_tombstones(self.tombstones)
        images = ImageSources(self.inputs.images, **_limits(self.config))
        metadata = load_metadata(self.inputs.metadata) if self.inputs.metadata else None

        def run(shard: ShardInput) -> ShardOutcome:
            work: Mapping[str, Any] = shard.work
            planned = shard_from_json(work["shard"])
            _check_unchanged(planned.file, work["facts"])
            counts = ingest_shard(
                planned,
                shard.output,
                self.config,
                images=images.of(planned),
                metadata=metadata,
                tombstones=tombstones,
                archives=work["archives"],
                counted=work["counted"],
            )
            _check_unchanged(planned.file, work["facts"])
            metrics = {name: float(count) for name, count in counts.items() if name != "rows"}  # counted by itself
            return ShardOutcome(rows=counts["rows"], metrics=metrics)

        return run


def _limits(config: IngestConfig) -> dict[str, int]:
    return {"max_bytes": config.max_image_bytes, "max_unpacked_bytes": config.max_unpacked_bytes}


def _file_facts(file: str) -> list[JSON]:
    """Bytes and time of a source file, which show that it changed since it was counted; none of a folder."""
    facts = Path(file).stat()
    return [facts.st_size, facts.st_mtime_ns] if Path(file).is_file() else []


def _check_unchanged(file: str, facts: Sequence[JSON]) -> None:
    """Raises: DataError if a source file is not the one that was counted."""
    from models.errors import DataError

    if _file_facts(file) != list(facts):
        raise DataError(f"{file}: changed after the plan was made; plan again when it is complete")


def sources(config: IngestStageConfig) -> Mapping[str, Path]:
    """Every file outside the store that is read, by a name that does not depend on its location: files of records, and
    exactly those files that reading them opens."""
    from data_pipelines.ingest.files.counted_files import CountedFiles, ImageSources
    from data_pipelines.ingest.formats import count_files
    from data_pipelines.ingest.shards import plan_ingest

    files: dict[str, Path] = {}
    roots = [Path(location) for location in config.images]
    for root in roots:
        if not root.exists():
            raise FileNotFoundError(f"images: no folder or tar {str(root)!r}; give the one with the images")
    images = ImageSources(roots, **_limits(config.read))
    for shard in plan_ingest(config.read, config.paths):
        if Path(shard.file).is_file():
            files[f"paths/{shard.source_file}"] = Path(shard.file)
        counted = CountedFiles(images.of(shard), digest=lambda _path: "")
        count_files(shard, config.read, counted)
        for name, path in counted.opened.items():
            files[_source_name(name, path, shard, roots)] = path
    return files | ({"metadata": Path(config.metadata)} if config.metadata else {})


def preview_lines(config: IngestStageConfig) -> Sequence[str]:
    """What is read, and how; empty where it comes from another stage."""
    from data_pipelines.ingest.preview import preview

    return preview(config.read, config.paths, config.images) if config.paths else ()


def _source_name(name: str, path: Path, shard: "IngestShard", roots: Sequence[Path]) -> str:
    """A name for a file that a record names: by the place of `images` that has it, else by the file of the record."""
    from data_pipelines.ingest.files.image_sources import hub_blobs
    from data_pipelines.ingest.files.leftovers import valid_name

    name = valid_name(name)
    if shard.members:
        return f"images/{shard.source_file}/{name}"
    for number, root in enumerate(roots):
        real = root.resolve()
        if path == root:
            return f"images/{number}"  # a tar counts as a whole
        if any(path.is_relative_to(place) for place in (real, *hub_blobs(real))):
            return f"images/{number}/{name}"
    return f"beside/{shard.source_file}/{name}"


def run(config: IngestStageConfig, context: StageContext) -> Mapping[str, float]:
    from data_pipelines.ingest.files.orphans import write_orphans

    inputs = _input_paths(config, context)
    counter = _InputCounter(config.read, inputs, _recorded_digests(config, context))
    shards = counter.shards()
    _check_sources(context, counter.sources)
    records = context.map_shards(
        IngestWorker(config=config.read, inputs=inputs, node=context.node_inputs, tombstones=context.tombstones),
        shards,
        label="ingest",
        identity={"config": semantic_config(config.read)},
        unit="files",
    )
    for record in records:
        context.adopt(record)
    orphans = write_orphans(_tables(records) if inputs.images else [], inputs.images, context.output)
    return {**sum_metrics(records), "orphans": float(orphans)}


def _tables(records: Sequence[ShardRecord]) -> list[Path]:
    """The records of all shards, without their images."""
    return [
        record.file(entry.path) for record in records for entry in record.files if entry.path.startswith("records/")
    ]


def ingest_shards(
    config: IngestConfig, inputs: InputPaths, digests: Mapping[Path, str] = MappingProxyType({})
) -> list[Shard]:
    """The input split into shards, each identified by its own source and images only. `digests`: known SHA-256."""
    return _InputCounter(config, inputs, digests).shards()


def _recorded_digests(config: IngestStageConfig, context: StageContext) -> dict[Path, str]:
    """The digests that the manifest of the input has, so that gigabytes of tars are not read for them again."""
    if config.paths:
        return {}
    raw = context.input("raw")
    return {raw.path / file.path: file.sha256 for file in raw.manifest.files}


def _check_sources(context: StageContext, found: Mapping[str, str]) -> None:
    """Raises: DataError if the files are others than those of the plan, whose identity the output gets."""
    from models.errors import DataError

    planned = context.source_digests
    differ = sorted(name for name in {*planned, *found} if planned.get(name) != found.get(name))
    if planned and differ:
        raise DataError(
            f"{context.stage_id}: {len(differ)} source files changed after the plan was made, {differ[0]!r} first; "
            "run again when they are complete"
        )


def _input_paths(config: IngestStageConfig, context: StageContext) -> InputPaths:
    if config.paths:
        return InputPaths(
            paths=tuple(map(Path, config.paths)),
            images=tuple(map(Path, config.images)),
            metadata=Path(config.metadata) if config.metadata else None,
        )
    raw = context.input("raw").path
    tars = tuple(sorted((raw / "images").glob("*.tar")))
    return InputPaths(paths=(raw / "annotations",), images=tars or (raw / "images",), metadata=None)


class _InputCounter:
    """Digests of what a shard's output depends on: the bytes of its source, and of all files that reading it opens."""

    def __init__(self, config: IngestConfig, inputs: InputPaths, digests: Mapping[Path, str]) -> None:
        from data_pipelines.ingest.files.counted_files import ImageSources

        self._config, self._inputs = config, inputs
        self.sources: dict[str, str] = {}  # SHA-256 by the names that `sources` gives
        self._known = dict(digests)
        self._images = ImageSources(inputs.images, **_limits(config))
        self.archives = {str(path): self._digest(path) for path in inputs.images if path.is_file()}
        self._metadata = self._digest(inputs.metadata) if inputs.metadata else ""
        self.sources |= {"metadata": self._metadata} if inputs.metadata else {}

    def shards(self) -> list[Shard]:
        from data_pipelines.ingest.shards import plan_ingest, shard_to_json

        shards = []
        for planned in plan_ingest(self._config, self._inputs.paths):
            identity = self.identity(planned)
            work: dict[str, JSON] = {
                "shard": shard_to_json(planned),
                "facts": _file_facts(planned.file),
                "archives": dict[str, JSON](self.archives),
                "counted": identity["images"],
            }
            items = (f"{planned.source_file}[{planned.first_row}:]",)
            shards.append(Shard(name=planned.name, items=items, identity=identity, work=work))
        return shards

    def identity(self, shard: "IngestShard") -> dict[str, JSON]:
        from data_pipelines.ingest.files.counted_files import CountedFiles
        from data_pipelines.ingest.formats import count_files

        source = Path(shard.file)
        files = CountedFiles(self._images.of(shard), digest=self._digest, archives=self.archives)
        count_files(shard, self._config, files)
        opened = {_source_name(name, path, shard, self._inputs.images): path for name, path in files.opened.items()}
        opened |= {f"paths/{shard.source_file}": source} if source.is_file() else {}
        self.sources |= {name: self._digest(path) for name, path in opened.items()}
        members = "\n".join((*shard.members, *(f"shared {name}" for name in shard.shared))).encode(
            "utf-8", "surrogatepass"
        )
        return {
            "name": shard.name,  # of the shard's files
            "source": self._digest(source) if source.is_file() else hashlib.sha256(members).hexdigest(),
            "format": shard.format,
            "rows": [shard.first_row, shard.num_rows],
            "bytes": [shard.start_byte, shard.stop_byte],
            "images": files.counted(),
            "metadata": self._metadata,
        }

    def _digest(self, path: Path) -> str:
        if path not in self._known:
            with path.open("rb") as file:
                self._known[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._known[path]


METRICS = {
    "rows": "records, those that cannot be read included",
    "rejects": "records that cannot be read",
    "images": "images found",
    "image_bytes": "bytes of these images",
    "reject <reason>": "records that cannot be read, by reason",
    "orphans": "files of images that no record names",
    "quarantined": "source files that broke their worker",
}


def headline(metrics: Mapping[str, float]) -> str:
    return f"{metrics['rows']:,.0f} records, {metrics['rejects']:,.0f} rejected"


INGEST = StageKind(
    name="ingest",
    version=4,
    config=IngestStageConfig,
    run=run,
    inputs={"raw": Slot(kind="raw@1", required=False)},
    output="records@1",
    renamed_metrics={"pictures": "images", "picture_bytes": "image_bytes"},
    sources=lambda config: sources(config) if config.paths else {},
    preview=preview_lines,
    metrics=METRICS,
    headline=headline,
)
