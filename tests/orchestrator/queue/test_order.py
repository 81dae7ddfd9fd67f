"""Who goes next on a shared cluster: the rules one by one, and 1,000 runs on a clock that nobody waits for."""

import heapq
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from orchestrator.queue.amounts import Amounts, total
from orchestrator.queue.order import Decision, Holder, Policy, Request, decide, level

CLUSTER = Amounts(cpus=64, gpus=8, memory_gib=512)
POLICY = Policy(level_s=1000.0, passed_for_s=100.0)


def request(run: str, *, gpus: float = 0, cpus: float = 1, person: str = "ada", priority: int = 0, at: float = 0.0,
            makes: str = "") -> Request:  # fmt: skip
    need = Amounts(cpus=cpus, gpus=gpus, memory_gib=cpus)
    return Request(run_id=run, stage_id="s", person=person, priority=priority, need=need, asked_at=at, makes=makes)


def holder(waiting: Request, *, at: float = 0.0, may_yield: bool = True, is_yielding: bool = False) -> Holder:
    return Holder(request=waiting, granted_at=at, may_yield=may_yield, is_yielding=is_yielding)


def started(decision: Decision) -> list[str]:
    return [start.run_id for start in decision.starts]


def test_a_higher_priority_goes_first_then_who_asked_first() -> None:
    waiting = [request("late", gpus=4, at=2), request("early", gpus=4, at=1), request("high", gpus=4, priority=1, at=3)]
    decision = decide(waiting, [], CLUSTER, now=10, policy=POLICY)
    assert started(decision) == ["high", "early"]
    assert decision.waits == {("late", "s"): "4 GPUs: 8 of 8 are taken"}


def test_cpus_accelerators_and_memory_all_count_across_runs() -> None:
    holders = [holder(request("a", cpus=60, gpus=2), may_yield=False)]
    waiting = [request("cpu", cpus=8, at=1), request("gpu", gpus=8, at=2), request("both", cpus=4, gpus=6, at=3)]
    decision = decide(waiting, holders, CLUSTER, now=10, policy=POLICY)
    assert started(decision) == ["both"]
    assert decision.waits[("cpu", "s")] == "8 CPUs: 60 of 64 are taken"
    assert decision.waits[("gpu", "s")] == "8 GPUs: 2 of 8 are taken"
    full = decide([request("m", cpus=1)], [holder(replace(waiting[0], need=Amounts(memory_gib=512)))], CLUSTER, now=0)
    assert full.waits[("m", "s")] == "1 GiB: 512 of 512 are taken"


def test_who_used_least_lately_goes_first_within_a_priority() -> None:
    waiting = [request("a", gpus=8, person="ada", at=1), request("b", gpus=8, person="bob", at=2)]
    assert started(decide(waiting, [], CLUSTER, now=9, used={"ada": 50.0}, policy=POLICY)) == ["b"]
    assert started(decide(waiting, [], CLUSTER, now=9, policy=POLICY)) == ["a"]


def test_persons_take_turns_within_one_decision() -> None:
    waiting = [request(f"a{n}", gpus=2, person="ada", at=n) for n in range(4)]
    waiting += [request(f"b{n}", gpus=2, person="bob", at=10 + n) for n in range(4)]
    assert started(decide(waiting, [], CLUSTER, now=20, policy=POLICY)) == ["a0", "b0", "a1", "b1"]


def test_small_ones_fill_gaps_until_the_large_one_has_waited_long_enough() -> None:
    large, small = request("large", gpus=8, at=0), request("small", gpus=1, at=5)
    at_work = [holder(request("old", gpus=4), may_yield=False)]
    assert started(decide([large, small], at_work, CLUSTER, now=50, policy=POLICY)) == ["small"]
    late = decide([large, small], at_work, CLUSTER, now=100, policy=POLICY)
    assert started(late) == []
    assert late.waits[("small", "s")] == "room that is kept for one that goes first"
    beside = decide([large, request("cpus", cpus=8, at=5)], at_work, CLUSTER, now=100, policy=POLICY)
    assert started(beside) == ["cpus"], "what fits beside it delays nobody"


def test_what_fits_beside_the_large_one_counts_once_it_has_started() -> None:
    large = request("large", cpus=40, at=0)
    beside = [holder(request("old", cpus=40), at=0, may_yield=False), holder(request("first", cpus=20), at=150)]
    decision = decide([large, request("second", cpus=4, at=1), request("third", cpus=5, at=2)], beside, CLUSTER,
                      now=200, policy=POLICY)  # fmt: skip
    assert started(decision) == ["second"], "20 + 4 fit beside 40 of 64, 20 + 4 + 5 do not"


