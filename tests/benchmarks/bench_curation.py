"""Curation next to a plain PIL decode loop over the same files: images per second of one core, and of two processes.

Run: python tests/benchmarks/bench_curation.py [--images 300] [--side 512] [--photos TAR]
Curation includes all steps from ingested records on: verdict, checks, hashes, scores, tar of the original bytes, ledger
and thumbnails; in the last row images are also resized, as JPEG. The decode loop only opens each file and converts it
to RGB. All rows are measured in one run, in turns; a process has one thread, as in a Ray worker with one CPU.
"""

import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from turns import print_rates, seconds_in_turns

from data_pipelines.captions.languages import detect_language
from data_pipelines.curation.config import CurationConfig, decode_limits, judge_config, stored_size
from data_pipelines.curation.copies import find_duplicates
from data_pipelines.curation.emit import emit_shard, write_dataset
from data_pipelines.curation.judge import judge_shard
from data_pipelines.curation.measure import measure_shard
from data_pipelines.datasets.ingested_reader import record_shards
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.files.image_sources import open_images
from data_pipelines.ingest.shards import ingest_shard, plan_ingest

ANCHORS = ((512, 512), (384, 512), (512, 384))
MIN_KEPT = 0.9  # share of the images
WORDS = [
    "a",
    "the",
    "dog",
    "boat",
    "street",
    "red",
    "green",
    "old",
    "small",
    "house",
    "water",
    "two",
    "on",
    "beside",
    "near",
]


def drawn_jpegs(count: int, side: int) -> list[bytes]:
    """JPEGs with the look of photographs: soft shapes, sharp edges, fine grain, quality 85."""
    rng = np.random.default_rng(0)
    files = []
    for number in range(count):
        size = (side, side * 3 // 4) if number % 2 else (side * 3 // 4, side)
        soft = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        edges = Image.fromarray(rng.integers(0, 100, (64, 64, 3), dtype=np.uint8)).resize(
            size, Image.Resampling.NEAREST
        )
        grain = rng.normal(0, 6, (size[1], size[0], 3))
        buffer = io.BytesIO()
        Image.fromarray((np.asarray(soft) * 0.6 + np.asarray(edges) + grain).clip(0, 255).astype(np.uint8)).save(
            buffer, "JPEG", quality=85
        )
        files.append(buffer.getvalue())
    return files


def photo_files(paths: Sequence[Path], count: int) -> list[bytes]:
    found = []
    for path in paths:
        with tarfile.open(path) as tar:
            members = [member for member in tar if member.name.lower().endswith((".jpg", ".jpeg", ".png"))]
            files = [tar.extractfile(member) for member in members]
            found += [file.read() for file in files if file is not None]
    return found[:count]


def write_records(folder: Path, files: list[bytes]) -> Path:
    """The files as an ingested folder of two shards."""
    rng = np.random.default_rng(1)
    (folder / "raw").mkdir(parents=True)
    lines: dict[int, list[str]] = {0: [], 1: []}
    for number, data in enumerate(files):
        name = f"{number}.jpg"
        (folder / "raw" / name).write_bytes(data)
        caption = " ".join(rng.choice(WORDS, 12)) + f" {number}"
        turns = [{"from": "human", "value": "<image>\nDescribe the image."}, {"from": "gpt", "value": caption}]
        lines[number % 2].append(json.dumps({"id": name, "images": [name], "conversations": turns}))
    for half, half_lines in lines.items():
        (folder / f"{half}.jsonl").write_text("\n".join(half_lines))
    config = IngestConfig(source="benchmark")
    images = open_images([folder / "raw"], max_bytes=1 << 26, max_unpacked_bytes=1 << 30)
    for shard in plan_ingest(config, [folder / "0.jsonl", folder / "1.jsonl"]):
        ingest_shard(shard, folder / "records", config, images=images)
    return folder / "records"


def decode(files: list[bytes]) -> None:
    for data in files:
        with Image.open(io.BytesIO(data)) as image:
            image.convert("RGB")


def measure(records: Path, name: str, work: Path, config: CurationConfig) -> None:
    detect_language.cache_clear()  # captions of a real shard are new ones
    measure_shard(records, name, work, decode_limits(config))


def analyse(records: Path, work: Path, name: str, config: CurationConfig) -> None:
    detect_language.cache_clear()
    measure_shard(records, name, work, decode_limits(config), stored=stored_size(config))
    judge_shard(records, work, name, work, judge_config(config))


def curate(
    records: Path, names: list[str], work: Path, config: CurationConfig, workers: ProcessPoolExecutor | None
) -> None:
    """All steps; the two that read images run on the workers, shard by shard."""
    run = workers.map if workers else map
    list(run(analyse, [records] * len(names), [work] * len(names), names, [config] * len(names)))
    copies = find_duplicates({name: work / "analysis" / f"{name}.parquet" for name in names}, config)
    list(run(_emit, [(records, work, name, config, copies[name]) for name in names]))
    ledgers = {name: work / "ledger" / f"{name}.parquet" for name in names}
    totals = write_dataset(work, "benchmark", ledgers, config)
    if totals["keep"] < MIN_KEPT * totals["rows"]:
        raise SystemExit(f"curation kept {totals['keep']} of {totals['rows']} images: this measures how it drops them")


def _emit(work: tuple) -> None:  # type: ignore[type-arg] # the arguments of `emit_shard`, in its order
    records, folder, name, config, copies = work
    resized = folder if stored_size(config) else None
    emit_shard(records, folder, name, folder, copies=copies, resized=resized)


@click.command(help=__doc__)
@click.option("--images", default=400, help="How many images.")
@click.option("--side", default=512, help="Longer side of drawn images, in pixels.")
@click.option(
    "--photos", type=click.Path(path_type=Path, exists=True), multiple=True, help="Tars of images to use instead."
)
@click.option("--stored", default=256, help="Longer side of images that are stored resized, in pixels.")
@click.option("--repeats", default=3, help="Rounds; the median counts.")
def main(images: int, side: int, photos: Sequence[Path], stored: int, repeats: int) -> None:
    files = photo_files(photos, images) if photos else drawn_jpegs(images, side)
    anchors = tuple((height * stored // 512, width * stored // 512) for height, width in ANCHORS)
    config = CurationConfig(anchors=anchors, duplicate_scope="image")
    resizing = replace(config, max_stored_side=stored)
    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as workers,
    ):
        records = write_records(Path(folder), files)
        names = record_shards(records)
        output = Path(folder) / "output"
        measures = {
            "PIL decode loop, 1 process": lambda: decode(files),
            "measuring only, 1 process": lambda: [measure(records, name, output, config) for name in names],
            "curation, 1 process": lambda: curate(records, names, output, config, None),
            "curation, 2 processes": lambda: curate(records, names, output, config, workers),
            "curation with resizing, 1 process": lambda: curate(records, names, output, resizing, None),
        }
        seconds = seconds_in_turns(measures, repeats, lambda: shutil.rmtree(output, ignore_errors=True))
    size = sum(map(len, files)) / len(files) / 1024
    print_rates(
        f"{len(files)} images of {size:.0f} KB on average",
        dict.fromkeys(seconds, len(files)),
        seconds,
        "images/s",
        "PIL decode loop, 1 process",
    )


if __name__ == "__main__":
    main()
