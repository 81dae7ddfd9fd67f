"""The live views show a run as a table, as lines or as JSON, from its status alone."""

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from orchestrator.commands.shared.live_view import JsonView, LinesView, TableView, stage_line, status_table
from orchestrator.history.events import Event, RunState
from orchestrator.history.run_status import RunStatus, RunSummary, StageStatus

RUN = RunSummary(
    run_id="20250131-081500-abc123",
    recipe="quickstart",
    plan_digest="0" * 64,
    state=RunState.RUNNING,
    epoch=1,
    owner="",
    cancel_requested=False,
    message="",
    created_at=0.0,
    updated_at=0.0,
    last_event=0,
)
STAGE = StageStatus(
    stage_id="curated",
    stage_kind="curate",
    fingerprint="1" * 64,
    action="run",
    reasons=("config.min_side: 64 -> 32",),
    upstream=(),
    state="RUNNING",
    attempt_id="a",
    attempt=1,
    done=250,
    total=1000,
    unit="samples",
    rate_per_s=50.0,
    eta_s=15.0,
    elapsed_s=5.0,
)
WAITING = replace(STAGE, stage_id="tokens", state="WAITING", attempt=0, done=0, total=0, eta_s=None, elapsed_s=None)


def drawn(status: RunStatus) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(status_table(status))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_the_table_shows_progress_rate_and_time_left() -> None:
    text = drawn(RunStatus(run=RUN, stages=(STAGE, WAITING)))
    assert "quickstart  run 20250131-081500-abc123  RUNNING" in text
    line = next(line for line in text.splitlines() if "curated" in line)
    for part in ("RUNNING", "250/1000 samples", "50/s", "5.0 s", "15 s", "━"):
        assert part in line
    assert "config.min_side: 64 -> 32" in next(line for line in text.splitlines() if "tokens" in line)


def test_square_brackets_of_a_message_are_shown_literally() -> None:
    broken = replace(STAGE, state="FAILED", message="[bold] ids [1, 2]\nmore", failure_class="data_poison")
    text = drawn(RunStatus(run=RUN, stages=(broken,)))
    assert "[bold] ids [1, 2]" in text
    assert "more" not in text
    assert "FAILED (data_poison)" in text


def test_a_stage_fits_on_one_line() -> None:
    assert stage_line(STAGE) == "curated: RUNNING 250/1000 samples, 50/s, 15 s left"
    assert stage_line(WAITING) == "tokens: WAITING"
    done = replace(STAGE, state="COMMITTED", done=1000, attempt=2, eta_s=None, elapsed_s=65.0)
    assert stage_line(done) == "curated: COMMITTED (attempt 2) in 1 min 05 s 1000/1000 samples"


@pytest.fixture
def lines() -> list[str]:
    return []


def clock_of(times: list[float]) -> Callable[[], float]:
    return lambda: times[0]


def test_plain_lines_show_changes_at_once_and_progress_periodically(lines: list[str]) -> None:
    now = [100.0]
    view = LinesView(clock_of(now), lines.append)
    view.show(RunStatus(run=RUN, stages=(STAGE, WAITING)))
    view.show(RunStatus(run=RUN, stages=(replace(STAGE, done=300), WAITING)))
    now[0] = 111.0
    view.show(RunStatus(run=RUN, stages=(replace(STAGE, done=500), WAITING)))
    failed = replace(STAGE, state="FAILED", eta_s=None, message="disk full")
    view.show(RunStatus(run=replace(RUN, state=RunState.FAILED, message="1 stage failed"), stages=(failed, WAITING)))
    assert lines == [
        "curated: RUNNING 250/1000 samples, 50/s, 15 s left",
        "run 20250131-081500-abc123: RUNNING",
        "curated: RUNNING 500/1000 samples, 50/s, 15 s left",
        "curated: FAILED 250/1000 samples: disk full",
        "run 20250131-081500-abc123: FAILED",
    ]


def test_json_lines_have_every_event_once(lines: list[str]) -> None:
    made = [Event(run_id="r", sequence=number, time=0.0, epoch=1, kind="x") for number in range(1, 8)]
    view = JsonView(lambda after: [event for event in made if event.sequence > after][:2], 3, lines.append)
    status = RunStatus(run=RUN, stages=())
    view.show(status)
    view.show(status)
    assert [line.partition('"sequence":')[2].partition(",")[0] for line in lines] == ["4", "5", "6", "7"]


def test_the_table_is_redrawn_in_place() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    view = TableView(console)
    view.show(RunStatus(run=RUN, stages=(STAGE,)))
    view.show(RunStatus(run=RUN, stages=(replace(STAGE, done=750),)))
    view.close()
    file = console.file
    assert isinstance(file, io.StringIO)
    assert "750/1000" in file.getvalue()
    assert "\x1b[1A" in file.getvalue(), "the cursor goes back up instead of printing a second table below"
