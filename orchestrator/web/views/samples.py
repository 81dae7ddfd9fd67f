"""Samples of datasets, read where they lie when they are shown: what was taken down is not shown from a copy."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.errors import OrchestratorError
from orchestrator.history.made_artifacts import made_artifacts
from orchestrator.web.page import NotFoundError
from orchestrator.web.service import Service
from orchestrator.web.views.datasets import key_of, stage_kinds_of

if TYPE_CHECKING:
    from data_pipelines.datasets.reader import CuratedDataset
    from data_pipelines.datasets.samples import Sample

MAX_SPAN_BYTES = 256 << 20


def open_dataset(service: Service, fingerprint: str) -> "CuratedDataset":
    """Raises: NotFoundError: no run made it, or it is not in the store (any more)."""
    from data_pipelines.datasets.reader import CuratedDataset, DatasetError  # late: loads what decodes images

    workspace = service.workspace()
    kinds = stage_kinds_of(service.settings.kinds)
    made = made_artifacts(workspace.database, kinds, text=fingerprint, limit=1)
    if not made or made[0].fingerprint != fingerprint:
        raise NotFoundError(f"dataset {fingerprint[:12]}: not found")
    try:
        return CuratedDataset(workspace.artifacts.open(key_of(made[0])).path)
    except (DatasetError, OrchestratorError, OSError) as error:
        raise NotFoundError(f"dataset {fingerprint[:12]}: cannot be read: {error}") from error


def read_sample(dataset: "CuratedDataset", shard: str, offset: int, span: int) -> "Sample":
    """Its texts. Raises: NotFoundError: there is no such sample, or its shard is damaged."""
    with _as_not_found(dataset, shard, span):
        return dataset.read_sample(shard, offset, span)


def read_image(dataset: "CuratedDataset", shard: str, offset: int, span: int, slot: int) -> bytes:
    """An image of a sample as it is stored. Raises: NotFoundError: as `read_sample`."""
    with _as_not_found(dataset, shard, span):
        return dataset.read(shard, offset, span).image_bytes(slot)


@contextmanager
def _as_not_found(dataset: "CuratedDataset", shard: str, span: int) -> Iterator[None]:
    from data_pipelines.datasets.reader import DatasetError
    from data_pipelines.datasets.samples import SampleError

    if shard not in dataset.shards or not 0 < span <= MAX_SPAN_BYTES:
        raise NotFoundError(f"shard {shard!r}: the dataset has none of this name, or the sample is too large")
    try:
        yield
    except (DatasetError, SampleError, IndexError, OSError) as error:
        raise NotFoundError(f"shard {shard}: no such sample: {error}") from error
