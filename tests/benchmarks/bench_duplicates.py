"""The search for copies among synthetic hashes with planted near copies and mirror images: time, memory, recall.

Run: python tests/benchmarks/bench_duplicates.py [--hashes 1000000] [--planted 1000] [--distance 10]
Every planted pair must be found, also those whose differing bits are distributed worst for the search.
With --tasks N the search among 20 million hashes and more is measured as curation does it: divided into the tasks of
its map, of which N, evenly chosen, are run by --workers processes; all tasks are alike.
"""

import multiprocessing
import resource
import time

import click
import numpy as np

from data_pipelines.duplicates.near_hashes import (
    Hashes,
    SearchTask,
    SortedHashes,
    near_pairs,
    near_pairs_between,
    search_tasks,
    task_pairs,
)
from stages.curation.copy_search import num_slices


def changed(hashes: Hashes, distance: int, rng: np.random.Generator) -> Hashes:
    """The hashes with up to `distance` bits flipped in each, evenly over their four parts for the first half."""
    found = hashes.copy()
    for index in range(len(found)):
        spread = [16 * (bit % 4) + int(rng.integers(16)) for bit in range(distance)]
        chosen = set(spread) if index < len(found) // 2 else set(rng.choice(64, distance, replace=False).tolist())
        found[index] ^= np.uint64(sum(1 << bit for bit in chosen))
    return found


SEARCHED: list[SortedHashes] = []  # of this process, as a worker of the map keeps them


def run_task(task: SearchTask, distance: int) -> tuple[float, float]:
    """Seconds of CPU of sorting by the task's part, once for many tasks, and of the task itself."""
    times = [time.process_time()]
    SEARCHED[0].buckets(task.part)
    times.append(time.process_time())
    for _ in task_pairs(SEARCHED[0], SEARCHED[0], task, distance):
        pass
    times.append(time.process_time())
    return times[1] - times[0], times[2] - times[1]


def run_tasks(num_hashes: int, distance: int, num_tasks: int, workers: int) -> None:
    hashes = np.sort(np.random.default_rng(0).integers(0, 2**64, num_hashes, dtype=np.uint64))
    tasks = search_tasks(distance, num_slices(num_hashes))
    num_tasks = min(num_tasks, len(tasks))
    chosen = [tasks[(2 * number + 1) * len(tasks) // (2 * num_tasks)] for number in range(num_tasks)]
    SEARCHED[:] = [SortedHashes(hashes)]
    began_s = time.perf_counter()
    with multiprocessing.get_context("fork").Pool(workers) as pool:  # the hashes are shared, as copies on write
        found = pool.starmap(run_task, [(task, distance) for task in chosen], chunksize=1)
    taken_s = time.perf_counter() - began_s
    sorting_s, searching_s = max(sorting for sorting, _ in found), sum(seconds for _, seconds in found) / num_tasks
    whole_s = workers * len({task.part for task in tasks}) * sorting_s + len(tasks) * searching_s
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    click.echo(
        f"{num_hashes:,} hashes, {distance} bits, {num_tasks} of {len(tasks)} tasks by {workers} processes: "
        f"{taken_s:.1f} s, {searching_s:.2f} s of CPU each, sorting by a part {sorting_s:.1f} s, peak {peak} MB; all "
        f"of them: {whole_s / workers / 60:.1f} min on {workers} cores"
    )


@click.command()
@click.option("--hashes", "num_hashes", default=1_000_000, show_default=True)
@click.option("--planted", default=1000, show_default=True, help="Near copies, and as many mirror images.")
@click.option("--distance", default=10, show_default=True, help="Bits in which they differ.")
@click.option("--tasks", "num_tasks", default=0, help="Measure so many tasks of the map.")
@click.option("--workers", default=2, show_default=True, help="Processes, with --tasks.")
def main(num_hashes: int, planted: int, distance: int, num_tasks: int, workers: int) -> None:
    if num_tasks:
        run_tasks(num_hashes, distance, num_tasks, workers)
        return
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, num_hashes, dtype=np.uint64)
    mirrored = rng.integers(0, 2**64, num_hashes, dtype=np.uint64)  # unrelated to the hashes
    copies = changed(hashes[:planted], distance, rng)
    hashes[-planted:] = copies
    mirrored[-planted:] = changed(hashes[planted : 2 * planted], distance, rng)
    wanted = {
        "near copies": {(index, num_hashes - planted + index) for index in range(planted)},
        "mirror images": {(planted + index, num_hashes - planted + index) for index in range(planted)},
    }
    searches = {
        "near copies": near_pairs(hashes, distance),
        "mirror images": near_pairs_between(hashes, mirrored, distance),
    }
    click.echo(f"{num_hashes:,} hashes, {planted:,} planted pairs of each kind, {distance} bits, one core")
    for name, search in searches.items():
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        found = {(min(pair), max(pair)) for pairs in search for pair in pairs.tolist()}
        taken_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
        recall = len(wanted[name] & found) / planted
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        click.echo(f"  {name:14} {taken_s:7.1f} s ({cpu_s:.1f} s of CPU)   peak {peak} MB   recall {recall:.4f}")
        if recall < 1:
            raise SystemExit(f"{name}: {planted - len(wanted[name] & found)} planted pairs were missed")


if __name__ == "__main__":
    main()