def test_a_higher_priority_asks_the_lowest_and_newest_to_make_room_and_no_more_than_help() -> None:
    at_work = [
        holder(request("old", gpus=4), at=1),
        holder(request("new", gpus=4), at=2),
        holder(request("cpus", cpus=30), at=3),
    ]
    urgent = request("urgent", gpus=4, priority=5, at=9)
    decision = decide([urgent], at_work, CLUSTER, now=10, policy=POLICY)
    assert started(decision) == []
    assert decision.yields == {"new": urgent}
    asked = [replace(found, is_yielding=found.request.run_id == "new") for found in at_work]
    again = decide([urgent, request("small", gpus=1, priority=1)], asked, CLUSTER, now=11, policy=POLICY)
    assert again.yields == {}, "one that is asked is not asked again, and no other one beside it"


def test_nothing_makes_room_in_vain_for_an_equal_or_without_being_continued() -> None:
    urgent = request("urgent", gpus=8, priority=5, at=9)
    in_vain = [holder(request("a", gpus=4)), holder(request("b", gpus=4), may_yield=False)]
    assert not decide([urgent], in_vain, CLUSTER, now=10, policy=POLICY).yields
    equal = [holder(request("a", gpus=8, priority=5))]
    assert not decide([urgent], equal, CLUSTER, now=10**6, policy=POLICY).yields, "waiting takes no room from anybody"


def test_the_room_that_is_made_is_for_the_one_that_asked() -> None:
    urgent, small = request("urgent", gpus=8, priority=5, at=9), request("small", gpus=4, at=1)
    leaving = [holder(request("low", gpus=4), is_yielding=True)]
    assert started(decide([urgent, small], leaving, CLUSTER, now=10, policy=POLICY)) == []


def test_an_artifact_is_made_once() -> None:
    first, second = request("a", makes="f" * 64, at=1), request("b", makes="f" * 64, at=2)
    decision = decide([second, first], [], CLUSTER, now=3, policy=POLICY)
    assert started(decision) == ["a"]
    assert decision.waits == {("b", "s"): "an artifact that run a makes"}
    assert started(decide([second], [holder(first)], CLUSTER, now=3, policy=POLICY)) == []


def test_what_is_larger_than_the_cluster_runs_alone() -> None:
    huge = request("huge", cpus=500)
    assert started(decide([huge], [], CLUSTER, now=0, policy=POLICY)) == ["huge"]
    assert started(decide([request("x")], [holder(huge)], CLUSTER, now=0, policy=POLICY)) == []


def test_waiting_raises_the_level() -> None:
    assert [level(request("a", at=0), now=now, policy=POLICY) for now in (0, 999, 1000, 5500)] == [0, 0, 1, 5]


