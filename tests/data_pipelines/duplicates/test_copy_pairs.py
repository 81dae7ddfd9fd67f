"""Pairs that tasks wrote to files give the search the same pairs as comparing the hashes in this process."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.duplicates.copy_pairs import SEARCHES, PrecomputedPairs, first_hashes, read_pairs, write_pairs
from data_pipelines.duplicates.near_hashes import Pairs, SortedHashes, search_tasks
from data_pipelines.duplicates.search import InProcessSearch

DISTANCE = 6


def pairs_of(found: list[Pairs]) -> set[tuple[int, int]]:
    return {tuple(pair) for pairs in found for pair in pairs.tolist()}


def write_analysis(path: Path, rows: list[tuple[str | None, list[int], list[int]]]) -> Path:
    schema = pa.schema(
        [("reason", pa.string()), ("phash", pa.list_(pa.uint64())), ("mirrored_phash", pa.list_(pa.uint64()))]
    )
    columns = [[row[column] for row in rows] for column in range(3)]
    pq.write_table(pa.table(columns, schema=schema), path)
    return path


def test_the_first_hashes_are_those_of_records_not_yet_dropped(tmp_path: Path) -> None:
    paths = [
        write_analysis(tmp_path / "a", [(None, [5, 9], [6, 10]), ("too_small", [7], [8]), (None, [], [])]),
        write_analysis(tmp_path / "b", [(None, [3], [4]), (None, [5], [6])]),
    ]
    plain, mirrored = first_hashes(paths)
    assert plain.tolist() == [3, 5]
    assert mirrored.tolist() == [4, 6]


def test_pairs_in_files_are_those_of_a_search_in_this_process(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 40, dtype=np.uint64)
    hashes[20:] = hashes[:20] ^ (np.uint64(1) << rng.integers(0, 64, 20, dtype=np.uint64))
    others = hashes[::-1] ^ np.uint64(0b101)
    salts, other_salts = rng.integers(0, 2, (2, 40), dtype=np.uint64)
    values = (SortedHashes(np.unique(hashes)), SortedHashes(np.unique(others)))
    found = {}
    for search in SEARCHES:
        paths = [tmp_path / f"{search}-{index}" for index, _ in enumerate(search_tasks(DISTANCE, 3))]
        for path, task in zip(paths, search_tasks(DISTANCE, 3), strict=True):
            assert write_pairs(values, search, task, DISTANCE, path) == len(read_pairs([path]))
        found[search] = read_pairs(paths)
    precomputed = PrecomputedPairs(pairs_within=found["within"], pairs_between=found["between"])
    between = pairs_of(list(precomputed.between(hashes, salts, others, other_salts, DISTANCE)))
    expected = pairs_of(list(InProcessSearch().between(hashes, salts, others, other_salts, DISTANCE)))
    is_same_salt = {(i, j) for i, j in expected if salts[i] == other_salts[j]}
    assert between == is_same_salt != set()
    within = {tuple(sorted(pair)) for pair in pairs_of(list(precomputed.within(hashes, salts, DISTANCE)))}
    bits = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    assert (
        within == {(i, j) for i, j in np.argwhere(bits <= DISTANCE).tolist() if i < j and salts[i] == salts[j]} != set()
    )
