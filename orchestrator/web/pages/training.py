"""Page 4: a training."""

from dataclasses import dataclass

from orchestrator.web.page import Page
from orchestrator.web.service import Service
from orchestrator.web.views.training import TrainingView, load_training


@dataclass(frozen=True, kw_only=True)
class TrainingQuery:
    run: str
    stage: str


def _load(service: Service, query: TrainingQuery) -> TrainingView:
    return load_training(service, query.run, query.stage)


TRAINING = Page(
    name="training",
    path="/runs/{run}/stages/{stage}/training",
    query=TrainingQuery,
    view=TrainingView,
    load=_load,
    summary="A training: loss, learning rate, gradient norm, throughput, step times; checkpoints, restarts, skips.",
)
