"""Finds the records that are copies of others, over all shards, and their verdicts."""

import itertools
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from data_pipelines.curation.config import CurationConfig, decode_limits
from data_pipelines.curation.drawing_look import Answer, DrawingLook, look_at
from data_pipelines.datasets.ingested_reader import shard_rows
from data_pipelines.duplicates.candidates import Candidate, Candidates
from data_pipelines.duplicates.search import IN_PROCESS_SEARCH, PairSearch, SimilarityLimits, find_copies
from data_pipelines.duplicates.semantic import add_semantic_copies
from data_pipelines.scoring.tables import read_embeddings

DUPLICATE_COLUMNS = ["row", "sample_id", "split", "task", "text_digest", "images", "reason", "phash", "mirrored_phash",
                     "pixel_digest", "miniature", "scores"]  # fmt: skip
NO_ROWS: Mapping[str, Collection[int]] = MappingProxyType({})
NO_FOLDERS: Mapping[str, Path] = MappingProxyType({})
NO_TABLES: Mapping[str, Sequence[Path]] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class CopyVerdict:
    """A row of a shard that repeats a sample which is kept."""

    row: int
    verdict: str  # "duplicate", "near_duplicate" or "mirrored"
    reason: str
    duplicate_of: str  # sample id of the kept one


def find_duplicates(
    analyses: Mapping[str, Path],
    config: CurationConfig,
    *,
    without: Mapping[str, Collection[int]] = NO_ROWS,
    scores: Mapping[str, Sequence[Path]] = NO_TABLES,
    search: PairSearch = IN_PROCESS_SEARCH,
    records: Mapping[str, Path] = NO_FOLDERS,
    answer: Answer | None = None,
) -> dict[str, list[CopyVerdict]]:
    """For each shard the rows that repeat a sample of this or another shard.

    `analyses` maps shard names to the files of `judge_shard`, `scores` to their tables of scores. Of several copies the
    first is kept. Samples of the val split come before all others (so no kept training sample repeats a validation
    sample), then the order is that of the shards' names. Of groups of images that mirror each other the one with most
    copies is kept (see `find_copies`). `without`: rows by shard that are dropped for another reason; no row is a copy
    of one of them. `records`: folders of the shards whose drawn images are looked at closely; `answer`: looks at them,
    None: in this process.
    """
    verdicts: dict[str, list[CopyVerdict]] = {name: [] for name in analyses}
    if config.duplicate_scope == "off":
        return verdicts
    names = sorted(analyses)
    shards, rows = array("i"), array("q")  # of each candidate: index into `names`, row
    look = DrawingLook()

    def candidates() -> Iterator[Candidate]:
        for held_out, (shard, name) in itertools.product((True, False), enumerate(names)):
            for row in shard_rows(analyses[name], DUPLICATE_COLUMNS):
                is_candidate = row["reason"] is None and (row["split"] == "val") == held_out
                if is_candidate and row["row"] not in without.get(name, ()):
                    if name in records:
                        look.add(len(shards), name, row)
                    shards.append(shard)
                    rows.append(row["row"])
                    yield _candidate(row, config)

    ordered = Candidates(candidates())
    limits = SimilarityLimits(phash_distance=config.phash_distance, colour_distance=config.colour_distance)
    near = limits if config.near_duplicates else None
    looked = answer or (lambda questions: look_at(questions, records, decode_limits(config)))
    copies = find_copies(ordered, near=near, search=search, look=look)
    while look.settle(looked):
        copies = find_copies(ordered, near=near, search=search, look=look)
    if config.semantic_distance is not None:
        by_shard = {name: read_embeddings(files) for name, files in scores.items()}
        embeddings = [by_shard.get(names[shard], {}).get(row) for shard, row in zip(shards, rows, strict=True)]
        copies = add_semantic_copies(
            ordered, copies, embeddings, config.semantic_distance, probes=config.semantic_probes
        )
    for copy in copies:
        original = ordered.sample_id(copy.original)
        verdicts[names[shards[copy.index]]].append(
            CopyVerdict(row=rows[copy.index], verdict=copy.verdict, reason=copy.reason, duplicate_of=original)
        )
    return {name: sorted(found, key=lambda copy: copy.row) for name, found in verdicts.items()}


def _candidate(row: Mapping[str, Any], config: CurationConfig) -> Candidate:
    partitions = {"image": "", "image_in_task": row["task"], "sample": f"{row['task']}/{row['text_digest']}"}
    return Candidate(
        sample_id=row["sample_id"],
        partition=partitions[config.duplicate_scope],
        file_digests=tuple(row["images"]),
        pixel_digests=tuple(row["pixel_digest"]),
        phashes=tuple(row["phash"]),
        miniatures=tuple(row["miniature"]),
        mirrored_phashes=tuple(row["mirrored_phash"]) if config.mirrored_images else (),
        held_out=row["split"] == "val",
    )