@dataclass
class Simulation:
    """Servers, drivers and a cluster on a fake clock. A run that makes room continues with what it has left."""

    runs: dict[str, tuple[Request, float]]  # with seconds of work
    policy: Policy = POLICY
    now: float = 0.0
    waiting: dict[str, Request] = field(default_factory=dict)
    at_work: dict[str, Holder] = field(default_factory=dict)
    left_s: dict[str, float] = field(default_factory=dict)
    used: dict[str, float] = field(default_factory=dict)
    starts: list[tuple[float, str]] = field(default_factory=list)
    ends: dict[str, float] = field(default_factory=dict)
    stops: int = 0

    def play(self, *, stop_s: float = 5.0) -> None:
        self.left_s = {run: work for run, (_, work) in self.runs.items()}
        coming = sorted((waiting.asked_at, run) for run, (waiting, _) in self.runs.items())
        timers: list[tuple[float, str]] = [(at, run) for at, run in coming]  # arrivals, ends and stops
        heapq.heapify(timers)
        while timers:
            at, run = heapq.heappop(timers)
            self._let_pass(at - self.now)
            if run in self.at_work and (self.left_s[run] <= 1e-6 or self.at_work[run].is_yielding):
                self._leave(run)
            elif run not in self.at_work and run not in self.ends and run not in self.waiting:
                self.waiting[run] = self.runs[run][0]
            if not self.waiting:
                continue
            for _server in range(2):  # the second one finds nothing left to do
                for timer in self._decide(stop_s):
                    heapq.heappush(timers, timer)

    def _let_pass(self, seconds: float) -> None:
        self.now += seconds
        for run, found in self.at_work.items():
            self.left_s[run] -= seconds
            share = found.request.need.share_of(CLUSTER) * seconds
            self.used[found.request.person] = self.used.get(found.request.person, 0.0) + share

    def _leave(self, run: str) -> None:
        found = self.at_work.pop(run)
        if self.left_s[run] <= 1e-6:
            self.ends[run] = self.now
        else:
            self.stops += 1
            self.waiting[run] = found.request

    def _decide(self, stop_s: float) -> list[tuple[float, str]]:
        decision = decide(list(self.waiting.values()), list(self.at_work.values()), CLUSTER, now=self.now,
                          used=self.used, policy=self.policy)  # fmt: skip
        timers = []
        for start in decision.starts:
            del self.waiting[start.run_id]  # a second start of it would be a KeyError here
            self.at_work[start.run_id] = holder(start, at=self.now)
            self.starts.append((self.now, start.run_id))
            timers.append((self.now + self.left_s[start.run_id], start.run_id))
        for run in decision.yields:
            self.at_work[run] = replace(self.at_work[run], is_yielding=True)
            timers.append((self.now + stop_s, run))
        held = total(found.request.need for found in self.at_work.values())
        assert held.fits_in(CLUSTER), f"more is at work than the cluster has: {held}"
        idle = CLUSTER - held
        if self.waiting and not self.at_work:
            raise AssertionError(f"nothing is at work though {idle} are free and {len(self.waiting)} wait")
        return timers


NEEDS = [(1.0, 0.0), (8.0, 0.0), (8.0, 1.0), (16.0, 2.0), (32.0, 4.0), (64.0, 8.0)]


@settings(max_examples=5, deadline=None)
@given(some.integers(0, 2**32))
def test_a_thousand_runs_end_once_in_bounded_time(seed: int) -> None:
    random, runs = Random(seed), {}
    for number in range(1000):
        cpus, gpus = random.choice(NEEDS)
        run = f"r{number:04d}"
        waiting = request(run, cpus=cpus, gpus=gpus, person=random.choice(["ada", "bob", "eve"]),
                          priority=random.choice([0, 0, 0, 1, 5]), at=random.uniform(0, 20_000))  # fmt: skip
        runs[run] = (waiting, random.uniform(1, 60))
    world = Simulation(runs)
    world.play()
    assert set(world.ends) == set(runs), "nothing starves"
    assert len(world.starts) == len(runs) + world.stops, "each starts once, and once more after each stop"
    work_s = sum(waiting.need.share_of(CLUSTER) * work for waiting, work in runs.values())
    assert max(world.ends.values()) < 20_000 + 3 * work_s + world.stops * 5


def test_a_large_run_starts_although_small_and_urgent_ones_never_end() -> None:
    runs = {"large": (request("large", gpus=8, person="ada", at=10), 50.0)}
    for number in range(300):
        run = f"s{number}"
        runs[run] = (request(run, gpus=1, person="bob", priority=number % 2, at=number * 5.0), 60.0)
    policy = Policy(level_s=200.0, passed_for_s=100.0)
    world = Simulation(runs, policy)
    world.play()
    start = next(at for at, run in world.starts if run == "large")
    assert start <= 10 + policy.level_s * 2 + policy.passed_for_s + 60, "two levels, then what is at work has to end"


def test_two_persons_get_equal_shares_however_many_runs_each_has() -> None:
    runs = {}
    for number in range(200):
        person = "bob" if number % 10 == 0 else "ada"
        runs[f"r{number:03d}"] = (request(f"r{number:03d}", gpus=4, person=person, at=0.0), 10.0)
    world = Simulation(runs)
    world.play()
    first = [runs[run][0].person for _, run in world.starts[:40]]
    assert abs(first.count("bob") - first.count("ada")) <= 4
    assert world.stops == 0


@pytest.mark.parametrize("priority", [1, 5])
def test_what_makes_room_continues_by_itself(priority: int) -> None:
    runs = {
        "low": (request("low", gpus=8, at=0), 100.0),
        "high": (request("high", gpus=8, priority=priority, at=50), 20.0),
    }
    world = Simulation(runs)
    world.play(stop_s=5.0)
    assert world.starts == [(0.0, "low"), (55.0, "high"), (75.0, "low")]
    assert world.ends == {"high": 75.0, "low": 120.0}
