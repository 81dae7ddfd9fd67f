"""Schedules and triggers on a clock that nobody waits for; what they submit is in the queue."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.errors import RecipeError
from orchestrator.queue.entries import open_entries
from orchestrator.queue.records import Firing, Overlap, PoolRecord, Schedule
from orchestrator.queue.rows import add_record, newest_of
from orchestrator.retention.pins import pin
from orchestrator.scheduler import schedules
from orchestrator.scheduler.schedules import ScheduleWatcher, next_due
from orchestrator.times import iso_time
from orchestrator.workspace import Workspace
from tests.orchestrator.test_cli import KINDS, RECIPE

pytest.importorskip("cronsim", reason="no cronsim here: pip install cronsim")
NIGHT = datetime.fromisoformat("2026-05-04T00:00:00+00:00").timestamp()
HOUR = 3600.0


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.open(root=tmp_path / ".illume", tracking_url="none") as found:
        yield found


def add(
    workspace: Workspace,
    *,
    overlap: Overlap = "skip",
    cron: str = "",
    files: str = "",
    pins: str = "",
    recipe: str = RECIPE,
    prices: dict[str, float] | None = None,
) -> None:
    schedule = Schedule(
        at=iso_time(NIGHT),
        recipe=recipe,
        prices=prices or {},
        file="words.yaml",
        cron=cron,
        files=files,
        pins=pins,
        overlap=overlap,
        person="ada",
        pool=PoolRecord(name="machine"),
    )
    add_record(workspace.store, workspace.database, "schedules", "nightly", schedule)


def watcher() -> ScheduleWatcher:
    return ScheduleWatcher(kinds=KINDS, notify=lambda _workspace, occasion, _text: pytest.fail(occasion))


def queued(workspace: Workspace) -> list[str]:
    return [entry.run_id for entry in open_entries(workspace.database)]


def last(workspace: Workspace) -> Firing:
    found = newest_of(workspace.database, Firing, "nightly")
    assert found is not None
    return found[1]


def test_a_schedule_fires_once_for_each_moment_whoever_looks(workspace: Workspace) -> None:
    add(workspace, cron="30 2 * * *")
    servers = [watcher(), watcher()]
    for now in (NIGHT + HOUR, NIGHT + 3 * HOUR, NIGHT + 4 * HOUR):
        for server in servers:
            server.look(workspace, now)
    (run_id,) = queued(workspace)
    assert last(workspace).run_id == run_id
    assert last(workspace).due == "2026-05-04T02:30:00.000000Z"
    assert open_entries(workspace.database)[0].submission.schedule == "nightly"


@pytest.mark.parametrize(("overlap", "runs"), [("skip", 1), ("queue", 2), ("cancel", 1)])
def test_what_happens_while_the_last_run_has_not_ended(workspace: Workspace, overlap: Overlap, runs: int) -> None:
    add(workspace, cron="0 * * * *", overlap=overlap)
    server = watcher()
    server.look(workspace, NIGHT + HOUR)
    first = queued(workspace)
    server.look(workspace, NIGHT + 2 * HOUR)
    assert len(queued(workspace)) == runs
    assert (queued(workspace) == first) == (overlap == "skip")
    assert last(workspace).note == (f"skipped: run {first[0]} of it is waiting" if overlap == "skip" else "")


def test_what_it_submits_has_the_prices_of_the_day_it_was_added(workspace: Workspace) -> None:
    on_a_gpu = RECIPE.replace("config: {times: 2}", "config: {times: 2}, resources: {gpus: 1}")
    add(workspace, cron="0 * * * *", recipe=on_a_gpu, prices={"loud": 2.5, "said": 2.5})
    watcher().look(workspace, NIGHT + HOUR)
    (entry,) = open_entries(workspace.database)
    prices = {need.stage_id: need.price_per_gpu_hour for need in entry.submission.stages}
    assert prices == {"said": None, "loud": 2.5, "pair": None}


def test_moments_that_no_server_saw_fire_once(workspace: Workspace) -> None:
    add(workspace, cron="0 * * * *", overlap="queue")
    watcher().look(workspace, NIGHT + 10.5 * HOUR)
    assert len(queued(workspace)) == 1
    assert last(workspace).due == "2026-05-04T10:00:00.000000Z"


def test_a_firing_whose_server_died_is_submitted_under_its_id(workspace: Workspace) -> None:
    add(workspace, cron="0 * * * *")
    firing = Firing(at=iso_time(NIGHT + HOUR), due=iso_time(NIGHT + HOUR), run_id="20260504-010000-abcdef")
    add_record(workspace.store, workspace.database, "firings", "nightly", firing, number=1)
    watcher().look(workspace, NIGHT + HOUR + 60)
    assert queued(workspace) == ["20260504-010000-abcdef"]


def test_new_files_fire_once_they_rest(workspace: Workspace, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "old.tar").write_text("old")
    add(workspace, files=str(inbox))
    server = watcher()
    server.look(workspace, NIGHT)
    assert queued(workspace) == [], "what is there at first fires nothing"
    (inbox / "new.tar").write_text("ne")
    server.look(workspace, NIGHT + 20)
    (inbox / "new.tar").write_text("new")
    server.look(workspace, NIGHT + 70)
    assert queued(workspace) == [], "it is still being written"
    server.look(workspace, NIGHT + 70 + schedules.REST_S)
    assert len(queued(workspace)) == 1
    server.look(workspace, NIGHT + 300)
    assert len(queued(workspace)) == 1


def test_a_pinned_artifact_fires_and_an_unpinned_one_does_not(workspace: Workspace) -> None:
    add(workspace, pins="say", overlap="queue")
    server = watcher()
    server.look(workspace, NIGHT)
    pin(workspace.store, ArtifactKey("shout", "a" * 64))
    server.look(workspace, NIGHT + 20)
    assert queued(workspace) == []
    pin(workspace.store, ArtifactKey("say", "b" * 64))
    server.look(workspace, NIGHT + 40)
    assert len(queued(workspace)) == 1


@pytest.mark.parametrize(
    ("cron", "zone", "message"),
    [
        ("0 0 30 2 *", "UTC", "--cron: found '0 0 30 2 \\*', which never fires: no month of it has such a day"),
        ("61 * * * *", "UTC", "--cron: found '61 .*', which is no cron line: bad minute; expected five fields"),
        ("daily", "UTC", "--cron: found 'daily', which is no cron line: wrong number of fields"),
        ("0 0 * * *", "Nowhere/City", "--zone: found 'Nowhere/City', expected a time zone"),
    ],
)
def test_a_line_that_never_fires_is_refused(cron: str, zone: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        next_due(cron, zone, NIGHT)


def test_a_line_is_read_in_its_zone() -> None:
    assert next_due("30 2 * * *", "Europe/Berlin", NIGHT) == NIGHT + 0.5 * HOUR
