"""A training: its curves by what they tell, and its moments."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.history.run_status import run_statuses
from orchestrator.liveness.liveness import UNFINISHED
from orchestrator.web.curves import Samples, TrainingMark
from orchestrator.web.page import NotFoundError
from orchestrator.web.service import Service
from orchestrator.web.views.run import summary_of


@dataclass(frozen=True, kw_only=True)
class ChartKind:
    """A chart, and which metrics it holds."""

    title: str
    unit: str
    metrics: str  # a regular expression of whole names
    is_log: bool = False


CHARTS = (
    ChartKind(title="Loss", unit="", metrics=r"(?!validation/).*(?:loss|/total)|.*loss/.*"),
    ChartKind(title="Loss by source", unit="", metrics=r".*/loss_of/.*"),
    ChartKind(title="Validation", unit="", metrics=r"validation/.*"),
    ChartKind(title="Learning rate", unit="", metrics=r".*/lr"),
    ChartKind(title="Gradient norm", unit="before clipping", metrics=r".*/grad_norm", is_log=True),
    ChartKind(title="Throughput", unit="tokens or images per second", metrics=r"tokens_per_s|weight_per_s"),
    ChartKind(title="Model FLOPs utilization", unit="share of the peak", metrics=r"mfu"),
    ChartKind(title="Padding", unit="share of tokens", metrics=r"padding_share"),
    ChartKind(title="Data wait", unit="seconds per step", metrics=r"data_wait_s|workers/data_wait_s_most"),
    ChartKind(title="Own time of a step", unit="seconds, median and slowest worker", metrics=r"workers/own_step_s_.*"),
    ChartKind(title="Speed", unit="steps per second", metrics=r"steps_per_s"),
    ChartKind(title="Memory", unit="GiB, most so far", metrics=r"memory_gib|workers/memory_gib_most"),
    ChartKind(title="Checkpoints", unit="seconds", metrics=r"checkpoint_.*_s"),
    ChartKind(title="Machine", unit="percent", metrics=r"system/.*_percentage"),
    ChartKind(title="Machine, memory and network", unit="MB", metrics=r"system/.*_megabytes"),
)
OTHERS = ChartKind(title="Other metrics", unit="", metrics=r".*")
HIDDEN = ("data_steps_skipped", "workers/slowest")  # told by marks and by the worker's name
PER_WORKERS = ("Model FLOPs utilization", "Padding", "Own time of a step", "Validation")  # older trainings lack them


@dataclass(frozen=True, kw_only=True)
class CurveView:
    metric: str
    samples: Samples


@dataclass(frozen=True, kw_only=True)
class ChartView:
    title: str
    unit: str
    is_log: bool
    curves: tuple[CurveView, ...]


@dataclass(frozen=True, kw_only=True)
class TrainingView:
    run: str
    stage: str
    recipe: str
    state: str
    is_over: bool
    last_event: int
    done: int  # steps
    total: int
    unit: str
    eta_s: float | None
    charts: tuple[ChartView, ...]
    marks: tuple[TrainingMark, ...]
    is_complete: bool  # False: not all events have been read yet; the next request goes on
    absent: tuple[str, ...]  # charts of which this training tells nothing


def load_training(service: Service, run_id: str, stage_id: str) -> TrainingView:
    """Raises: NotFoundError."""
    workspace = service.workspace()
    run = summary_of(workspace.database, run_id)
    stages = {stage.stage_id: stage for stage in run_statuses(workspace.database, [run])[0].stages}
    if stage_id not in stages:
        raise NotFoundError(f"run {run_id}: has no stage {stage_id!r}; it has {', '.join(stages)}")
    curves, marks, is_complete = service.curves.look(workspace.database, run_id, stage_id)
    charts = charts_of(curves)
    shown = {chart.title for chart in charts}
    status = stages[stage_id]
    return TrainingView(
        run=run_id,
        stage=stage_id,
        recipe=run.recipe,
        state=status.state,
        is_over=run.state not in UNFINISHED,
        last_event=run.last_event,
        done=status.done,
        total=status.total,
        unit=status.unit,
        eta_s=status.eta_s,
        charts=charts,
        marks=tuple(marks),
        is_complete=is_complete,
        absent=tuple(title for title in PER_WORKERS if title not in shown) if charts else (),
    )


def charts_of(curves: Mapping[str, Samples]) -> tuple[ChartView, ...]:
    """Each metric in the first chart whose names it fits."""
    left = {name: samples for name, samples in curves.items() if name not in HIDDEN and samples.steps}
    found = []
    for kind in (*CHARTS, OTHERS):
        names = sorted(name for name in left if re.fullmatch(kind.metrics, name))
        if names:
            shown = tuple(CurveView(metric=name, samples=left.pop(name)) for name in names)
            found.append(ChartView(title=kind.title, unit=kind.unit, is_log=kind.is_log, curves=shown))
    return tuple(found)
