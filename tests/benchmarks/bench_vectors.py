"""The search for near embeddings compared with comparing every pair, on synthetic embeddings in one run.

Run: python tests/benchmarks/bench_vectors.py [--samples 100000] [--width 512] [--distance 0.02]
Embeddings scatter around topics and a direction that all share, as those of image encoders do, some of them twice.
"""

import time
from collections.abc import Iterator

import click
import faiss
import numpy as np

from data_pipelines.duplicates import near_vectors
from data_pipelines.duplicates.near_vectors import Integers, Vectors
from data_pipelines.duplicates.probed_vectors import probed_pairs

PER_TOPIC = 200
SHARED = 0.5  # the mean of all cosines
DECAY = 0.6  # the k-th direction is weighted by k to the power of minus this


def embeddings(count: int, width: int) -> tuple[Vectors, Integers]:
    """The embeddings, and the pairs [N, 2] that were made near each other."""
    rng = np.random.default_rng(0)
    weights_D = np.arange(1, width + 1, dtype=np.float32) ** -DECAY
    topics = rng.normal(size=(max(8, count // PER_TOPIC), width)).astype(np.float32)
    own = topics[rng.integers(len(topics), size=count)] + 0.8 * rng.standard_normal((count, width), dtype=np.float32)
    own *= weights_D
    own *= np.sqrt(1 - SHARED) / np.linalg.norm(own, axis=1, keepdims=True)
    own += np.sqrt(SHARED / width)
    chosen = rng.permutation(count)[: count // 25]
    copies, originals = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 : 2 * (len(chosen) // 2)]
    own[copies] = own[originals] + rng.normal(size=(len(copies), width)) * 0.1 / np.sqrt(width)
    return own[:, None].astype(np.float16), np.stack([originals, copies], axis=1)


def near_ones(vectors_NSD: Vectors, pairs: Integers, distance: float) -> Integers:
    """Those of the pairs that are near, as numbers `smaller index * N + larger index`."""
    left, right = (vectors_NSD[pairs[:, side], 0].astype(np.float32) for side in (0, 1))
    cosines = (left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    return numbered(len(vectors_NSD), *pairs[cosines > 1 - distance].T)


def numbered(count: int, left: Integers, right: Integers) -> Integers:
    return np.minimum(left, right).astype(np.int64) * count + np.maximum(left, right)


def every_pair(vectors_NSD: Vectors, distance: float) -> Iterator[tuple[Integers, Integers]]:
    starts = range(0, len(vectors_NSD), near_vectors.BLOCK)
    units = [vectors_NSD[start : start + near_vectors.BLOCK, 0].astype(np.float32) for start in starts]
    units = [unit / np.linalg.norm(unit, axis=1, keepdims=True) for unit in units]
    for first, unit in enumerate(units):
        for second in range(first, len(units)):
            near = unit @ units[second].T > 1 - distance
            left, right = np.nonzero(np.triu(near, 1) if first == second else near)
            yield left + starts[first], right + starts[second]


def faiss_pairs(vectors_NSD: Vectors, distance: float) -> Iterator[tuple[Integers, Integers]]:
    """The exact index of faiss; the others miss pairs."""
    units = vectors_NSD[:, 0].astype(np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(units.shape[1])
    index.add(units)
    for start in range(0, len(units), near_vectors.BLOCK):
        bounds, _, right = index.range_search(units[start : start + near_vectors.BLOCK], 1 - distance)
        left = start + np.repeat(np.arange(len(bounds) - 1), np.diff(bounds).astype(np.int64))
        yield left[left < right], right[left < right]


@click.command()
@click.option("--samples", default=100_000, show_default=True)
@click.option("--width", default=512, show_default=True)
@click.option("--distance", default=0.02, show_default=True, help="1 - cosine.")
@click.option("--plain/--no-plain", default=True, help="Compare every pair too, also by faiss.")
@click.option("--probes", default=4, show_default=True, help="Cells that each sample is compared with.")
@click.option("--exact/--no-exact", default=True, help="Search by all cells that may hold near ones, too.")
def main(samples: int, width: int, distance: float, plain: bool, probes: int, exact: bool) -> None:
    vectors_NSD, planted = embeddings(samples, width)
    wanted = near_ones(vectors_NSD, planted, distance)
    click.echo(f"{samples:,} embeddings of {width} numbers, pairs less than {distance:g} of cosine apart")
    counts = {}
    plain_searches = {"every pair": every_pair, "faiss": faiss_pairs}
    by_cells = {"by cells": near_vectors.near_pairs} if exact else {}
    for name, search in {**by_cells, **(plain_searches if plain else {})}.items():
        began_s = time.perf_counter()
        counts[name] = sum(len(left) for left, _ in search(vectors_NSD, distance))
        click.echo(f"  {name:12} {time.perf_counter() - began_s:8.1f} s   {counts[name]:,} pairs")
    if len(set(counts.values())) > 1:
        raise SystemExit("the searches differ")
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    found = np.concatenate(
        [np.zeros(0, np.int64), *(numbered(samples, *pair) for pair in probed_pairs(vectors_NSD, distance, probes))]
    )
    taken_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    recall = f", recall {len(found) / max(1, next(iter(counts.values()))):.4f}" if counts else ""
    of_planted = np.isin(wanted, found).mean()
    click.echo(
        f"  {probes} probes     {taken_s:8.1f} s ({cpu_s:.0f} s of CPU)   {len(found):,} pairs{recall}; of "
        f"{len(wanted):,} planted ones {of_planted:.4f}"
    )


if __name__ == "__main__":
    main()
