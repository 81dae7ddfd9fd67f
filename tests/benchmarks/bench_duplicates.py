"""The search for copies among synthetic hashes with planted near copies and mirror images: time, memory, recall.

Run: python tests/benchmarks/bench_duplicates.py [--hashes 1000000] [--planted 1000] [--distance 10]
Every planted pair must be found, also those whose differing bits are distributed worst for the search.
"""

import resource
import time

import click
import numpy as np

from data_pipelines.duplicates.near_hashes import Hashes, near_pairs, near_pairs_between


def changed(hashes: Hashes, distance: int, rng: np.random.Generator) -> Hashes:
    """The hashes with up to `distance` bits flipped in each, evenly over their four parts for the first half."""
    found = hashes.copy()
    for index in range(len(found)):
        spread = [16 * (bit % 4) + int(rng.integers(16)) for bit in range(distance)]
        chosen = set(spread) if index < len(found) // 2 else set(rng.choice(64, distance, replace=False).tolist())
        found[index] ^= np.uint64(sum(1 << bit for bit in chosen))
    return found


@click.command()
@click.option("--hashes", "num_hashes", default=1_000_000, show_default=True)
@click.option("--planted", default=1000, show_default=True, help="Near copies, and as many mirror images.")
@click.option("--distance", default=10, show_default=True, help="Bits in which they differ.")
def main(num_hashes: int, planted: int, distance: int) -> None:
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
