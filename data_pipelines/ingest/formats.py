"""The table of source formats. No reader raises for bad content: each yields the units of a file in input order.

A reader gets the bytes of its shard's file, and of all other files through `OtherFiles`, which counts them.
"""

from data_pipelines.datasets.records import Record
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.files.counted_files import CountedFiles
from data_pipelines.ingest.readers.csv_files import csv_units
from data_pipelines.ingest.readers.image_folders import bare_image_units, captioned_image_units
from data_pipelines.ingest.readers.json_files import json_units
from data_pipelines.ingest.readers.table_files import arrow_units, holds_all_images, parquet_units
from data_pipelines.ingest.readers.tar_files import tar_units
from data_pipelines.ingest.units import IngestShard, UnitReader

UNIT_READERS: dict[str, UnitReader] = {
    "illume": json_units,
    "webdataset": tar_units,
    "parquet": parquet_units,
    "arrow": arrow_units,
    "csv": csv_units,
    "image_caption_pairs": captioned_image_units,
    "images_only": bare_image_units,
}


def count_files(shard: IngestShard, config: IngestConfig, files: CountedFiles) -> None:
    """Count all files that ingesting the shard reads beside its own, by the same reader that ingests it."""
    if shard.format == "webdataset" or (shard.format == "parquet" and holds_all_images(shard, config)):
        return  # its samples hold their images
    for unit in UNIT_READERS[shard.format](shard, config, files):
        if isinstance(unit.content, Record) and unit.images is None:
            for position, name in enumerate(unit.content.image_names):
                if position not in unit.content.held:
                    files.count(name)
