"""Compares the pictures of a large dataset with one another on many workers, before curation decides on copies."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.curation.config import CurationConfig
from orchestrator.artifact import JSON
from orchestrator.shards import Shard, ShardInput, ShardOutcome, ShardRecord
from orchestrator.stage import StageContext

if TYPE_CHECKING:
    from data_pipelines.duplicates.search import PairSearch

SEARCHED_APART = 1 << 19  # records; fewer are compared in the driver within a minute
RECORDS_IN_A_SLICE = 1 << 20  # so that a piece takes some ten seconds; the work grows with their square
MAX_SLICES = 4096


@dataclass(frozen=True, kw_only=True)
class PairsWorker:
    """Makes pieces of the search. They have no items: none can be left out, so one that fails fails the map."""

    analyses: tuple[str, ...]  # files
    distance: int

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        from data_pipelines.duplicates.copy_pairs import first_hashes, write_pairs
        from data_pipelines.duplicates.near_hashes import Piece

        hashes = first_hashes(Path(path) for path in self.analyses)

        def run(shard: ShardInput) -> ShardOutcome:
            part, first, stop = (int(str(shard.work[key])) for key in ("part", "first_key", "stop_key"))
            piece = Piece(part=part, first_key=first, stop_key=stop)
            output = shard.output / f"{shard.name}.parquet"
            return ShardOutcome(rows=write_pairs(hashes, str(shard.work["search"]), piece, self.distance, output))

        return run


def search_for_copies(
    config: CurationConfig, context: StageContext, analyses: Mapping[str, Path], digests: Mapping[str, str], rows: int
) -> "PairSearch":
    """How `find_duplicates` finds near pictures among `rows` records; a map of its own makes it where they are many.

    `analyses` and `digests`: of each shard the file of `judge_shard` and its SHA-256.
    """
    from data_pipelines.duplicates.copy_pairs import SEARCHES, FoundPairs, read_pairs
    from data_pipelines.duplicates.near_hashes import pieces
    from data_pipelines.duplicates.search import PLAIN_SEARCH

    distance = config.phash_distance
    if rows < SEARCHED_APART or not config.near_duplicates or config.duplicate_scope == "off":
        return PLAIN_SEARCH
    slices = min(MAX_SLICES, -(-(rows**2) // RECORDS_IN_A_SLICE**2))
    shards = []
    for search in SEARCHES if config.mirrored_pictures else SEARCHES[:1]:
        for piece in pieces(distance, slices):
            name = f"{search}-{piece.part}-{piece.first_key:05}-{piece.stop_key:05}"
            what: dict[str, JSON] = {"search": search, **vars(piece)}
            shards.append(Shard(name=name, items=(), identity=what, work=what))
    worker = PairsWorker(analyses=tuple(str(analyses[name]) for name in sorted(analyses)), distance=distance)
    identity: dict[str, JSON] = {"analyses": [digests[name] for name in sorted(digests)], "distance": distance}
    made = context.map_shards(worker, shards, label="compare", identity=identity, unit="pieces")
    within, between = (read_pairs(_files(made, search)) for search in SEARCHES)
    return FoundPairs(pairs_within=within, pairs_between=between)


def _files(made: Sequence[ShardRecord], search: str) -> list[Path]:
    return [record.path / f"{record.shard}.parquet" for record in made if record.shard.startswith(f"{search}-")]
