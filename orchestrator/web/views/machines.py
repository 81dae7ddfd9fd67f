"""The machines as the history knows them: who works there, which workers were lost, what stages complained about."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.failures.failure_class import FailureClass
from orchestrator.history.database.database import Database
from orchestrator.history.event_search import EventFilter, search_events
from orchestrator.history.events import Event, EventKind
from orchestrator.history.node_offences import MAX_OFFENCES, NODE_OFFENCE
from orchestrator.history.run_search import AttemptRow, events_of_kinds

NUM_OFFENCES = 200
SYSTEM = "system/"  # how the metrics of a machine begin that a training reports
NUM_METRIC_EVENTS = 5  # the newest, in which they are looked for
_USE = {
    "gpu_0_utilization_percentage": "GPU",
    "gpu_0_memory_usage_percentage": "GPU memory",
    "cpu_utilization_percentage": "CPU",
    "system_memory_usage_percentage": "memory",
    "disk_usage_percentage": "disk",
}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine that workers of attempts at work were started on, or that a stage complained about."""

    name: str
    num_workers: int  # of attempts at work, without those that were lost
    stages: tuple[str, ...]  # that they work for, `RUN:STAGE`
    num_lost: int  # workers that these attempts lost there
    was_taken: bool  # one of them was lost because the machine is drained or was preempted
    offences: tuple[str, ...]
    is_avoided: bool


@dataclass(frozen=True, kw_only=True)
class Use:
    """How busy a part of a machine is."""

    name: str
    percent: float


def machines_of(database: Database, at_work: Sequence[AttemptRow]) -> tuple[Machine, ...]:
    """By name. `at_work`: the attempts that have not ended."""
    workers: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    taken: set[str] = set()
    stages: dict[str, set[str]] = {}
    for row in at_work:
        hosts: dict[Any, str] = {}
        for event in _worker_events(database, row):
            host = str(event.fields.get("host", ""))
            if event.kind == "worker_started":
                hosts[event.fields.get("pid")] = host
                workers[host] += 1
                stages.setdefault(host, set()).add(f"{row.run_id}:{row.stage_id}")
            elif (was_at := hosts.pop(event.fields.get("pid"), None)) is not None:
                workers[was_at] -= 1
                lost[was_at] += 1
                if event.fields.get("failure") == FailureClass.PREEMPTED:
                    taken.add(was_at)
    offences, certain = _offences(database)
    names = sorted((set(workers) | set(offences)) - {""})
    return tuple(
        Machine(
            name=name,
            num_workers=workers[name],
            stages=tuple(sorted(stages.get(name, ()))),
            num_lost=lost[name],
            was_taken=name in taken,
            offences=tuple(offences.get(name, ())),
            is_avoided=certain[name] > MAX_OFFENCES,
        )
        for name in names
    )


def use_of(database: Database, row: AttemptRow) -> tuple[Use, ...]:
    """Of the machine of a training's first worker, as it was told last; nothing of stages that do not tell."""
    if row.unit != "steps":
        return ()
    newest = events_of_kinds(database, row.run_id, [EventKind.METRICS], stages=[row.stage_id], newest=NUM_METRIC_EVENTS)
    last = dict(_system_metrics(event for event in newest if event.attempt_id == row.attempt_id))
    return tuple(Use(name=shown, percent=last[name]) for name, shown in _USE.items() if name in last)


def _worker_events(database: Database, row: AttemptRow) -> list[Event]:
    found = events_of_kinds(database, row.run_id, ["worker_started", "worker_lost"], stages=[row.stage_id])
    return [event for event in found if event.attempt_id == row.attempt_id]


def _system_metrics(events: Iterable[Event]) -> Iterable[tuple[str, float]]:
    for event in events:
        points: Any = event.fields.get("points", [])
        for name, value, _step, _at in points:
            if str(name).startswith(SYSTEM):
                yield str(name).removeprefix(SYSTEM), float(value)


def _offences(database: Database) -> tuple[Mapping[str, list[str]], Counter[str]]:
    """By node: what was said of it, and how much it counts."""
    found = search_events(database, EventFilter(kind=NODE_OFFENCE), limit=NUM_OFFENCES)
    offences: dict[str, list[str]] = {}
    certain: Counter[str] = Counter()
    for event in found.events:
        node = str(event.fields.get("node", ""))
        offences.setdefault(node, []).append(f"{event.fields.get('what', '')} in {event.run_id}")
        certain[node] += MAX_OFFENCES + 1 if event.fields.get("certain") is True else 1
    return offences, certain
