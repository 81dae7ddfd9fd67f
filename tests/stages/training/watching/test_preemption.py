"""When a training asks whether its nodes are taken away, and why it ends."""

from collections.abc import Mapping
from typing import Any

import torch

from stages.training.agreement import WorkerRank
from stages.training.watching.preemption import LOOK_S, PreemptionWatch

CPU = torch.device("cpu")


class Notices:
    def __init__(self, found: Mapping[str, Any] | None = None) -> None:
        self.found, self.num_asked = found, 0

    def preempted(self) -> bool:
        return False

    def look_for_preemption(self) -> Mapping[str, Any] | None:
        self.num_asked += 1
        return self.found


def test_rank_0_asks_every_few_seconds_and_the_others_ask_when_it_does() -> None:
    now = [0.0]
    first = PreemptionWatch(Notices(), WorkerRank(rank=0, world_size=2, device=CPU), lambda: now[0])
    other = PreemptionWatch(Notices(), WorkerRank(rank=1, world_size=2, device=CPU), lambda: now[0])
    due = []
    for now[0] in range(1, 13):
        due.append(first.is_due())
        assert not other.is_due()
    assert [second for second, is_due in enumerate(due, start=1) if is_due] == [LOOK_S, 2 * LOOK_S]


def test_the_cluster_is_asked_exactly_when_all_agreed_to_as_each_answer_waits_for_all() -> None:
    notices = Notices({"nodes": ["a"], "deadline_ms": 7})
    watch = PreemptionWatch(notices, WorkerRank(rank=0, world_size=1, device=CPU))
    assert watch.reason(was_told=False, is_asked=False) is None
    assert notices.num_asked == 0
    assert watch.reason(was_told=True, is_asked=True) == {
        "message": "nodes are taken away: a",
        "nodes": ["a"],
        "deadline_ms": 7,
    }
    assert watch.reason(was_told=True, is_asked=False) == {"message": "a worker was told to end (SIGTERM)"}
    notices.found = None
    assert watch.reason(was_told=False, is_asked=True) is None
    assert notices.num_asked == 2
