"""When each stage worked: a row per stage, a bar per attempt, waiting hatched by its kind, losses as marks.

The bars are placed in shares of the width, so that the picture fits any window; names stand beside it as text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup

from orchestrator.web.drawings.icons import icon
from orchestrator.web.drawings.states import tone_of
from orchestrator.web.drawings.svg import Attributes, element, group, link, percent, title

ROW_PX, BAR_PX = 26, 14
NUM_TICKS = 5
_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
WAIT_KINDS = ("capacity", "run", "person", "other")  # each with a hatching of its own


@dataclass(frozen=True, kw_only=True)
class GanttBar:
    """One attempt; times in seconds since 1970."""

    start_s: float
    end_s: float | None  # None: it still works
    state: str
    text: str  # said on hover: `attempt 2: failed after 4 min, HOST_OOM`
    tie: str = ""  # what else belongs to it: `attempt:ID`
    href: str = ""


@dataclass(frozen=True, kw_only=True)
class GanttWait:
    """A time in which the stage waited."""

    start_s: float
    end_s: float | None
    kind: str  # of WAIT_KINDS
    text: str


@dataclass(frozen=True, kw_only=True)
class GanttMark:
    """A moment worth a mark: a lost node, a checkpoint taken back."""

    time_s: float
    state: str  # its tone: "LOST", "FAILED", ...
    text: str
    tie: str = ""  # its event: `event:NUMBER`


@dataclass(frozen=True, kw_only=True)
class GanttRow:
    stage_id: str
    state: str
    href: str = ""
    bars: tuple[GanttBar, ...] = ()
    waits: tuple[GanttWait, ...] = ()
    marks: tuple[GanttMark, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Gantt:
    start_s: float
    end_s: float  # of the picture; of a live run, now
    rows: tuple[GanttRow, ...]
    is_live: bool = False


def draw_gantt(gantt: Gantt, *, name: str = "Attempts over time") -> Markup:
    """The rows below an axis with times in UTC."""
    span = max(1e-3, gantt.end_s - gantt.start_s)
    times = _ticks(gantt.start_s, gantt.end_s)
    rows = [_row(row, gantt, span, times) for row in gantt.rows]
    return element("div", {"class": "gantt", "role": "group", "aria-label": name}, _axis(gantt, span, times), *rows)


def _ticks(start_s: float, end_s: float) -> list[float]:
    span = end_s - start_s
    step = next(
        (step for step in _STEPS_S if span / step <= NUM_TICKS), max(86400.0, span / NUM_TICKS // 86400 * 86400)
    )
    first = -(-start_s // step) * step
    return [first + step * index for index in range(NUM_TICKS + 1) if first + step * index <= end_s]


def _axis(gantt: Gantt, span: float, times: Sequence[float]) -> Markup:
    long = span > 36 * 3600
    texts = []
    for index, time_s in enumerate(times):
        share = (time_s - gantt.start_s) / span
        anchor = "start" if share < 0.04 else "end" if share > 0.96 else "middle"
        kind = "tick" if index % 2 == 0 else "tick minor"
        at = percent(time_s - gantt.start_s, span)
        attributes: Attributes = {"class": kind, "x": at, "y": 13, "text-anchor": anchor}
        texts.append(element("text", attributes, _clock(time_s, long=long, seconds=span < 300)))
    picture = element("svg", {"class": "axis", "width": "100%", "height": 20, "aria-hidden": "true"}, *texts)
    return element("div", {"class": "gantt-row gantt-head"}, element("span", {"class": "zone"}, "UTC"), picture)


def _clock(time_s: float, *, long: bool, seconds: bool) -> str:
    form = "%d %b" if long else "%H:%M:%S" if seconds else "%H:%M"
    return datetime.fromtimestamp(time_s, UTC).strftime(form)


def _row(row: GanttRow, gantt: Gantt, span: float, times: Sequence[float]) -> Markup:
    tone = tone_of(row.state)
    lines = [
        element("line", {"class": "grid", "x1": at, "x2": at, "y1": 0, "y2": ROW_PX})
        for at in (percent(time_s - gantt.start_s, span) for time_s in times)
    ]
    parts = [
        *lines,
        *(_wait(wait, gantt, span) for wait in row.waits),
        *(_bar(bar, gantt, span) for bar in row.bars),
        *(_mark(mark, gantt, span) for mark in row.marks),
    ]
    picture = element(
        "svg",
        {"class": "lane", "width": "100%", "height": ROW_PX, "role": "group", "aria-label": _spoken(row)},
        *parts,
    )
    label = element("span", {"class": "label-text"}, row.stage_id)
    head = [icon(tone.name, label=tone.label), label]
    named: Attributes = {"class": f"label tone-{tone.name}", "title": row.stage_id}
    cell = element("a", {"href": row.href, **named}, *head) if row.href else element("span", named, *head)
    return element("div", {"class": "gantt-row", "data-tie": f"stage:{row.stage_id}"}, cell, picture)


def _bar(bar: GanttBar, gantt: Gantt, span: float) -> Markup:
    end_s = gantt.end_s if bar.end_s is None else bar.end_s
    box: Attributes = {
        "x": percent(bar.start_s - gantt.start_s, span),
        "y": (ROW_PX - BAR_PX) / 2,
        "width": percent(end_s - max(bar.start_s, gantt.start_s), span),
        "height": BAR_PX,
        "rx": 3,
    }
    parts = [title(bar.text), element("rect", {"class": "bar", **box})]
    return link(bar.href, *parts, class_=f"attempt tone-{tone_of(bar.state).name}", data_tie=bar.tie or None)


def _wait(wait: GanttWait, gantt: Gantt, span: float) -> Markup:
    end_s = gantt.end_s if wait.end_s is None else wait.end_s
    kind = wait.kind if wait.kind in WAIT_KINDS else "other"
    box: Attributes = {
        "x": percent(wait.start_s - gantt.start_s, span),
        "y": (ROW_PX - BAR_PX) / 2,
        "width": percent(end_s - max(wait.start_s, gantt.start_s), span),
        "height": BAR_PX,
        "rx": 3,
        "fill": f"url(#wait-{kind})",
    }
    return group(title(wait.text), element("rect", {"class": "wait", **box}))


def _mark(mark: GanttMark, gantt: Gantt, span: float) -> Markup:
    at = percent(mark.time_s - gantt.start_s, span)
    drop = element("svg", {"x": at, "y": 0, "overflow": "visible"}, element("path", {"d": "M0 4l-4-4h8z"}))
    line = element("line", {"x1": at, "x2": at, "y1": 0, "y2": ROW_PX})
    return group(
        title(mark.text), line, drop, class_=f"moment tone-{tone_of(mark.state).name}", data_tie=mark.tie or None
    )


def _spoken(row: GanttRow) -> str:
    texts = [bar.text for bar in row.bars] + [wait.text for wait in row.waits] + [mark.text for mark in row.marks]
    return f"{row.stage_id}: {'; '.join(texts) or 'nothing yet'}"


def hatchings() -> Markup:
    """The patterns of waiting, once per page; each kind has its own direction and distance."""
    shapes = {
        "capacity": ("M-1 1l2-2M0 8l8-8M7 9l2-2", 8),
        "run": ("M-1 7l2 2M0 0l8 8M7-1l2 2", 8),
        "person": ("M0 3h6", 6),
        "other": ("M2 2h.1M5 5h.1", 6),
    }
    patterns = [
        element(
            "pattern",
            {"id": f"wait-{kind}", "width": size, "height": size, "patternUnits": "userSpaceOnUse"},
            element("path", {"class": "hatch", "d": path}),
        )
        for kind, (path, size) in shapes.items()
    ]
    return element(
        "svg", {"class": "hatchings", "width": 0, "height": 0, "aria-hidden": "true"}, element("defs", {}, *patterns)
    )
