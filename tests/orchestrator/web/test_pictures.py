"""What views of a run look like."""

from starlette.testclient import TestClient

from orchestrator.queue.records import A_PERSON
from orchestrator.web.drawings.gantt import WAIT_KINDS
from orchestrator.web.pictures import _end_of, _wait, hours, money
from orchestrator.web.views.money import Cost
from orchestrator.web.views.stage_rows import AttemptBar, Wait, wait_kind
from tests.orchestrator.web.conftest import MadeUp


def bar(began_at: float, ended_at: float | None) -> AttemptBar:
    return AttemptBar(
        attempt="a", number=1, epoch=1, state="COMMITTED", began_at=began_at, ended_at=ended_at, failure_class="",
        message="", link="",
    )  # fmt: skip


def test_a_wait_without_a_recorded_end_lasts_to_the_next_begin_or_end_of_an_attempt() -> None:
    wait = Wait(kind="capacity", text="gpus", since=100.0, until=None)
    assert _end_of(wait, [bar(150.0, 200.0)]) == 150.0
    assert _end_of(wait, [bar(90.0, 200.0)]) == 200.0
    assert _end_of(wait, [bar(10.0, 50.0)]) is None  # it waits now
    assert _end_of(Wait(kind="capacity", text="", since=100.0, until=120.0), [bar(150.0, None)]) == 120.0


def test_each_kind_of_waiting_has_its_own_hatching() -> None:
    texts = {
        "2 CPUs: 1 of 2 are taken by vocabulary": "capacity",
        "room for a worker process (1 CPU; free: 0 CPU)": "capacity",
        "gpus: 8, 2 are free": "capacity",
        "run 20260504-101500-a1b2c3 to succeed": "run",
        f"{A_PERSON}: `illume approve r1:model`": "person",
        "words": "other",
    }
    assert {text: wait_kind(text) for text in texts} == texts
    assert set(texts.values()) == set(WAIT_KINDS), "each is drawn"
    drawn = _wait(Wait(kind="run", text="run x", since=0.0, until=60.0), 60.0, 60.0)
    assert (drawn.kind, drawn.text) == ("run", "waited 1 min 00 s for run x")


def test_money_is_unknown_where_a_price_is() -> None:
    costs = (Cost(gpu_hours=0.0, money=0.0), Cost(gpu_hours=2.0, money=None), Cost(gpu_hours=2.0, money=1234.5))
    assert [money(cost) for cost in costs] == ["", "unknown", "1,234.50"]


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
