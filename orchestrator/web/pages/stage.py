"""Page 3: a stage of a run."""

from dataclasses import dataclass

from orchestrator.web.page import Page
from orchestrator.web.service import Service
from orchestrator.web.views.stage import StageView, load_stage


@dataclass(frozen=True, kw_only=True)
class StageQuery:
    run: str
    stage: str
    attempt: int = 0  # its number; 0: the newest


def _load(service: Service, query: StageQuery) -> StageView:
    return load_stage(service, query.run, query.stage, query.attempt)


STAGE = Page(
    name="stage",
    path="/runs/{run}/stages/{stage}",
    query=StageQuery,
    view=StageView,
    load=_load,
    summary="A stage of a run: attempts, shards, metrics, gates, identity, outputs, logs.",
)
