"""Finds the shards of records that ingest stages wrote, as units of work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.artifact import JSON, Artifact
from orchestrator.errors import PrecheckError
from orchestrator.shards import Shard


@dataclass(frozen=True, kw_only=True)
class IngestedShard:
    """One shard of an ingest stage's artifact."""

    folder: str  # of the artifact
    shard: str  # name
    num_rows: int
    contents: Mapping[str, JSON]  # SHA-256 of its records and of the tar with its images


def all_rows_shard(name: str, source: IngestedShard) -> Shard:
    """A unit of work for all rows of an ingested shard."""
    return Shard(
        name=name,
        items=tuple(range(source.num_rows)),
        identity=dict(source.contents),
        work={"records": source.folder, "shard": source.shard},
    )


def ingested_shards(inputs: Sequence[Artifact]) -> dict[str, IngestedShard]:
    """All shards of the artifacts by name, sorted. Raises: PrecheckError if two have the same name."""
    from data_pipelines.datasets.ingested_reader import record_shards

    found: dict[str, IngestedShard] = {}
    for artifact in inputs:
        digests = {entry.path: entry.sha256 for entry in artifact.manifest.files}
        for name in record_shards(artifact.path):
            if name in found:
                raise PrecheckError(
                    f"two inputs of this stage both have a shard {name!r}; give their sources different file names"
                )
            records, images = f"records/{name}.parquet", f"images/{name}.tar"
            found[name] = IngestedShard(
                folder=str(artifact.path),
                shard=name,
                num_rows=_num_rows(artifact.path / records),
                contents={"records": digests[records], "images": digests[images]},
            )
    return dict(sorted(found.items()))


def _num_rows(path: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)
