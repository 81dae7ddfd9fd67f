"""Read raw files into records: every unit of input gets an id, a source, a licence, and a row, read or not."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.ingest.config import IngestConfig
from orchestrator.artifact import JSON
from orchestrator.shards import Shard, ShardInput, ShardOutcome, sum_stats
from orchestrator.stage import Location, Slot, StageContext, StageKind

if TYPE_CHECKING:
    from data_pipelines.ingest.units import IngestShard


@dataclass(frozen=True, kw_only=True)
class IngestStageConfig:
    read: IngestConfig
    paths: tuple[Location, ...] = ()  # files, folders or glob patterns; without them the `raw` input is read
    images: tuple[Location, ...] = ()  # folders and tars in which annotations' picture names are looked up
    metadata: Location = Location("")  # JSON lines with licence and split by picture name


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where everything lies on this machine."""

    paths: tuple[Path, ...]
    images: tuple[Path, ...]
    metadata: Path | None


@dataclass(frozen=True, kw_only=True)
class IngestWorker:
    config: IngestConfig
    places: Places
    tombstones: Mapping[str, frozenset[str]]

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        from data_pipelines.datasets.tombstones import tombstones_from_marks
        from data_pipelines.ingest.image_sources import open_images
        from data_pipelines.ingest.shards import ingest_shard, load_metadata, shard_from_json

        tombstones = tombstones_from_marks(self.tombstones)
        limits = {"max_bytes": self.config.max_image_bytes, "max_unpacked_bytes": self.config.max_unpacked_bytes}
        images = open_images(self.places.images, **limits) if self.places.images else None
        metadata = load_metadata(self.places.metadata) if self.places.metadata else None

        def run(shard: ShardInput) -> ShardOutcome:
            planned = shard_from_json(shard.work)
            counts = ingest_shard(
                planned, shard.output, self.config, images=images, metadata=metadata, tombstones=tombstones
            )
            return ShardOutcome(rows=counts["rows"], stats={name: float(count) for name, count in counts.items()})

        return run


def sources(config: IngestStageConfig) -> Mapping[str, Path]:
    """Every file outside the store that is read, by a name that does not say where it lies."""
    from data_pipelines.ingest.source_files import find_sources

    found = {f"paths/{file.shown}": file.path for file in find_sources(config.read, config.paths)}
    files = {name: path for name, path in found.items() if path.is_file()}
    folders = [path for path in found.values() if path.is_dir()] + [Path(place) for place in config.images]
    for number, place in enumerate(folders):
        if not place.exists():
            raise FileNotFoundError(f"images: no folder or tar {str(place)!r}; give the one with the pictures")
        inside = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]
        files.update({f"images/{number}/{path.relative_to(place).as_posix()}": path for path in inside})
    return files | ({"metadata": Path(config.metadata)} if config.metadata else {})


def run(config: IngestStageConfig, context: StageContext) -> Mapping[str, float]:
    from data_pipelines.ingest.orphans import write_orphans

    places = _places(config, context)
    records = context.map_shards(
        IngestWorker(config=config.read, places=places, tombstones=context.tombstones),
        ingest_shards(config.read, places),
        label="ingest",
        identity={"config": repr(config.read)},
        unit="files",
    )
    for record in records:
        context.adopt(record)
    found = [
        record.path / entry.path for record in records for entry in record.files if entry.path.startswith("records/")
    ]
    orphans = write_orphans(found, places.images, context.output)
    return {**sum_stats(records), "orphans": float(orphans)}


def ingest_shards(config: IngestConfig, places: Places) -> list[Shard]:
    """The parts of the input; what one is made of, its own source and pictures alone, is its identity."""
    from data_pipelines.ingest.shards import plan_ingest, shard_to_json

    digests = _Digests(places)
    return [
        Shard(
            name=planned.name,
            items=(f"{planned.source_file}[{planned.first_row}:]",),
            identity=digests.identity(planned, config),
            work=shard_to_json(planned),
        )
        for planned in plan_ingest(config, places.paths)
    ]


def _places(config: IngestStageConfig, context: StageContext) -> Places:
    if config.paths:
        return Places(
            paths=tuple(map(Path, config.paths)),
            images=tuple(map(Path, config.images)),
            metadata=Path(config.metadata) if config.metadata else None,
        )
    raw = context.input("raw").path
    tars = tuple(sorted((raw / "images").glob("*.tar")))
    return Places(paths=(raw / "annotations",), images=tars or (raw / "images",), metadata=None)


class _Digests:
    """What a shard's output depends on: the bytes of its source, and of the pictures that it names."""

    def __init__(self, places: Places) -> None:
        from data_pipelines.ingest.image_sources import member_names

        self._places = places
        self._known: dict[Path, str] = {}
        self._folders = [path for path in places.images if path.is_dir()]
        self._archives = {path: member_names(path) for path in places.images if path.is_file()}

    def identity(self, shard: "IngestShard", config: IngestConfig) -> dict[str, JSON]:
        from data_pipelines.ingest.shards import names_of_images

        source = Path(shard.file)
        roots = [Path(shard.file), *self._folders] if shard.members else self._folders
        named = hashlib.sha256()
        for name in names_of_images(shard, config):
            path = self._place(name, roots)
            # Names come from the data: some are no Unicode.
            named.update(f"{name}\n{self._digest(path) if path else 'absent'}\n".encode("utf-8", "surrogatepass"))
        return {
            "source": self._digest(source) if source.is_file() else "folder",
            "format": shard.format,
            "rows": [shard.first_row, shard.num_rows],
            "bytes": [shard.start_byte, shard.stop_byte],
            "pictures": named.hexdigest(),
            "metadata": self._digest(self._places.metadata) if self._places.metadata else "",
        }

    def _place(self, name: str, roots: Sequence[Path]) -> Path | None:
        """The file or tar that the picture is read from; None for names that are never followed."""
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


INGEST = StageKind(
    name="ingest",
    version=2,
    config=IngestStageConfig,
    run=run,
    inputs={"raw": Slot(kind="raw@1", required=False)},
    output="records@1",
    sources=lambda config: sources(config) if config.paths else {},
)
