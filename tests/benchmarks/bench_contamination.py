"""The search for evaluation images in synthetic training data with planted ones: time, memory, recall.

Run: python tests/benchmarks/bench_contamination.py [--training 1000000] [--evaluation 20000] [--distance 10]
Analyses are written first, as curation writes them, 10,000 images in each; reading them is part of the time.
"""

import resource
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.curation.config import CurationConfig
from data_pipelines.curation.contamination import EvaluationImages, EvaluationShard, find_contaminated
from data_pipelines.curation.judge import ANALYSIS_SCHEMA
from tests.benchmarks.bench_duplicates import changed

ROWS_PER_SHARD = 10_000
GREY = bytes([120]) * 192


def write_analysis(path: Path, first: int, hashes: np.ndarray, mirrored: np.ndarray) -> None:
    names = [f"{path.stem}/{first + row}" for row in range(len(hashes))]
    lists = {"images": names, "pixel_digest": names, "miniature": [GREY] * len(names)}
    kinds = {name: ANALYSIS_SCHEMA.field(name).type for name in lists}
    columns = {name: pa.array([[value] for value in values], kinds[name]) for name, values in lists.items()}
    columns |= {"row": pa.array(np.arange(len(names))), "reason": pa.nulls(len(names), pa.string())}
    for name, values in (("phash", hashes), ("mirrored_phash", mirrored)):
        columns[name] = pa.ListArray.from_arrays(pa.array(np.arange(len(names) + 1), pa.int32()), pa.array(values))
    pq.write_table(pa.table(columns), path, compression="zstd")


@click.command()
@click.option("--training", "num_training", default=1_000_000, show_default=True)
@click.option("--evaluation", "num_evaluation", default=20_000, show_default=True)
@click.option("--planted", default=1000, show_default=True, help="Near copies, and as many mirror images.")
@click.option("--distance", default=10, show_default=True, help="Bits in which they differ.")
def main(num_training: int, num_evaluation: int, planted: int, distance: int) -> None:
    rng = np.random.default_rng(0)
    known = rng.integers(0, 2**64, num_evaluation, dtype=np.uint64)
    hashes, mirrored = rng.integers(0, 2**64, (2, num_training), dtype=np.uint64)
    planted_rows = rng.choice(num_training, 2 * planted, replace=False)
    hashes[planted_rows[:planted]] = changed(known[:planted], distance, rng)
    mirrored[planted_rows[planted:]] = changed(known[planted : 2 * planted], distance, rng)
    with tempfile.TemporaryDirectory() as folder:
        analyses = {}
        for first in range(0, num_training, ROWS_PER_SHARD):
            path = Path(folder) / f"s{first:010}.parquet"
            part = slice(first, first + ROWS_PER_SHARD)
            write_analysis(path, first, hashes[part], mirrored[part])
            analyses[path.stem] = path
        shard = EvaluationShard(records=Path(folder) / "records.parquet", analysis=Path(folder) / "analysis.parquet")
        write_analysis(shard.analysis, 0, known, known)
        names = [f"bench/{number}" for number in range(num_evaluation)]
        records = {"source": ["bench"] * num_evaluation, "sample_id": names, "external_id": names}
        records |= {"images": [[name] for name in names], "reject": pa.nulls(num_evaluation, pa.string())}
        pq.write_table(pa.table(records), shard.records)
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        evaluation = EvaluationImages([shard])
        read_s = time.perf_counter() - began_s
        verdicts = find_contaminated(analyses, evaluation, CurationConfig(anchors=((64, 64),), phash_distance=distance))
        taken_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    found = {int(name[1:]) + verdict.row for name, rows in verdicts.items() for verdict in rows}
    recall = len(found & set(planted_rows.tolist())) / (2 * planted)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    click.echo(
        f"{num_training:,} training and {num_evaluation:,} evaluation images, {2 * planted:,} planted, one core: "
        f"{taken_s:.1f} s ({cpu_s:.1f} s of CPU, {read_s:.1f} s to read the sets)   peak {peak} MB   "
        f"recall {recall:.4f}"
    )
    if recall < 1:
        raise SystemExit(f"{round(2 * planted * (1 - recall))} planted images were missed")


if __name__ == "__main__":
    main()
