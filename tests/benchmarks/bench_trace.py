"""The two halves of a trace at scale: searching ledgers for images, and looking up samples in a training order.

Run: python tests/benchmarks/bench_trace.py [--samples 100000000] [--asked 1000000] [--rows 10000000] [--hashes 4312]
The full size takes 4.1 GB below the temporary folder for the order and 2 GB for the ledgers. All data are random, and
results are checked: every sample is trained once in an epoch, every planted look-alike is found.
"""

import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.curation.emit import LEDGER_SCHEMA
from data_pipelines.provenance.questions import Questions
from data_pipelines.provenance.sample_search import find_everywhere
from data_pipelines.training_data.config import LoaderConfig, MixturePart
from data_pipelines.training_data.index import DROPPABLE, IndexedPart, TrainingIndex
from data_pipelines.training_data.order import TrainingOrder

CHUNK = 1 << 20
ROW_TOKENS, ROWS_PER_STEP = 4096, 1024
LEDGER_ROWS = 200_000  # of one shard


@contextmanager
def timed(label: str) -> Iterator[None]:
    began, began_cpu = time.perf_counter(), time.process_time()
    yield
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    cpu_s = time.process_time() - began_cpu
    click.echo(
        f"  {time.perf_counter() - began:8.2f} s, {cpu_s:8.2f} s of CPU  {label} (peak {peak_gb:.1f} GB resident)"
    )


