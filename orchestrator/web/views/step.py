"""One step of a training: the samples that it learned from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.web.addresses import link
from orchestrator.web.service import Service
from orchestrator.web.views.run import summary_of

MAX_TEXT = 600  # characters of a turn


@dataclass(frozen=True, kw_only=True)
class TurnView:
    role: str
    text: str


@dataclass(frozen=True, kw_only=True)
class ImageView:
    link: str
    width: int  # pixels, of the original
    height: int


@dataclass(frozen=True, kw_only=True)
class SampleView:
    sample_id: str
    task: str
    source: str
    turns: tuple[TurnView, ...]
    images: tuple[ImageView, ...]


@dataclass(frozen=True, kw_only=True)
class StepView:
    run: str
    recipe: str
    stage: str
    step: int
    is_ready: bool  # False: it is computed now, ask again
    samples: tuple[SampleView, ...]
    problem: str  # why they cannot be shown


def load_step(service: Service, run_id: str, stage_id: str, step: int) -> StepView:
    """Raises: NotFoundError: there is no such run."""
    run = summary_of(service.workspace().database, run_id)
    found = service.steps.ask(*service.settings.arguments, "--", run_id, stage_id, str(step))
    return StepView(
        run=run_id,
        recipe=run.recipe,
        stage=stage_id,
        step=step,
        is_ready=found is not None,
        samples=tuple(map(_sample, found["samples"])) if found is not None else (),
        problem=str(found["problem"]) if found is not None else "",
    )


def _sample(found: Mapping[str, Any]) -> SampleView:
    where = {"shard": found["shard"], "offset": str(found["offset"]), "span": str(found["span"])}
    return SampleView(
        sample_id=found["sample_id"],
        task=found["task"],
        source=found["source"],
        turns=tuple(TurnView(role=role, text=text[:MAX_TEXT]) for role, text in found["turns"]),
        images=tuple(
            ImageView(
                link=link("datasets", found["dataset"], "pictures", slot=str(slot), **where), width=width, height=height
            )
            for slot, (width, height) in enumerate(found["images"])
        ),
    )
