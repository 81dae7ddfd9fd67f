"""Reads raw files into records: every unit of input gets an id, a source, a licence and a row, even if unreadable."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.ingest.config import IngestConfig
from orchestrator.artifact import JSON
from orchestrator.identity import semantic_config
from orchestrator.shards import Shard, ShardInput, ShardOutcome, sum_metrics
from orchestrator.stage import Location, Slot, StageContext, StageKind

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
    tombstones: Mapping[str, frozenset[str]]

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        from data_pipelines.datasets.tombstones import marks_to_tombstones
        from data_pipelines.ingest.image_sources import open_images
        from data_pipelines.ingest.shards import ingest_shard, load_metadata, shard_from_json

        tombstones = marks_to_tombstones(self.tombstones)
        limits = {"max_bytes": self.config.max_image_bytes, "max_unpacked_bytes": self.config.max_unpacked_bytes}
        images = open_images(self.inputs.images, **limits) if self.inputs.images else None
        metadata = load_metadata(self.inputs.metadata) if self.inputs.metadata else None

        def run(shard: ShardInput) -> ShardOutcome:
            planned = shard_from_json(shard.work)
            # A folder of images is read as it is; `images` are for files of records, which only name theirs.
            found = open_images((Path(planned.file),), **limits) if planned.members else images
            counts = ingest_shard(
                planned, shard.output, self.config, images=found, metadata=metadata, tombstones=tombstones
            )
            metrics = {name: float(count) for name, count in counts.items() if name != "rows"}  # counted by itself
            return ShardOutcome(rows=counts["rows"], metrics=metrics)

        return run


def sources(config: IngestStageConfig) -> Mapping[str, Path]:
    """Every file outside the store that is read, by a name that does not depend on its location."""
    from data_pipelines.ingest.source_files import find_sources

    found = {f"paths/{file.display_name}": file.path for file in find_sources(config.read, config.paths)}
    files = {name: path for name, path in found.items() if path.is_file()}
    roots = [path for path in found.values() if path.is_dir()] + [Path(location) for location in config.images]
    for number, root in enumerate(roots):
        if not root.exists():
            raise FileNotFoundError(f"images: no folder or tar {str(root)!r}; give the one with the images")
        inside = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
        files.update({f"images/{number}/{path.relative_to(root).as_posix()}": path for path in inside})
    return files | ({"metadata": Path(config.metadata)} if config.metadata else {})


def run(config: IngestStageConfig, context: StageContext) -> Mapping[str, float]:
    from data_pipelines.ingest.orphans import write_orphans

    inputs = _input_paths(config, context)
    records = context.map_shards(
        IngestWorker(config=config.read, inputs=inputs, tombstones=context.tombstones),
        ingest_shards(config.read, inputs),
        label="ingest",
        identity={"config": semantic_config(config.read)},
        unit="files",
    )
    for record in records:
        context.adopt(record)
    found = [
        record.path / entry.path for record in records for entry in record.files if entry.path.startswith("records/")
    ]
    orphans = write_orphans(found, inputs.images, context.output)
    return {**sum_metrics(records), "orphans": float(orphans)}


def ingest_shards(config: IngestConfig, inputs: InputPaths) -> list[Shard]:
    """The input split into shards, each identified by its own source and images only."""
    from data_pipelines.ingest.shards import plan_ingest, shard_to_json

    digests = _Digests(inputs)
    return [
        Shard(
            name=planned.name,
            items=(f"{planned.source_file}[{planned.first_row}:]",),
            identity=digests.identity(planned, config),
            work=shard_to_json(planned),
        )
        for planned in plan_ingest(config, inputs.paths)
    ]


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


class _Digests:
    """Digests of what a shard's output depends on: the bytes of its source and of the images that it names."""

    def __init__(self, inputs: InputPaths) -> None:
        from data_pipelines.ingest.image_sources import member_names

        self._inputs = inputs
        self._known: dict[Path, str] = {}
        self._folders = [path for path in inputs.images if path.is_dir()]
        self._archives = {path: member_names(path) for path in inputs.images if path.is_file()}

    def identity(self, shard: "IngestShard", config: IngestConfig) -> dict[str, JSON]:
        from data_pipelines.ingest.shards import external_image_names

        source = Path(shard.file)
        roots = [Path(shard.file), *self._folders] if shard.members else self._folders
        named = hashlib.sha256()
        for name in external_image_names(shard, config):
            path = self._locate(name, roots)
            # Names come from the data: some are not valid Unicode.
            named.update(f"{name}\n{self._digest(path) if path else 'absent'}\n".encode("utf-8", "surrogatepass"))
        return {
            "source": self._digest(source) if source.is_file() else "folder",
            "format": shard.format,
            "rows": [shard.first_row, shard.num_rows],
            "bytes": [shard.start_byte, shard.stop_byte],
            "images": named.hexdigest(),
            "metadata": self._digest(self._inputs.metadata) if self._inputs.metadata else "",
        }

    def _locate(self, name: str, roots: Sequence[Path]) -> Path | None:
        """The file or tar that an image is read from; None if there is none, or for names that are not allowed."""
        from data_pipelines.ingest.image_sources import check_name

        if check_name(name) is not None:
            return None
        for root in roots:
            try:
                if (root / name).is_file():
                    return root / name
            except OSError:  # a name that is too long for a file
                continue
        return next((tar for tar, members in self._archives.items() if name in members), None)

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
    version=3,
    config=IngestStageConfig,
    run=run,
    inputs={"raw": Slot(kind="raw@1", required=False)},
    output="records@1",
    renamed_metrics={"pictures": "images", "picture_bytes": "image_bytes"},
    sources=lambda config: sources(config) if config.paths else {},
    metrics=METRICS,
    headline=headline,
)
