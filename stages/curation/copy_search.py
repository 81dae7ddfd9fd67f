"""Compares the images of a large dataset with one another on many workers, before curation decides on copies."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.curation.config import CurationConfig
from orchestrator.artifact import JSON
from orchestrator.identity import semantic_json
from orchestrator.shards import Shard, ShardInput, ShardOutcome, ShardRecord
from orchestrator.stage import StageContext

if TYPE_CHECKING:
    from data_pipelines.duplicates.search import PairSearch

MIN_RECORDS_FOR_MAP = 1 << 19  # fewer are compared in the driver within a minute
RECORDS_PER_SLICE = 1 << 20  # so that a search task takes some ten seconds; the work grows with the square of it
MAX_SLICES = 4096


@dataclass(frozen=True, kw_only=True)
class PairSearchWorker:
    """Runs search tasks. They have no items to quarantine, so a task that fails makes the map fail."""

    analyses: tuple[str, ...]  # files
    distance: int  # of perceptual hashes, at most

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        from data_pipelines.duplicates.copy_pairs import first_hashes, write_pairs
        from data_pipelines.duplicates.near_hashes import SearchTask, SortedHashes

        plain, mirrored = first_hashes(Path(path) for path in self.analyses)
        hashes = SortedHashes(plain), SortedHashes(mirrored)

        def run(shard: ShardInput) -> ShardOutcome:
            part, first, stop = (int(str(shard.work[key])) for key in ("part", "first_key", "stop_key"))
            task = SearchTask(part=part, first_key=first, stop_key=stop)
            output = shard.output / f"{shard.name}.parquet"
            return ShardOutcome(rows=write_pairs(hashes, str(shard.work["search"]), task, self.distance, output))

        return run


def num_slices(rows: int) -> int:
    """The ranges of keys into which each part of a search among so many records is divided."""
    return min(MAX_SLICES, -(-(rows**2) // RECORDS_PER_SLICE**2))


def search_for_copies(
    config: CurationConfig,
    context: StageContext,
    analyses: Mapping[str, Path],
    digests: Mapping[str, str],
    rows: int,
    reads: Sequence[ShardRecord] = (),
) -> "PairSearch":
    """The search by which `find_duplicates` finds near images among `rows` records; for many records, made by a map.

    `analyses` and `digests`: for each shard the file written by `judge_shard`, and its SHA-256. `reads`: the records
    that hold these files.
    """
    from data_pipelines.duplicates.copy_pairs import SEARCHES, PrecomputedPairs, read_pairs
    from data_pipelines.duplicates.near_hashes import search_tasks
    from data_pipelines.duplicates.search import IN_PROCESS_SEARCH

    distance = config.phash_distance
    if rows < MIN_RECORDS_FOR_MAP or not config.near_duplicates or config.duplicate_scope == "off":
        return IN_PROCESS_SEARCH
    shards = []
    for search in SEARCHES if config.mirrored_images else SEARCHES[:1]:
        for task in search_tasks(distance, num_slices(rows)):
            name = f"{search}-{task.part}-{task.first_key:05}-{task.stop_key:05}"
            identity: dict[str, JSON] = {"search": search, "task": semantic_json(task)}
            work: dict[str, JSON] = {"search": search, **vars(task)}
            shards.append(Shard(name=name, items=(), identity=identity, work=work, reads=tuple(reads)))
    worker = PairSearchWorker(analyses=tuple(str(analyses[name]) for name in sorted(analyses)), distance=distance)
    compared: dict[str, JSON] = {"analyses": [digests[name] for name in sorted(digests)], "distance": distance}
    records = context.map_shards(worker, shards, label="compare", identity=compared, unit="pieces")
    within, between = (read_pairs(_files(records, search)) for search in SEARCHES)
    return PrecomputedPairs(pairs_within=within, pairs_between=between)


def _files(records: Sequence[ShardRecord], search: str) -> list[Path]:
    return [record.path / f"{record.shard}.parquet" for record in records if record.shard.startswith(f"{search}-")]
