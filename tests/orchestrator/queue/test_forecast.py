"""When what waits is expected to start."""

from orchestrator.queue.amounts import Amounts
from orchestrator.queue.claims import View
from orchestrator.queue.forecast import expected_starts
from orchestrator.queue.order import Holder, Request


def stage(run: str, gpus: float, at: float = 0.0) -> Request:
    return Request(run_id=run, stage_id="", person="ada", priority=0, need=Amounts(gpus=gpus), asked_at=at)


def view(requests: list[Request], holders: list[Holder]) -> View:
    return View(requests=requests, holders=holders, capacity=Amounts(cpus=8, gpus=8, memory_gib=8), used={}, now=100.0)


def test_starts_follow_from_the_ends_of_what_is_at_work() -> None:
    at_work = [Holder(request=stage("a", 4), granted_at=0.0), Holder(request=stage("b", 4), granted_at=0.0)]
    waiting = [stage("c", 4, 1), stage("d", 8, 2), stage("e", 8, 3)]
    lasts_s = {"a": 50.0, "b": 10.0, "c": 100.0, "d": 5.0, "e": 1.0}
    assert expected_starts(view(waiting, at_work), lasts_s) == {"c": 110.0, "d": 210.0, "e": 215.0}


def test_nothing_is_foreseen_behind_what_was_never_timed() -> None:
    at_work = [Holder(request=stage("a", 8), granted_at=0.0)]
    assert expected_starts(view([stage("b", 8, 1)], at_work), {"a": None, "b": 5.0}) == {}
    assert expected_starts(view([stage("b", 8, 1), stage("c", 8, 2)], []), {"b": None}) == {"b": 100.0}
