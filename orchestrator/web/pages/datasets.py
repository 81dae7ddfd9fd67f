"""Datasets: all of them, and one."""

from dataclasses import dataclass

from orchestrator.web.page import BadRequestError, Page
from orchestrator.web.service import Service
from orchestrator.web.views.dataset import DatasetView, load_dataset
from orchestrator.web.views.datasets import DatasetsView, load_datasets


@dataclass(frozen=True, kw_only=True)
class DatasetsQuery:
    q: str = ""  # a part of the name of the recipe or the stage, or the start of the fingerprint
    before: str = ""  # as the page before says


@dataclass(frozen=True, kw_only=True)
class DatasetQuery:
    fingerprint: str


def _load_all(service: Service, query: DatasetsQuery) -> DatasetsView:
    try:
        before = float(query.before) if query.before else None
    except ValueError:
        raise BadRequestError(f"address: before: found {query.before!r}, expected a time") from None
    return load_datasets(service, query.q, before)


def _load_one(service: Service, query: DatasetQuery) -> DatasetView:
    return load_dataset(service, query.fingerprint)


DATASETS = Page(
    name="datasets",
    path="/datasets",
    query=DatasetsQuery,
    view=DatasetsView,
    load=_load_all,
    summary="The datasets that runs made, newest first.",
)
DATASET = Page(
    name="dataset",
    path="/datasets/{fingerprint}",
    query=DatasetQuery,
    view=DatasetView,
    load=_load_one,
    summary="A dataset: verdicts, reasons, where it comes from, what was made from it, takedowns.",
)
