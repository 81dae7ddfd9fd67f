"""A step of a training."""

from dataclasses import dataclass

from orchestrator.web.page import Page
from orchestrator.web.service import Service
from orchestrator.web.views.step import StepView, load_step


@dataclass(frozen=True, kw_only=True)
class StepQuery:
    run: str
    stage: str
    step: int


def _load(service: Service, query: StepQuery) -> StepView:
    return load_step(service, query.run, query.stage, query.step)


STEP = Page(
    name="step",
    path="/runs/{run}/stages/{stage}/steps/{step}",
    query=StepQuery,
    view=StepView,
    load=_load,
    summary="A step of a training: the samples that it learned from, with their images.",
)
