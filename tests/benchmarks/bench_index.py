"""The index of 46 million samples and images: making it, and the start of the ranks of a node that read it.

Run: python tests/benchmarks/bench_index.py [--rows 46000000] [--processes 8] [--ranks 64]
The full size takes 9 GB below the temporary folder. Processes play the ranks of as many nodes as there are eights of
ranks: each opens the index, finds the rows of its ranks in the first steps, and those of a step late in the epoch, as
after a restart. Shards' tables are random; what makes them, rendering, is measured by `make_rows` on drawn samples.
"""

import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
import pyarrow as pa

from data_pipelines.datasets.reader import CuratedDataset
from data_pipelines.training_data.columns import open_columns
from data_pipelines.training_data.config import LoaderConfig, MixturePart
from data_pipelines.training_data.image_batches import ImageBatches
from data_pipelines.training_data.image_index import ROW, ImageSelection, merge_images, open_image_index
from data_pipelines.training_data.index import COLUMNS, IndexedPart, TrainingIndex
from data_pipelines.training_data.index_build import write_columns
from data_pipelines.training_data.order import TrainingOrder
from data_pipelines.training_data.sample_rows import SCHEMA

SHARD_ROWS = 10_000
ROW_TOKENS, ROWS_PER_STEP = 4096, 1024
STEPS = 4  # that each rank looks up
LATE = 0.8  # of an epoch, where a restart goes on
ANCHORS = ((256, 256), (192, 320), (320, 192), (512, 512), (384, 640))
SELECTION = ImageSelection(split="train", tasks=None)
GB = 1e9


@dataclass(frozen=True, kw_only=True)
class RankReport:
    """What one process measured for the ranks that it plays."""

    open_s: float
    first_rows_s: float
    restart_s: float
    uss_mb: float
    pss_mb: float


@contextmanager
def timed(label: str) -> Iterator[None]:
    began, began_cpu = time.perf_counter(), time.process_time()
    yield
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB
    cpu_s = time.process_time() - began_cpu
    click.echo(
        f"  {time.perf_counter() - began:8.1f} s, {cpu_s:7.1f} s of CPU  {label} (peak {peak_gb:.1f} GB resident)"
    )


def config() -> LoaderConfig:
    parts = (MixturePart(tasks=("understanding",), weight=1.0), MixturePart(tasks=("generation",), weight=1.0))
    return LoaderConfig(parts=parts, seed=1, row_tokens=ROW_TOKENS, rows_per_step=ROWS_PER_STEP)


