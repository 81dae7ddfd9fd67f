"""Page 5: the cluster and what waits for it."""

from dataclasses import dataclass

from orchestrator.web.page import Page
from orchestrator.web.service import Service
from orchestrator.web.views.cluster import ClusterView, load_cluster


@dataclass(frozen=True, kw_only=True)
class ClusterQuery:
    pass


def _load(service: Service, _query: ClusterQuery) -> ClusterView:
    return load_cluster(service)


CLUSTER = Page(
    name="cluster",
    path="/cluster",
    query=ClusterQuery,
    view=ClusterView,
    load=_load,
    summary="What is at work on what, what waits and why, and machines to avoid.",
)
