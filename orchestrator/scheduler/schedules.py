"""Schedules: submit a recipe at the times of a cron line, when files are new, or when an artifact is pinned.

Rule: a moment fires once, whoever sees it: its record has the next number of its schedule, put if absent, and names
the run, which is submitted again should the server have died in between. Moments that nobody saw fire once together.
"""

import hashlib
import logging
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from orchestrator.errors import OrchestratorError, RecipeError
from orchestrator.planning.plan import Plan, PlanOptions, make_plan
from orchestrator.planning.plan_file import plan_digest
from orchestrator.planning.store_view import plan_view
from orchestrator.queue.entries import Entry, open_entries, submission_of
from orchestrator.queue.records import Firing, Schedule, Submission
from orchestrator.queue.rows import add_record, newest, newest_of
from orchestrator.recipe.loading import Kinds, load_recipe
from orchestrator.retention.pins import pins
from orchestrator.scheduler.submitting import estimate_s, stage_needs, submit
from orchestrator.store.store import open_store
from orchestrator.times import iso_time
from orchestrator.workspace import Workspace, new_run_id

LOOK_S = 10.0
REST_S = 60.0  # how long files have to be the same before they count as complete
AGAIN_S = 300.0  # before a schedule that could not be carried out is tried again

log = logging.getLogger(__name__)


def next_due(cron: str, zone: str, after: float) -> float:
    """The first moment of a cron line after a time, seconds since 1970.

    Raises: RecipeError: it is no cron line, no time zone, or never fires.
    """
    from cronsim import CronSim  # late: only schedules need it

    try:
        start = datetime.fromtimestamp(after, ZoneInfo(zone))
    except (KeyError, ValueError, OSError) as error:
        raise RecipeError(f"--zone: found {zone!r}, expected a time zone such as Europe/Berlin or UTC") from error
    problem = _cron_problem(cron)
    if problem and _days_never_come(cron):
        raise RecipeError(f"--cron: found {cron!r}, which never fires: no month of it has such a day")
    if problem:
        raise RecipeError(
            f"--cron: found {cron!r}, which is no cron line: {problem.lower()}; expected five fields: minute, hour, "
            "day of the month, month, day of the week, e.g. '30 2 * * 1-5'"
        )
    try:
        found: datetime = next(CronSim(cron, start))
    except StopIteration:
        raise RecipeError(f"--cron: found {cron!r}, which never fires: no day of the next 50 years fits it") from None
    return found.timestamp()


def _cron_problem(cron: str) -> str:
    """What is wrong with a cron line; empty: nothing."""
    from cronsim import CronSim, CronSimError  # late, as above

    try:
        CronSim(cron, datetime.fromtimestamp(0, UTC))
    except CronSimError as error:
        return str(error)
    return ""


def _days_never_come(cron: str) -> bool:
    """Whether the days and the months of a cron line are right by themselves, and never together."""
    fields = cron.split()
    if len(fields) != 5:
        return False
    minute, hour, day, month, weekday = fields
    return not _cron_problem(f"{minute} {hour} {day} * {weekday}") and not _cron_problem(f"* * * {month} *")


