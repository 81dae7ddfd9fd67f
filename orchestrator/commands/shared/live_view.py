"""Live views of a run: a table on a terminal, plain lines elsewhere, JSON lines for a script.

A view only reads the index database, so it can watch a run of this process, of another, or of another machine.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, Protocol

import click
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.commands.shared.formatting import count_text, duration_text
from orchestrator.commands.shared.narrow import fitted
from orchestrator.errors import DatabaseError
from orchestrator.history.database.database import Database
from orchestrator.history.events import Event, event_to_line
from orchestrator.history.run_status import REUSED, RunStatus, StageStatus, run_status
from orchestrator.times import short_time

log = logging.getLogger(__name__)

Style = Literal["table", "lines", "json"]
REFRESH_S = 1.0
PLAIN_EVERY_S = 10.0  # minimum time between two progress lines of a stage
BAR_WIDTH = 20
STATE_STYLES: Mapping[str, str] = {
    "RUNNING": "bold cyan",
    "INTENT": "cyan",
    "COMMITTED": "green",
    "SUCCEEDED": "green",
    "FAILED": "bold red",
    "LOST": "yellow",
    "CANCELLED": "yellow",
}


class View(Protocol):
    def show(self, status: RunStatus) -> None: ...
    def close(self) -> None: ...


def default_style(*, as_json: bool) -> Style:
    return "json" if as_json else "table" if sys.stdout.isatty() else "lines"


def console() -> Console:
    """Standard output; 200 columns wide if it is not a terminal, so that nothing is truncated or wrapped."""
    found = Console()
    return found if found.is_terminal else Console(width=200)


@contextmanager
def show_live(
    database: Database,
    run_id: str,
    style: Style,
    events: Callable[[int], list[Event]],
    after: int = 0,
    *,
    refine: Callable[[RunStatus], RunStatus] = lambda status: status,
) -> Iterator[None]:
    """Show the run, as `refine` completes its status, from a thread until the block ends, and once more at the end.

    `events` returns the events after a sequence number; only the style `json` uses it.
    """
    view = _view(style, events, after)
    finished = threading.Event()
    parts = (database, run_id, view, finished, refine)
    thread = threading.Thread(target=_follow, args=parts, name="live-view", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join(timeout=10.0)
        view.close()


def status_table(status: RunStatus, *, is_live: bool = False) -> Table:
    """A row per stage: state, progress, rate, time left, message. `is_live`: without the run's message."""
    run = status.run
    title = f"{run.recipe}  run {run.run_id}  {run.state}{'  (stopping)' if run.cancel_requested else ''}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("stage", "state", "progress", "done", "rate", "time", "left", "message"):
        table.add_column(name, no_wrap=name != "message", overflow="fold", header_style="dim")
    for stage in status.stages:
        table.add_row(*_cells(stage))
    if run.message and not is_live:
        table.caption, table.caption_justify = run.message, "left"
    return table


def stage_line(stage: StageStatus) -> str:
    """One stage as a line of plain text."""
    left = f", {duration_text(stage.eta_s)} left" if stage.eta_s is not None else ""
    took = f" in {duration_text(stage.elapsed_s)}" if stage.state == "COMMITTED" and stage.elapsed_s is not None else ""
    progress = f" {_done_text(stage)}{_rate_suffix(stage)}{left}" if stage.total else ""
    attempt = f" (attempt {stage.attempt})" if stage.attempt > 1 else ""
    message = f": {_first_line(stage.message)}" if stage.message else ""
    return f"{stage.stage_id}: {_state_text(stage)}{attempt}{took}{progress}{message}"


class TableView:
    """A table that is redrawn in place; log lines appear above it."""

    def __init__(self, terminal: Console | None = None) -> None:
        self._terminal = terminal or Console()
        self._live = Live(console=self._terminal, auto_refresh=False, transient=False)
        self._live.start()

    def show(self, status: RunStatus) -> None:
        self._live.update(fitted(status_table(status, is_live=True), self._terminal.width), refresh=True)

    def close(self) -> None:
        self._live.stop()