def shard_names(rows: int) -> tuple[str, ...]:
    return tuple(f"s-{number:05d}" for number in range(-(-rows // SHARD_ROWS)))


def write_samples(folder: Path, rows: int) -> None:
    halves = (rows // 2, rows - rows // 2)
    tables = [random_tables(half, seed) for seed, half in enumerate(halves)]
    columns = write_columns(folder, config(), [shard_names(half) for half in halves], tables)
    (folder / "index.json").write_text(json.dumps(columns.parts))


def open_samples(folder: Path) -> TrainingIndex:
    parts = [
        IndexedPart(
            shard_names=tuple(part["shard_names"]),
            digest=part["digest"],
            **open_columns(folder, f"part-{number}.", COLUMNS, part["num_samples"]),
        )
        for number, part in enumerate(json.loads((folder / "index.json").read_text()))
    ]
    return TrainingIndex(parts=tuple(parts), tokenizer=None, dropped={}, held_out=0, digest="0" * 64)


def random_tables(rows: int, seed: int) -> Iterator[Any]:
    """Tables of shards as `sample_rows` makes them, with random ids and lengths."""
    rng = np.random.default_rng(seed)
    for start in range(0, rows, SHARD_ROWS):
        count = min(SHARD_ROWS, rows - start)
        digits = rng.bytes(32 * count).hex()
        texts = pa.array([digits[at : at + 64] for at in range(0, 64 * count, 64)])
        lengths = rng.integers(100, 1500, count, dtype=np.int32)
        columns: list[Any] = [
            texts,
            texts,
            pa.array(np.arange(count, dtype=np.int64) * 51_200),
            pa.array(np.full(count, 51_200, dtype=np.int64)),
            pa.array(np.arange(count, dtype=np.int64)),
            pa.array(np.ones(count, dtype=bool)),
            pa.array(lengths),
            pa.array(lengths // 2),
            pa.array([""] * count),
            pa.array([""] * count),
        ]
        yield pa.Table.from_arrays(columns, schema=SCHEMA)


def random_images(rows: int) -> Iterator[Any]:
    rng = np.random.default_rng(3)
    for start in range(0, rows, SHARD_ROWS):
        count = min(SHARD_ROWS, rows - start)
        found = np.zeros(count, dtype=ROW)
        found["image"] = rng.integers(0, 256, (count, 32), dtype=np.uint8)
        found["offset"], found["span"] = np.arange(count) * 51_200, 51_200
        found["anchor"] = np.array(ANCHORS, dtype=np.int32)[rng.integers(0, len(ANCHORS), count)]
        yield found


def play_samples(folder: Path, ranks: Sequence[int], num_ranks: int, rows: int) -> RankReport:
    """Open the index of samples and look up the rows of some ranks."""
    began = time.perf_counter()
    order = TrainingOrder(open_samples(folder), config())
    opened = time.perf_counter()
    for step in range(STEPS):
        for rank in ranks:
            for row in order.rows_of_step(step, rank=rank, world_size=num_ranks):
                order.samples_of(row)
    looked_up = time.perf_counter()
    late = int(LATE * rows * 750 / ROW_TOKENS / ROWS_PER_STEP)
    for rank in ranks:
        order.samples_of(order.rows_of_step(late, rank=rank, world_size=num_ranks)[0])
    return _report(began, opened, looked_up)


def play_images(folder: Path, ranks: Sequence[int], num_ranks: int, rows: int) -> RankReport:
    """Open the index of images and find where those of some ranks are."""
    began = time.perf_counter()
    batches = ImageBatches([], open_image_index(folder, _datasets(rows), SELECTION), batch=16, seed=1)
    opened = time.perf_counter()
    for number in (step * num_ranks + rank for step in range(STEPS) for rank in ranks):
        _touch(batches, number)
    looked_up = time.perf_counter()
    for rank in ranks:
        _touch(batches, int(LATE * batches.micro_batches_per_epoch) + rank)
    return _report(began, opened, looked_up)


def _touch(batches: ImageBatches, number: int) -> None:
    group, chosen, _ = batches._located(number)
    assert group.spans[chosen].min() > 0, "the columns are read"


def _report(began: float, opened: float, looked_up: float) -> RankReport:
    ended = time.perf_counter()
    memory = psutil.Process().memory_full_info()
    return RankReport(
        open_s=opened - began,
        first_rows_s=looked_up - opened,
        restart_s=ended - looked_up,
        uss_mb=memory.uss / 1e6,
        pss_mb=memory.pss / 1e6,
    )


@dataclass(frozen=True)
class _NamedShards:
    """Stands for a dataset, of which the index of images needs the names of its shards only."""

    folder: Path
    shards: tuple[str, ...]


def _datasets(rows: int) -> list[CuratedDataset]:
    double: Any = _NamedShards(Path("random"), shard_names(rows))
    return [double]


def _in_process(play: Any, connection: Any, barrier: Any, *arguments: Any) -> None:
    barrier.wait()
    report = play(*arguments)
    barrier.wait()  # all have the index mapped, so that its bytes are shared when they are counted
    memory = psutil.Process().memory_full_info()
    connection.send(asdict(report) | {"uss_mb": memory.uss / 1e6, "pss_mb": memory.pss / 1e6})
    barrier.wait()


def play_ranks(title: str, play: Any, folder: Path, processes: int, ranks: int, rows: int) -> None:
    """Let processes play the ranks, print what they measured, and what follows for 512 ranks."""
    context = multiprocessing.get_context("spawn")
    barrier, pipes, running = context.Barrier(processes), [], []
    for number in range(processes):
        receiver, sender = context.Pipe()
        own = list(range(number, ranks, processes))
        running.append(context.Process(target=_in_process, args=(play, sender, barrier, folder, own, ranks, rows)))
        running[-1].start()
        pipes.append(receiver)
    reports = [pipe.recv() for pipe in pipes]
    for process in running:
        process.join()
    index_gb = sum(path.stat().st_size for path in folder.iterdir()) / GB
    click.echo(f"{title}: {processes} processes play {ranks} ranks, an index of {index_gb:.2f} GB")
    for name in reports[0]:
        values = sorted(report[name] for report in reports)
        click.echo(f"  {name:14} median {values[len(values) // 2]:10.2f}  highest {values[-1]:10.2f}")
    mapped_gb = sum(report["pss_mb"] - report["uss_mb"] for report in reports) / 1e3
    click.echo(f"  mapped by all of them together, counted once: {mapped_gb:.2f} GB")
    click.echo(json.dumps({"title": title, "index_gb": index_gb, "mapped_gb": mapped_gb, "reports": reports}))


@click.command()
@click.option("--rows", default=46_000_000, show_default=True)
@click.option("--processes", default=8, show_default=True)
@click.option("--ranks", default=64, show_default=True)
def main(rows: int, processes: int, ranks: int) -> None:
    """Print the times and the memory."""
    with tempfile.TemporaryDirectory(prefix="bench-index-") as name:
        folder = Path(name) / "samples"
        with timed(f"put the tables of {rows:,} samples together, making them up included"):
            write_samples(folder, rows)
        play_ranks("samples", play_samples, folder, processes, ranks, rows)
    with tempfile.TemporaryDirectory(prefix="bench-index-") as name:
        folder = Path(name) / "images"
        with timed(f"put the tables of {rows:,} images together, making them up included"):
            merge_images(folder, _datasets(rows), SELECTION, random_images(rows))
        play_ranks("images", play_images, folder, processes, ranks, rows)


if __name__ == "__main__":
    main()
