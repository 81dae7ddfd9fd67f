"""Questions to a large ledger: audit, its page, comparison, trace and the search of a takedown; time and peak memory.

Run: python tests/benchmarks/bench_ledger.py [--rows 10000000] [--shard-rows 100000] [--distinct 0] [--only audit]
The ledger is made up, shard by shard, with all columns of a real one; ids, picture digests and hashes are random, words
and sizes are drawn. Each question is asked in a process of its own, on one thread. The comparison is of two copies that
nobody knows to be equal, so that every row of both is read. The trace asks for 4,312 digests and 4,312 look-alikes; the
takedown searches every shard for the rows of 4,312 digests, as its plan does.

With `--distinct N` only N shards are written, and the others are links to them: each is read all the same, but from
the page cache of the machine. 100 million rows: `--rows 100000000 --distinct 60`, 0.6 GiB of disk; the audit
takes 265 s of CPU and 291 MiB (two cores under a load of 20; 1,362 s by the clock).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

REASONS = ("too_small", "blank", "blurred", "caption_url", "caption_repeats", "not_an_image")
SOURCES = tuple(f"source-{number}" for number in range(20))
WORDS = np.array(["a", "red", "photo", "of", "the", "small", "old", "house", "by", "sea", "with", "two", "dogs", "and"])
SIDES = np.array([48, 96, 200, 256, 320, 512, 640, 768, 1024, 1600, 3000])
ANCHORS = ((512, 512), (384, 512), (512, 384))
LOOK_UPS = {
    "audit": "audit_dataset(folder).whole.total",
    "page": "page_of(folder)",
    "diff": "sum(diff_datasets(side, side).rows)",
    "trace": "found(folder)",
    "takedown": "held(folder)",
}
PROGRAM = """
import random, resource, sys, time
from pathlib import Path
from data_pipelines.audit.summary import audit_dataset
from data_pipelines.audit.diff import DiffSide, diff_datasets
from data_pipelines.audit.page import write_audit_page
from data_pipelines.datasets.reader import CuratedDataset
from data_pipelines.datasets.tombstones import find_held_rows
from data_pipelines.provenance.questions import Questions
from data_pipelines.provenance.sample_search import find_everywhere
rng = random.Random(1)
asked = {{rng.randbytes(32).hex() for _ in range(4312)}}
def found(folder):
    phashes = {{f"{{number}}.jpg": rng.getrandbits(64) for number in range(4312)}}
    result = find_everywhere({{"drawn": folder}}, Questions(near=10, phashes=phashes, digests=set(asked)))
    return len(result.matches["drawn"])
def held(folder):
    paths = [folder / "ledger" / f"{{name}}.parquet" for name in CuratedDataset(folder).shards]
    return sum(find_held_rows(path, frozenset(asked)).rows for path in paths)
folder = Path(sys.argv[1]); side = DiffSide(folder=folder)
def page_of(folder):
    summary = audit_dataset(folder)
    write_audit_page(folder, folder / "page.html", summary)
    return summary.whole.total
idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started, busy = time.perf_counter(), time.process_time()
rows = {question}
seconds, busy = time.perf_counter() - started, time.process_time() - busy
print(rows, seconds, busy, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, idle / 1024)
"""


def digests(rng: np.random.Generator, count: int) -> Any:
    """`count` random SHA-256 as text."""
    text = rng.bytes(32 * count).hex().encode()
    return pa.StringArray.from_buffers(count, pa.py_buffer(np.arange(0, 64 * count + 1, 64, dtype=np.int32)),
                                       pa.py_buffer(text))  # fmt: skip


def drawn(rng: np.random.Generator, values: Any, count: int) -> Any:
    return pa.DictionaryArray.from_arrays(rng.integers(0, len(values), count, np.int32), pa.array(values)).cast(
        pa.string()
    )


def shard_table(rng: np.random.Generator, name: str, count: int) -> Any:
    """A shard's ledger: three rows of four are kept."""
    from data_pipelines.curation.emit import LEDGER_SCHEMA

    kept = rng.random(count) < 0.75
    captions = pa.array([" ".join(words) for words in rng.choice(WORDS, (4096, 14))])
    places, one_each = np.arange(count), pa.array(np.arange(count + 1, dtype=np.int32))
    width, height = (rng.choice(SIDES, count) for _ in "ab")
    anchor = np.array(ANCHORS)[rng.integers(0, len(ANCHORS), count)]
    columns: dict[str, Any] = {
        "sample_id": digests(rng, count),
        "external_id": pa.array([f"{name}/{place}" for place in places]),
        "source": drawn(rng, SOURCES, count),
        "source_file": pa.array([f"{name}.jsonl"] * count),
        "source_row": places,
        "license": drawn(rng, ("CC0-1.0", "CC-BY-4.0", ""), count),
        "split": drawn(rng, ("train",) * 49 + ("val",), count),
        "task": drawn(rng, ("understanding", "generation"), count),
        "images": pa.ListArray.from_arrays(one_each, digests(rng, count)),
        "image_names": pa.ListArray.from_arrays(one_each, pa.array([f"{place}.jpg" for place in places])),
        "meta": pa.array(["{}"] * count),
        "caption": captions.take(pa.array(rng.integers(0, len(captions), count))),
        "width": width,
        "height": height,
        "format": drawn(rng, ("jpeg", "png", "webp"), count),
        "image_bytes": rng.integers(20_000, 900_000, count),
        "phash": pa.ListArray.from_arrays(one_each, pa.array(rng.integers(0, 1 << 63, count, np.uint64))),
        "verdict": np.where(kept, "keep", "drop"),
        "reason": pa.array(np.asarray(REASONS)[rng.integers(0, len(REASONS), count)], mask=kept),
        "anchor_h": anchor[:, 0],
        "anchor_w": anchor[:, 1],
        "scores": drawn(rng, [f'{{"contrast":{number / 10},"sharpness":0.5}}' for number in range(900)], count),
        "shard": pa.array([name] * count, mask=~kept),
        "row": pa.array(np.cumsum(kept) - 1, mask=~kept),
        "offset": pa.array(places * 400_000, mask=~kept),
        "span_bytes": pa.array(rng.integers(22_000, 902_000, count), mask=~kept),
    }
    return pa.table(
        [pa.array(columns[field.name]).cast(field.type) if field.name in columns else pa.nulls(count, field.type)
         for field in LEDGER_SCHEMA], schema=LEDGER_SCHEMA
    )  # fmt: skip


def write_ledger(folder: Path, rows: int, shard_rows: int, distinct: int) -> int:
    """Bytes of the ledger. After `distinct` shards, links to them; 0: all are distinct."""
    rng = np.random.default_rng(0)
    (folder / "ledger").mkdir()
    names = []
    for start in range(0, rows, shard_rows):
        number, count = start // shard_rows, min(shard_rows, rows - start)
        names.append(f"s{number:05d}")
        if distinct and number >= distinct and count == shard_rows:
            same = folder / "ledger" / f"{names[number % distinct]}.parquet"
            os.link(same, folder / "ledger" / f"{names[-1]}.parquet")
            continue
        table = shard_table(rng, names[-1], count)
        pq.write_table(table, folder / "ledger" / f"{names[-1]}.parquet", compression="zstd")
    fields = {"format": 1, "name": "drawn", "rows": rows, "counts": {}, "reasons": {}, "shards": names}
    (folder / "dataset.json").write_text(json.dumps({**fields, "anchors": ANCHORS}))
    return sum(path.stat().st_size for path in (folder / "ledger").iterdir())


@click.command()
@click.option("--rows", default=10_000_000, show_default=True)
@click.option("--shard-rows", default=100_000, show_default=True)
@click.option("--distinct", default=0, show_default=True, help="Shards that are written; 0: all.")
@click.option("--only", multiple=True, type=click.Choice(list(LOOK_UPS)), help="Ask only these questions.")
def main(rows: int, shard_rows: int, distinct: int, only: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory(prefix="illume-ledger-") as name:
        folder = Path(name)
        started = time.perf_counter()
        size = write_ledger(folder, rows, shard_rows, distinct)
        click.echo(f"{rows:,} rows, {size / 2**30:.2f} GiB, made in {time.perf_counter() - started:.0f} s")
        click.echo(f"{'':8}{'rows read':>14}{'s':>9}{'CPU s':>9}{'rows/CPU s':>13}{'peak MiB':>10}{'idle MiB':>10}")
        for question, code in LOOK_UPS.items():
            if only and question not in only:
                continue
            program = PROGRAM.format(question=code)
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
            told = subprocess.run(
                [sys.executable, "-c", program, name], capture_output=True, text=True, check=True, env=environment
            )
            read, seconds, busy, peak, idle = map(float, told.stdout.split())
            click.echo(
                f"{question:8}{read:14,.0f}{seconds:9.1f}{busy:9.1f}{read / busy:13,.0f}{peak:10,.0f}{idle:10,.0f}"
            )


if __name__ == "__main__":
    main()