class LinesView:
    """Writes a line when a stage changes its state, and every `PLAIN_EVERY_S` while it runs."""

    def __init__(self, clock: Callable[[], float], write: Callable[[str], None] = click.echo) -> None:
        self._clock = clock
        self._write = write
        self._shown: dict[str, tuple[str, int, str]] = {}
        self._shown_at: dict[str, float] = {}
        self._run_state = ""

    def show(self, status: RunStatus) -> None:
        for stage in status.stages:
            self._show_stage(stage)
        if status.run.state != self._run_state:
            self._run_state = status.run.state
            self._write(f"run {status.run.run_id}: {status.run.state}")

    def close(self) -> None:
        pass

    def _show_stage(self, stage: StageStatus) -> None:
        state = (stage.state, stage.attempt, stage.message)
        is_changed = self._shown.get(stage.stage_id) != state
        is_due = self._clock() - self._shown_at.get(stage.stage_id, 0.0) >= PLAIN_EVERY_S
        if (is_changed and stage.state != "WAITING") or (is_due and stage.state == "RUNNING" and stage.total):
            self._write(stage_line(stage))
            self._shown_at[stage.stage_id] = self._clock()
        self._shown[stage.stage_id] = state


class JsonView:
    """Writes every event of the run as one line of JSON, in order."""

    def __init__(
        self, events: Callable[[int], list[Event]], after: int = 0, write: Callable[[str], None] = click.echo
    ) -> None:
        self._events = events
        self._last = after
        self._write = write

    def show(self, _status: RunStatus) -> None:
        while page := self._events(self._last):
            for event in page:
                self._write(event_to_line(event))
            self._last = page[-1].sequence

    def close(self) -> None:
        pass


def _write_with_time(line: str) -> None:
    click.echo(f"{short_time(time.time())} {line}")


def _view(style: Style, events: Callable[[int], list[Event]], after: int) -> View:
    if style == "table":
        return TableView()
    return JsonView(events, after) if style == "json" else LinesView(time.monotonic, _write_with_time)


def _follow(
    database: Database,
    run_id: str,
    view: View,
    finished: threading.Event,
    refine: Callable[[RunStatus], RunStatus],
) -> None:
    while True:
        is_last = finished.wait(REFRESH_S)
        try:
            view.show(refine(run_status(database, run_id)))
        except DatabaseError as error:
            log.warning("cannot show the run now: %s", error)
        except OSError:
            return  # nothing reads the output any more; the run continues
        if is_last:
            return


def _cells(stage: StageStatus) -> tuple[Text | ProgressBar, ...]:
    share = stage.done / stage.total if stage.total else 0.0
    is_done = stage.state in ("COMMITTED", REUSED)
    is_shown = stage.total > 0 or is_done or stage.state == "RUNNING"
    bar = ProgressBar(
        total=1.0,
        completed=1.0 if is_done else share,
        width=BAR_WIDTH,
        pulse=stage.state == "RUNNING" and not stage.total,
    )
    message = _first_line(stage.message) or (stage.reasons[0] if stage.state == "WAITING" and stage.reasons else "")
    attempt = f" #{stage.attempt}" if stage.attempt > 1 else ""
    return (
        Text(stage.stage_id),
        Text(_state_text(stage) + attempt, style=STATE_STYLES.get(stage.state, "dim")),
        bar if is_shown else Text(""),
        Text(_done_text(stage) if stage.total else ""),
        Text(_rate_text(stage)),
        Text(duration_text(stage.elapsed_s) if stage.elapsed_s is not None else ""),
        Text(duration_text(stage.eta_s) if stage.eta_s is not None else ""),
        Text(message, style="" if stage.message else "dim"),
    )


def _state_text(stage: StageStatus) -> str:
    return f"{stage.state} ({stage.failure_class})" if stage.failure_class else stage.state


def _done_text(stage: StageStatus) -> str:
    return f"{count_text(stage.done)}/{count_text(stage.total)} {stage.unit}".rstrip()


def _rate_text(stage: StageStatus) -> str:
    return f"{count_text(stage.rate_per_s)}/s" if stage.rate_per_s > 0 and stage.state == "RUNNING" else ""


def _rate_suffix(stage: StageStatus) -> str:
    return f", {_rate_text(stage)}" if _rate_text(stage) else ""


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""
