"""What `/healthz` says of the background work, and a scheduler that outlives its bad rounds."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.applications import Starlette

from orchestrator.scheduler import loop
from orchestrator.scheduler.drivers import Drivers
from orchestrator.scheduler.loop import Scheduler
from orchestrator.web.settings import Background, Settings
from orchestrator.workspace import Workspace
from stages import STAGE_KINDS
from tests.orchestrator.web.conftest import ClientOf, MadeUp


def wait_for(is_so: Callable[[], bool]) -> None:
    for _ in range(2000):
        if is_so():
            return
        time.sleep(0.005)
    raise AssertionError("it did not happen within 10 s")


def test_work_that_has_ended_makes_the_service_unwell(client_of: ClientOf) -> None:
    ends = threading.Event()

    def run(_stopping: threading.Event) -> None:
        ends.wait()
        raise ValueError("a bug")

    client = client_of(background=(Background(name="scheduler", run=run, note=lambda: "ok, drives 0 runs"),))
    assert (client.get("/healthz").status_code, client.get("/healthz").text) == (
        200,
        "ok\nscheduler: ok, drives 0 runs\n",
    )
    ends.set()
    wait_for(lambda: client.get("/healthz").status_code == 503)
    assert client.get("/healthz").text == "ok\nscheduler: has ended; start this service again\n"
    assert client.get("/runs").status_code == 200, "the pages go on"


def test_a_scheduler_outlives_its_bad_rounds_and_says_so(
    client_of: ClientOf, settings: Settings, made_up: MadeUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: list[Exception] = []

    class Watcher:
        def look(self, workspace: Workspace, now: float) -> dict[str, str]:
            if broken:
                raise broken[0]
            return {}

    scheduler = Scheduler(
        open=settings.open,
        kinds=STAGE_KINDS,
        drivers=Drivers(folder=tmp_path / "queue", arguments=()),
        watchers=(Watcher(),),
        tick_s=0.01,
    )
    work = Background(name="scheduler", run=scheduler.run, problem=scheduler.problem, note=scheduler.note)
    client = client_of(background=(work,))
    wait_for(lambda: client.get("/healthz").text == "ok\nscheduler: ok, drives 0 runs\n")
    broken.append(KeyError("a record that nobody expected"))
    wait_for(lambda: "KeyError, a bug in illume" in client.get("/healthz").text)
    assert client.get("/healthz").status_code == 200, "it tries again by itself"
    broken.clear()
    wait_for(lambda: client.get("/healthz").text == "ok\nscheduler: ok, drives 0 runs\n")
    monkeypatch.setattr(loop, "STUCK_S", -1.0)
    assert client.get("/healthz").status_code == 503, "a round that does not end is cured by another process"
    assert "scheduler: no round has ended for" in client.get("/healthz").text


def test_a_scheduler_whose_database_was_replaced_goes_on_with_the_new_one(
    settings: Settings, made_up: MadeUp, tmp_path: Path
) -> None:
    opened: list[Workspace] = []

    def open_workspace() -> Workspace:
        opened.append(Workspace.open(root=made_up.workspace.root, tracking_url="none"))
        return opened[-1]

    scheduler = Scheduler(
        open=open_workspace, kinds=STAGE_KINDS, drivers=Drivers(folder=tmp_path / "queue", arguments=()), tick_s=0.01
    )
    stopping = threading.Event()
    thread = threading.Thread(target=scheduler.run, args=(stopping,))
    thread.start()
    wait_for(lambda: bool(opened))
    (made_up.workspace.root / "index.db").rename(made_up.workspace.root / "moved.db")
    wait_for(lambda: len(opened) > 1 and not opened[-1].database.was_replaced())
    assert thread.is_alive()
    stopping.set()
    thread.join()


def test_a_feed_outlives_an_error_that_nobody_expected(
    client_of: ClientOf, settings: Settings, made_up: MadeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.web.service.REOPEN_S", 0.0)
    made_up.start("r1")
    fails = [False]

    def open_workspace() -> Workspace:
        if fails[0]:
            raise ValueError("a bug")
        return settings.open()

    client = client_of(open=open_workspace)
    assert isinstance(client.app, Starlette)
    feed = client.app.state.feed
    feed.enter()
    wait_for(lambda: feed.heads == {"r1": 2})
    fails[0] = True
    (made_up.workspace.root / "index.db").rename(made_up.workspace.root / "moved.db")
    wait_for(lambda: feed.problem.startswith("ValueError"))
    (made_up.workspace.root / "moved.db").rename(made_up.workspace.root / "index.db")
    fails[0] = False
    wait_for(lambda: not feed.problem)
    feed.leave()