def mapped(path: Path, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
    return np.memmap(path, dtype=dtype, mode="r", shape=shape)


def make_index(folder: Path, size: int) -> TrainingIndex:
    """An index of random ids and lengths; columns that only the reading of samples needs are empty."""
    rng = np.random.default_rng(0)
    with (folder / "ids").open("wb") as ids, (folder / "lengths").open("wb") as lengths:
        for start in range(0, size, CHUNK):
            count = min(CHUNK, size - start)
            ids.write(rng.bytes(32 * count))
            tokens = rng.integers(100, 1500, count, dtype=np.int32)
            lengths.write(np.stack([tokens, tokens // 2], axis=1).tobytes())
    none = np.zeros(0, dtype=np.int64)
    part = IndexedPart(
        shard_names=(),
        digest="0" * 64,
        ids=mapped(folder / "ids", "u1", (size, 32)),
        shards=none.astype(np.int32),
        offsets=none,
        spans=none,
        token_rows=none,
        flags=np.full(size, DROPPABLE, dtype=np.uint8),
        lengths=mapped(folder / "lengths", "<i4", (size, 2)),
    )
    return TrainingIndex(parts=(part,), tokenizer=None, dropped={}, held_out=0, digest="0" * 64)


def bench_order(size: int, num_asked: int, dropout: float, share: float) -> None:
    click.echo(f"order: {num_asked:,} of {size:,} samples, {share:.0%} of an epoch, condition dropout {dropout}")
    config = LoaderConfig(
        parts=(MixturePart(tasks=("text",), weight=1.0),),
        seed=1,
        row_tokens=ROW_TOKENS,
        rows_per_step=ROWS_PER_STEP,
        condition_dropout=dropout,
    )
    with tempfile.TemporaryDirectory(prefix="bench-trace-") as name:
        index = make_index(Path(name), size)
        order = TrainingOrder(index, config)
        mean = float(index.parts[0].lengths[:CHUNK, 0].mean())
        steps = int(size * mean * share / ROW_TOKENS / ROWS_PER_STEP)
        chosen = np.random.default_rng(1).choice(size, num_asked, replace=False)
        asked = np.array(index.parts[0].ids[np.sort(chosen)])
        with timed(f"where each of the rows before step {steps:,} begins: one pass over the lengths per order"):
            order.position(steps)
        for turn in ("first", "second"):
            with timed(f"look-ups, {turn} time"):
                which, found = order.exposures(asked, before_step=steps)
    assert len(np.unique(which)) == len(which), "a sample is seen once in an epoch"
    assert found.max() < steps
    click.echo(f"  {len(which):,} were trained before step {steps:,}")


def write_ledgers(folder: Path, num_rows: int, planted: npt.NDArray[np.uint64]) -> None:
    """Write ledgers of random images, with those of `planted` spread among them."""
    rng = np.random.default_rng(2)
    (folder / "ledger").mkdir(parents=True)
    names = []
    for first in range(0, num_rows, LEDGER_ROWS):
        count = min(LEDGER_ROWS, num_rows - first)
        hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
        is_planted = np.arange(first, first + count) % (num_rows // len(planted)) == 0
        numbers = np.flatnonzero(is_planted) + first
        hashes[is_planted] = planted[np.minimum(numbers // (num_rows // len(planted)), len(planted) - 1)]
        digests = rng.bytes(64 * count).hex()
        texts = [digests[start : start + 64] for start in range(0, 128 * count, 64)]
        offsets = pa.array(np.arange(count + 1, dtype=np.int32))
        columns: dict[str, pa.Array] = {
            "sample_id": pa.array(texts[:count]),
            "images": pa.ListArray.from_arrays(offsets, pa.array(texts[count:])),
            "phash": pa.ListArray.from_arrays(offsets, pa.array(hashes)),
            "source_row": pa.array(np.arange(first, first + count)),
            "verdict": pa.array(["keep"] * count),
        }
        arrays = [columns.get(field.name, pa.nulls(count, field.type)) for field in LEDGER_SCHEMA]
        names.append(f"s-{len(names):05d}")
        table = pa.Table.from_arrays(arrays, schema=LEDGER_SCHEMA)
        pq.write_table(table, folder / "ledger" / f"{names[-1]}.parquet", compression="zstd", row_group_size=32_768)
    quoted = ", ".join(f'"{name}"' for name in names)
    (folder / "dataset.json").write_text(f'{{"format": 1, "shards": [{quoted}], "anchors": []}}')


def bench_ledgers(num_rows: int, num_hashes: int, near: int) -> None:
    click.echo(f"ledgers: {num_hashes:,} images among {num_rows:,} rows, look-alikes up to {near} of 64 bits")
    rng = np.random.default_rng(3)
    asked = rng.integers(0, 2**64, num_hashes, dtype=np.uint64)
    flips = np.array([sum(1 << int(bit) for bit in rng.choice(64, near, replace=False)) for _ in asked], np.uint64)
    with tempfile.TemporaryDirectory(prefix="bench-trace-") as name:
        folder = Path(name) / "dataset"
        with timed("writing the ledgers, not part of a trace"):
            write_ledgers(folder, num_rows, asked ^ flips)
        digests = {rng.bytes(32).hex() for _ in asked}
        questions = Questions(near=near, phashes={f"{n}.jpg": int(phash) for n, phash in enumerate(asked)})
        questions.digests |= digests
        with timed("all look-alikes, digests and copies of both"):
            found = find_everywhere({"dataset": folder}, questions)
    assert set(found.unanswered) == digests, "every planted look-alike is found"
    click.echo(f"  {len(found.matches['dataset']):,} rows match")


@click.command()
@click.option("--samples", default=100_000_000, show_default=True, help="0: skip this half.")
@click.option("--asked", default=1_000_000, show_default=True)
@click.option("--dropout", default=0.1, show_default=True)
@click.option("--share", default=0.9, show_default=True, help="Of an epoch that was trained.")
@click.option("--rows", default=10_000_000, show_default=True, help="0: skip this half.")
@click.option("--hashes", default=4312, show_default=True)
@click.option("--near", default=10, show_default=True)
def main(samples: int, asked: int, dropout: float, share: float, rows: int, hashes: int, near: int) -> None:
    """Print the times."""
    if rows:
        bench_ledgers(rows, hashes, near)
    if samples:
        bench_order(samples, asked, dropout, share)


if __name__ == "__main__":
    main()
