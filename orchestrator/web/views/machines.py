"""The machines as the history knows them: who works there, which workers were lost, what stages complained about."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, select

from orchestrator.failures.failure_class import FailureClass
from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import events, stages
from orchestrator.history.events import Event, EventKind
from orchestrator.history.node_offences import MAX_OFFENCES, NODE_OFFENCE
from orchestrator.history.projection import event_from_row
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


def machines_of(database: Database, at_work: Sequence[AttemptRow], run_ids: Sequence[str]) -> tuple[Machine, ...]:
    """By name. `at_work`: the attempts that have not ended. `run_ids`: the runs whose complaints are told."""
    workers: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    taken: set[str] = set()
    worked_for: dict[str, set[str]] = {}
    for row in at_work:
        hosts: dict[Any, str] = {}
        for event in _worker_events(database, row):
            host = str(event.fields.get("host", ""))
            if event.kind == "worker_started":
                hosts[event.fields.get("pid")] = host
                workers[host] += 1
                worked_for.setdefault(host, set()).add(f"{row.run_id}:{row.stage_id}")
            elif (was_at := hosts.pop(event.fields.get("pid"), None)) is not None:
                workers[was_at] -= 1
                lost[was_at] += 1
                if event.fields.get("failure") == FailureClass.PREEMPTED:
                    taken.add(was_at)
    offences, certain = _offences(database, run_ids)
    names = sorted((set(workers) | set(offences)) - {""})
    return tuple(
        Machine(
            name=name,
            num_workers=workers[name],
            stages=tuple(sorted(worked_for.get(name, ()))),
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


def _offences(database: Database, run_ids: Sequence[str]) -> tuple[Mapping[str, list[str]], Counter[str]]:
    """By node: what was said of it, the newest first, and how much it counts."""
    of_stage = and_(events.c.run_id == stages.c.run_id, events.c.stage_id == stages.c.stage_id)  # seeks in an index
    query = (
        select(events)
        .select_from(stages.join(events, of_stage))
        .where(stages.c.run_id.in_(run_ids), events.c.kind == NODE_OFFENCE)
        .order_by(events.c.time.desc())
        .limit(NUM_OFFENCES)
    )
    rows = database.read(lambda connection: connection.execute(query).all())
    offences: dict[str, list[str]] = {}
    certain: Counter[str] = Counter()
    for event in map(event_from_row, rows):
        node = str(event.fields.get("node", ""))
        offences.setdefault(node, []).append(f"{event.fields.get('what', '')} in {event.run_id}")
        certain[node] += MAX_OFFENCES + 1 if event.fields.get("certain") is True else 1
    return offences, certain
