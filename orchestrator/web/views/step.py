"""One step of a training: the samples that it learned from."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.web.addresses import link
from orchestrator.web.page import NotFoundError
from orchestrator.web.questions.asking import FOLDER, ask
from orchestrator.web.questions.records import OUT, PROGRESS, SAMPLES, Asked, newest_same, tail_of
from orchestrator.web.service import Service
from orchestrator.web.views.run import summary_of
from orchestrator.web.views.samples import open_dataset, read_sample

if TYPE_CHECKING:
    from data_pipelines.datasets.reader import CuratedDataset

MAX_TEXT = 600  # characters of a turn, and of why there is no answer
RETRY_S = 10.0  # after which what failed is asked again
PAGE = "the page of a step"  # who asks


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
    turns: tuple[TurnView, ...]  # empty: its dataset is not in the store any more
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
    """The samples, from the answer to a question that is asked when the page is opened for the first time.

    Raises: NotFoundError: there is no such run, or no such step. TooOftenError: too many questions are being answered.
    """
    run = summary_of(service.workspace().database, run_id)
    if step < 1:
        raise NotFoundError(f"step {step}: steps are counted from 1")
    asked = _asked(service, ["samples", f"{run_id}:{stage_id}", str(step), "--json"])
    is_ready = asked is not None and asked.state in ("answered", "failed")
    samples, problem = _answer(service, asked) if asked is not None and is_ready else ((), "")
    return StepView(
        run=run_id,
        recipe=run.recipe,
        stage=stage_id,
        step=step,
        is_ready=is_ready,
        samples=samples,
        problem=problem,
    )


def _asked(service: Service, arguments: Sequence[str]) -> Asked | None:
    """The question, if it is answered or being answered; else it is asked. What failed is asked again after a while."""
    settings = service.settings
    found = newest_same(settings.folder / FOLDER, arguments, settings.arguments)
    if found is not None and found.state != "killed" and not _is_to_be_asked_again(found):
        return found
    ask(settings.folder, SAMPLES, arguments, settings.arguments, asked_by=PAGE)
    return None


def _is_to_be_asked_again(found: Asked) -> bool:
    return found.state == "failed" and found.end is not None and time.time() - found.end.at > RETRY_S


def _answer(service: Service, asked: Asked) -> tuple[tuple[SampleView, ...], str]:
    """The samples, or why they are not known."""
    if asked.state == "failed":
        lines = tail_of(asked.folder / PROGRESS, MAX_TEXT).strip().splitlines()
        return (), lines[-1].removeprefix("Error: ") if lines else "it ended without a word"
    found: Mapping[str, Any] = json.loads((asked.folder / OUT).read_text())
    datasets = {name: _dataset(service, name) for name in {sample["dataset"] for sample in found["samples"]}}
    return tuple(_sample(sample, datasets[sample["dataset"]]) for sample in found["samples"]), ""


def _dataset(service: Service, fingerprint: str) -> "CuratedDataset | None":
    try:
        return open_dataset(service, fingerprint)
    except NotFoundError:
        return None


def _sample(found: Mapping[str, Any], dataset: "CuratedDataset | None") -> SampleView:
    where = {"shard": found["shard"], "offset": str(found["offset"]), "span": str(found["span_bytes"])}
    turns, images = _turns(found, dataset), found["images"]
    return SampleView(
        sample_id=found["sample_id"],
        task=found["task"],
        source=found["source"],
        turns=turns,
        images=tuple(
            ImageView(
                link=link("datasets", found["dataset"], "pictures", slot=str(slot), **where), width=width, height=height
            )
            for slot, (width, height) in enumerate(images if turns else ())
        ),
    )


def _turns(found: Mapping[str, Any], dataset: "CuratedDataset | None") -> tuple[TurnView, ...]:
    """Its texts, read where they lie; nothing if the dataset is not there any more."""
    if dataset is None:
        return ()
    try:
        sample = read_sample(dataset, found["shard"], found["offset"], found["span_bytes"])
    except NotFoundError:
        return ()
    return tuple(TurnView(role=turn.role, text=turn.text[:MAX_TEXT]) for turn in sample.turns)