@dataclass(kw_only=True)
class ScheduleWatcher:
    """Fires schedules and triggers."""

    kinds: Kinds
    notify: Callable[[Workspace, str, str], None]
    _looked_at: float = float("-inf")
    _seen: dict[str, tuple[str, float]] = field(default_factory=dict)  # by schedule: a new state, and since when
    _not_before: dict[str, float] = field(default_factory=dict)

    def look(self, workspace: Workspace, now: float) -> dict[str, str]:
        if now - self._looked_at < LOOK_S:
            return {}
        self._looked_at = now
        for name, schedule in newest(workspace.database, Schedule).items():
            if schedule.is_paused or schedule.is_removed or now < self._not_before.get(name, 0.0):
                continue
            try:
                self._look_at(workspace, name, schedule, now)
            except (OrchestratorError, OSError) as error:
                log.warning("schedule %s: %s", name, error)
                self._not_before[name] = now + AGAIN_S
                self.notify(workspace, f"schedule {name} cannot be carried out: {error}", "illume schedule list")
        return {}

    def _look_at(self, workspace: Workspace, name: str, schedule: Schedule, now: float) -> None:
        last = newest_of(workspace.database, Firing, name)
        number, firing = last if last is not None else (0, None)
        if firing is not None and firing.run_id and submission_of(workspace.database, firing.run_id) is None:
            self._submit(workspace, name, schedule, firing.run_id)  # the server that fired it has died
        due, state = self._due(workspace, name, schedule, firing, now)
        if due is None:
            return
        is_first = state != "" and firing is None  # a trigger: what is there at first fires nothing
        blocking = None if is_first else self._blocking(workspace, name, schedule)
        run_id = "" if is_first or blocking is not None else new_run_id()
        note = "" if blocking is None else f"skipped: run {blocking.run_id} of it is {blocking.state.lower()}"
        record = Firing(at=iso_time(now), due=iso_time(due), run_id=run_id, state=state, note=note)
        if not add_record(workspace.store, workspace.database, "firings", name, record, number=number + 1):
            return  # another server fired it
        self._seen.pop(name, None)
        if run_id:
            self._submit(workspace, name, schedule, run_id)

    def _due(
        self, workspace: Workspace, name: str, schedule: Schedule, firing: Firing | None, now: float
    ) -> tuple[float | None, str]:
        """The moment that is due, or None; and what a trigger sees."""
        if schedule.cron:
            last = _seconds(firing.due) if firing is not None else 0.0
            due = next_due(schedule.cron, schedule.zone, max(last, _seconds(schedule.at)))
            if due > now:
                return None, ""
            while (later := next_due(schedule.cron, schedule.zone, due)) <= now:
                due = later
            return due, ""
        state = files_state(schedule.files) if schedule.files else _pins_state(workspace, schedule.pins)
        known = "" if firing is None else firing.state
        if state == known or (schedule.pins and firing is not None and set(state.split(",")) <= set(known.split(","))):
            self._seen.pop(name, None)
            return None, ""
        before, since = self._seen.get(name, ("", now))
        self._seen[name] = (state, since if before == state else now)
        is_at_rest = firing is None or bool(schedule.pins) or now - self._seen[name][1] >= REST_S
        return (now if is_at_rest else None), state

    def _blocking(self, workspace: Workspace, name: str, schedule: Schedule) -> Entry | None:
        """The run of this schedule that has not ended and keeps the next one from being queued."""
        entries = [entry for entry in open_entries(workspace.database) if entry.submission.schedule == name]
        if schedule.overlap == "cancel":
            for entry in entries:
                workspace.cancel(entry.run_id)
            return None
        return entries[0] if entries and schedule.overlap == "skip" else None

    def _submit(self, workspace: Workspace, name: str, schedule: Schedule, run_id: str) -> None:
        plan = plan_of(workspace, schedule, self.kinds)
        if not plan.to_run:
            log.info("schedule %s: nothing to run, everything exists", name)
        submission = Submission(
            at=iso_time(time.time()),
            by=schedule.by,
            run_id=run_id,
            recipe=plan.recipe,
            plan_digest=plan_digest(plan),
            person=schedule.person,
            priority=schedule.priority,
            cluster=schedule.cluster,
            pool=schedule.pool,
            stages=stage_needs(plan, schedule.prices),
            estimate_s=estimate_s(plan),
            limits=schedule.limits,
            schedule=name,
        )
        submit(workspace, plan, submission)


def plan_of(workspace: Workspace, schedule: Schedule, kinds: Kinds) -> Plan:
    """The plan of a schedule's recipe as it would be now. Raises: RecipeError: it cannot be used."""
    with tempfile.TemporaryDirectory(prefix="illume-") as folder:
        file = Path(folder, Path(schedule.file).name or "recipe.yaml")
        file.write_text(schedule.recipe)
        recipe = load_recipe(file, kinds, schedule.overrides)
    return make_plan(recipe, plan_view(workspace.artifacts, workspace.database), PlanOptions())


def files_state(address: str) -> str:
    """A digest of the names, sizes and times of the files at a folder or an address of a store.

    Raises: RecipeError, StoreError: it cannot be read.
    """
    found = hashlib.sha256()
    for line in _remote_files(address) if "://" in address else _local_files(Path(address)):
        found.update(f"{line}\n".encode())
    return found.hexdigest()


def _local_files(folder: Path) -> Iterator[str]:
    if not folder.is_dir():
        raise RecipeError(f"--files: found no folder {str(folder)!r}")
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.name.startswith("."):
            stat = file.stat()
            yield f"{file.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}"


def _remote_files(address: str) -> Iterator[str]:
    for item in open_store(address).list(""):
        yield f"{item.key} {item.bytes}"


def _pins_state(workspace: Workspace, stage_kind: str) -> str:
    found = [key.fingerprint[:16] for key in pins(workspace.store) if key.stage_kind == stage_kind]
    return ",".join(["pins", *sorted(found)])


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).astimezone(UTC).timestamp()


def new_name(recipe: str) -> str:
    return f"{recipe}-{secrets.token_hex(2)}"
