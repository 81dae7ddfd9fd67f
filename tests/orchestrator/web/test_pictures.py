"""What views of a run look like."""

from starlette.testclient import TestClient

from orchestrator.web.drawings.gantt import GanttWait
from orchestrator.web.pictures import _end_of, _wait, hours
from orchestrator.web.views.stage_rows import AttemptBar, Wait
from tests.orchestrator.web.conftest import MadeUp


def bar(began_at: float, ended_at: float | None) -> AttemptBar:
    return AttemptBar(
        attempt="a", number=1, epoch=1, state="COMMITTED", began_at=began_at, ended_at=ended_at, failure_class="",
        message="", link="",
    )  # fmt: skip


def test_a_wait_without_a_recorded_end_lasts_to_the_next_begin_or_end_of_an_attempt() -> None:
    wait = Wait(kind="gpus", text="gpus", since=100.0, until=None)
    assert _end_of(wait, [bar(150.0, 200.0)]) == 150.0
    assert _end_of(wait, [bar(90.0, 200.0)]) == 200.0
    assert _end_of(wait, [bar(10.0, 50.0)]) is None  # it waits now
    assert _end_of(Wait(kind="gpus", text="", since=100.0, until=120.0), [bar(150.0, None)]) == 120.0


def test_each_kind_of_waiting_has_its_own_hatching() -> None:
    def drawn(kind: str) -> GanttWait:
        return _wait(Wait(kind=kind, text=f"{kind} x", since=0.0, until=60.0), 60.0, 60.0)

    assert [drawn(kind).kind for kind in ("gpus", "run", "approval", "words")] == ["capacity", "run", "queue", "other"]
    assert drawn("run").text == "waited 1 min 00 s for run x"


def test_the_page_of_a_run_tells_made_failed_and_waiting_apart(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    made_up.commit("r1", "raw")
    made_up.fail("r1", "curated", "no memory <b>left</b>")
    page = client.get("/runs/r1").text
    assert 'class="stage tone-made"' in page
    assert 'class="stage tone-failed"' in page
    assert 'class="stage tone-waiting"' in page
    assert "What failed first" in page
    assert "no memory &lt;b&gt;left&lt;/b&gt;" in page


def test_the_strip_of_a_run_stands_in_the_list(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    made_up.commit("r1", "raw")
    assert 'aria-label="tiny: 1 made, 3 waiting"' in client.get("/runs").text


def test_hours_are_short() -> None:
    assert [hours(value) for value in (0.0, 1e-5, 0.25, 96.44, 12_040.7)] == ["0", "< 0.01", "0.25", "96.4", "12,041"]
