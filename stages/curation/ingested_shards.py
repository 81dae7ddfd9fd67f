"""Finds the shards of records that ingest stages wrote, as units of work."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from orchestrator.artifact import JSON, Artifact
from orchestrator.errors import PrecheckError
from orchestrator.shards import Shard

PARALLEL_FOOTERS = 16  # requests of a remote store


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
    found: dict[str, IngestedShard] = {}
    for artifact in inputs:
        digests = {entry.path: entry.sha256 for entry in artifact.manifest.files}
        names = sorted(map(_shard_name, filter(_is_records, digests)))
        for name, num_rows in zip(names, _num_rows(artifact, names), strict=True):
            if name in found:
                raise PrecheckError(
                    f"two inputs of this stage both have a shard {name!r}; give their sources different file names"
                )
            records, images = f"records/{name}.parquet", f"images/{name}.tar"
            found[name] = IngestedShard(
                folder=str(artifact.path),
                shard=name,
                num_rows=num_rows,
                contents={"records": digests[records], "images": digests[images]},
            )
    return dict(sorted(found.items()))


def _is_records(path: str) -> bool:
    folder, _, name = path.partition("/")
    return folder == "records" and "/" not in name and name.endswith(".parquet")


def _shard_name(path: str) -> str:
    return path.removeprefix("records/").removesuffix(".parquet")


def _num_rows(artifact: Artifact, names: Sequence[str]) -> list[int]:
    from data_pipelines.datasets.ingested_reader import num_records

    with ThreadPoolExecutor(PARALLEL_FOOTERS) as threads:
        return list(threads.map(lambda name: num_records(artifact.path, name), names))
