"""A curated dataset for the tests of audits."""

from pathlib import Path

import pytest

from data_pipelines.audit.thumbnails import derive_thumbnails
from data_pipelines.curation.config import CurationConfig, decode_limits
from data_pipelines.curation.copies import find_duplicates
from data_pipelines.curation.emit import emit_shard, write_dataset
from data_pipelines.curation.judge import judge_shard
from data_pipelines.curation.measure import measure_shard
from data_pipelines.datasets.ingested_reader import record_shards
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.files.image_sources import open_images
from data_pipelines.ingest.shards import ingest_shard, plan_ingest
from data_pipelines.shapes.config import ShapesConfig, SpoiltShares
from data_pipelines.shapes.world import generate_world

HOSTILE = '</title><script>alert("x")</script>\u202e'


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A curated world with copies, broken files and a licence that is an attack."""
    folder = tmp_path_factory.mktemp("audit")
    spoilt = SpoiltShares(exact_duplicates=0.1, near_duplicates=0.1, broken_files=0.1, bad_captions=0.1)
    world = ShapesConfig(
        seed=8, understanding=40, generation=40, editing=10, text=8, lines_per_file=30, spoilt=spoilt, license=HOSTILE
    )
    generate_world(folder, world)
    ingesting = IngestConfig(source=HOSTILE)
    images = open_images(sorted((folder / "images").iterdir()), max_bytes=1 << 24, max_unpacked_bytes=1 << 30)
    for shard in plan_ingest(ingesting, [folder / "annotations"]):
        ingest_shard(shard, folder / "records", ingesting, images=images)
    config = CurationConfig(anchors=((64, 64), (48, 96), (96, 48), (56, 72)), min_side=32)
    names = record_shards(folder / "records")
    for name in names:
        measure_shard(folder / "records", name, folder, decode_limits(config))
        judge_shard(folder / "records", folder, name, folder, config)
    copies = find_duplicates({name: folder / "analysis" / f"{name}.parquet" for name in names}, config)
    for name in names:
        emit_shard(folder / "records", folder, name, folder / "data", copies=copies[name])
    write_dataset(
        folder / "data", HOSTILE, {name: folder / "data" / "ledger" / f"{name}.parquet" for name in names}, config
    )
    return folder / "data"


@pytest.fixture(scope="session")
def thumbnails(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The view of small images of the dataset."""
    target = tmp_path_factory.mktemp("thumbnails")
    derive_thumbnails(dataset, [dataset.parent / "records"], target)
    return target
