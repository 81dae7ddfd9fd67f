"""What the views of a run look like: views in, drawings out. Templates call these."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from orchestrator.commands.shared.formatting import duration_text
from orchestrator.web.addresses import link
from orchestrator.web.drawings.dag import DagStage
from orchestrator.web.drawings.gantt import Gantt, GanttBar, GanttMark, GanttRow, GanttWait, draw_gantt
from orchestrator.web.drawings.line_chart import Curve, draw_line_chart
from orchestrator.web.drawings.share_bar import Part, draw_share_bar
from orchestrator.web.drawings.stage_strip import StripStage, draw_stage_strip
from orchestrator.web.drawings.states import tone_of
from orchestrator.web.views.dataset import DatasetView, Relative
from orchestrator.web.views.datasets import DatasetRow
from orchestrator.web.views.logs import LogView
from orchestrator.web.views.money import Cost
from orchestrator.web.views.run import RunView
from orchestrator.web.views.runs import StripCell
from orchestrator.web.views.shards import ORDERS, ShardsView
from orchestrator.web.views.stage_rows import AttemptBar, StageRow, Wait
from orchestrator.web.views.training import ChartView

_MADE = {"reused": "REUSED", "made_by_another_run": "REUSED", "recovered": "RECOVERED"}
_MARKS = {"quarantined": "QUARANTINED", "gate_broken": "FAILED"}  # all others are losses
Tabs = list[tuple[str, str, bool, str]]  # as the macro `tabs` takes them
SILENT_S = 60.0  # without progress for so long: it is said
MARGIN = 0.01  # of the time shown, before the first bar


def state_shown(row: StageRow) -> str:
    """The state of a stage, in which what was reused, recovered and made are told apart."""
    return _MADE.get(row.how, row.state)


def strip(cells: Sequence[StripCell], name: str) -> Markup:
    """The strip of a run in a list."""
    stages = [StripStage(stage_id=cell.stage, state=cell.state, share=cell.share) for cell in cells]
    return draw_stage_strip(stages, name=name)


def silence(since: float | None, now: float) -> str:
    """How long nothing was heard of what is at work; empty while that is short, as progress is told every 30 s."""
    return f"no progress for {duration_text(now - since)}" if since is not None and now - since >= SILENT_S else ""


def last_progress(since: float | None, now: float) -> str:
    """When something was last heard of what is at work; empty if nothing is."""
    if since is None:
        return ""
    return f"{duration_text(now - since)} ago" if now - since >= SILENT_S else "under 1 min ago"


def dag_stages(rows: Sequence[StageRow], now: float) -> list[DagStage]:
    """The boxes of the graph of a run."""
    return [
        DagStage(
            stage_id=row.stage,
            state=state_shown(row),
            inputs=row.upstream,
            note=_note(row, now),
            why="; ".join(row.reasons),
            href=row.link,
            share=row.done / row.total if row.total else None,
        )
        for row in rows
    ]


def gantt(model: RunView, now: float) -> Markup:
    """The attempts of a run over time, until now if it is not over."""
    begins = [bar.began_at for row in model.stages for bar in row.attempts]
    begins += [wait.since for row in model.stages for wait in row.waits]
    ends = [bar.ended_at or now for row in model.stages for bar in row.attempts]
    start_s = min(begins, default=model.created_at)
    end_s = now if not model.is_over else max([*ends, start_s + 1.0])
    drawn = Gantt(
        start_s=start_s - MARGIN * (end_s - start_s),
        end_s=end_s + MARGIN * (end_s - start_s),
        rows=tuple(_row(row, now) for row in model.stages),
        is_live=not model.is_over,
    )
    return draw_gantt(drawn)


def training_chart(chart: ChartView) -> Markup:
    """The curves of a chart, until a script draws one to zoom into."""
    curves = [Curve(name=curve.metric, steps=curve.samples.steps, values=curve.samples.means) for curve in chart.curves]
    return draw_line_chart(curves, name=chart.title)


def map_tabs(shards: ShardsView) -> Tabs:
    """The maps of an attempt."""
    return [
        (found.label, _shards_address(shards, map=found.number, order=shards.order), found.number == shards.chosen, "")
        for found in shards.maps
    ]


def order_chips(shards: ShardsView) -> list[tuple[str, str, bool]]:
    """The orders in which shards are listed."""
    within = {"first": shards.first, "last": shards.last} if shards.last >= 0 else {}
    return [
        (order.capitalize(), _shards_address(shards, map=shards.chosen, order=order, **within), order == shards.order)
        for order in ORDERS
    ]


def log_tabs(log: LogView) -> Tabs:
    """The logs of an attempt."""
    return [(file.name, file.link, file.name == log.file, "") for file in log.others]


def _shards_address(shards: ShardsView, **query: object) -> str:
    asked = {name: str(value) for name, value in query.items()}
    return link("runs", shards.run, "stages", shards.stage, "shards", attempt=shards.attempt, **asked)


def verdict_bar(row: DatasetRow) -> Markup:
    """What was kept of a dataset, and what was not."""
    parts = [
        Part(name=verdict.name.replace("_", " "), count=verdict.count, look=look)
        for look, verdict in enumerate(row.verdicts, 1)
    ]
    return draw_share_bar(parts, name=row.stage)


def lineage_stages(model: DatasetView) -> list[DagStage]:
    """A dataset between what it was made from and what was made from it."""
    row = model.row
    above = tuple(relative.fingerprint for relative in model.made_from)
    own = "COMMITTED" if row.is_there else "SKIPPED"
    return [
        *(_relative(relative, ()) for relative in model.made_from),
        DagStage(stage_id=row.stage, key=row.fingerprint, state=own, inputs=above, note="this dataset", why=row.kind),
        *(_relative(relative, (row.fingerprint,)) for relative in model.made_into),
    ]


def _relative(relative: Relative, inputs: tuple[str, ...]) -> DagStage:
    return DagStage(
        stage_id=relative.stage,
        key=relative.fingerprint,
        state="COMMITTED",
        inputs=inputs,
        note=relative.fingerprint[:12],
        why=relative.stage_kind,
        href=relative.link,
    )


def _row(row: StageRow, now: float) -> GanttRow:
    return GanttRow(
        stage_id=row.stage,
        state=state_shown(row),
        href=row.link,
        bars=tuple(_bar(bar, now) for bar in row.attempts),
        waits=tuple(_wait(wait, _end_of(wait, row.attempts), now) for wait in row.waits),
        marks=tuple(
            GanttMark(
                time_s=mark.at,
                state=_MARKS.get(mark.kind, "LOST"),
                text=f"{mark.kind}: {mark.text}",
                tie=f"event:{mark.sequence}",
            )
            for mark in row.marks
        ),
    )


def _bar(bar: AttemptBar, now: float) -> GanttBar:
    took = duration_text((bar.ended_at or now) - bar.began_at)
    why = f": {bar.failure_class}, {bar.message}" if bar.failure_class else ""
    return GanttBar(
        start_s=bar.began_at,
        end_s=bar.ended_at,
        state=bar.state,
        text=f"attempt {bar.number}: {tone_of(bar.state).label.lower()}, {took}{why}",
        tie=f"attempt:{bar.attempt}",
        href=bar.link,
    )


def _end_of(wait: Wait, bars: Sequence[AttemptBar]) -> float | None:
    """Until when a stage waited: without a record of its end, to the next begin or end of an attempt."""
    times = [time_s for bar in bars for time_s in (bar.began_at, bar.ended_at) if time_s and time_s > wait.since]
    return min([*times, *([wait.until] if wait.until else [])], default=None)


def _wait(wait: Wait, end_s: float | None, now: float) -> GanttWait:
    lasted = duration_text((end_s or now) - wait.since)
    return GanttWait(start_s=wait.since, end_s=end_s, kind=wait.kind, text=f"waited {lasted} for {wait.text}")


def _note(row: StageRow, now: float) -> str:
    if row.waiting_for:
        return f"for {row.waiting_for}"
    if silence(row.silent_since, now) and row.silent_since is not None:
        return f"silent {duration_text(now - row.silent_since)}"
    if row.eta_s is not None and row.total:
        return f"{row.done / row.total:.0%}, {_round_duration(row.eta_s)} left"
    if row.how in ("reused", "made_by_another_run") or row.elapsed_s is None:
        return ""
    tries = f", attempt {len(row.attempts)}" if len(row.attempts) > 1 else ""
    return f"{duration_text(row.elapsed_s)}{tries}"


def _round_duration(seconds: float) -> str:
    """As much of a duration as a box of the graph has room for: `42 s`, `28 min`, `5 h 02 min`."""
    return (
        duration_text(seconds - seconds % 60).removesuffix(" 00 s") if 60 <= seconds < 3600 else duration_text(seconds)
    )


def money(cost: Cost) -> str:
    """What it cost: `12.50`, `unknown`; nothing where nothing is paid by the hour."""
    if not cost.gpu_hours:
        return ""
    return "unknown" if cost.money is None else f"{cost.money:,.2f}"


def hours(value: float) -> str:
    """GPU hours: `0`, `< 0.01`, `0.25`, `96.4`, `1,204`."""
    if value < 0.01:
        return "< 0.01" if value > 0 else "0"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


PICTURES: Mapping[str, Callable[..., Any]] = {
    "dag_stages": dag_stages,
    "gantt": gantt,
    "log_tabs": log_tabs,
    "map_tabs": map_tabs,
    "order_chips": order_chips,
    "hours": hours,
    "last_progress": last_progress,
    "money": money,
    "lineage_stages": lineage_stages,
    "silence": silence,
    "state_shown": state_shown,
    "strip": strip,
    "training_chart": training_chart,
    "verdict_bar": verdict_bar,
}
