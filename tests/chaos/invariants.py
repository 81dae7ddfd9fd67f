"""Invariants of a store and a database that must hold after any failure (I1 to I9)."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import select

from orchestrator.artifacts.checkpoints import StoredCheckpoints
from orchestrator.attempt_id import AttemptId
from orchestrator.history import lease_owners as owners
from orchestrator.history.database import schema
from orchestrator.history.events import AttemptState, RunState
from orchestrator.history.rebuild import rebuild_index
from orchestrator.history.run_status import list_runs
from orchestrator.planning.plan import Plan
from orchestrator.store.layout import ARTIFACTS, checkpoint_steps, stored_keys
from orchestrator.workspace import Workspace

TABLES = (schema.runs, schema.stages, schema.attempts, schema.events)
ENDED = {RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED}
TERMINAL = {AttemptState.FAILED, AttemptState.LOST, AttemptState.CANCELLED, AttemptState.COMMITTED}


def decisions(root: Path) -> dict[str, bytes]:
    """Every record of the store that is decided once: OUTCOME, COMMIT, shard records, retractions."""
    store = root / "illume" / "store"
    found = {}
    for path in store.rglob("*"):
        name = path.name
        is_record = (
            name == "OUTCOME" or name.startswith("COMMIT") or (name.endswith(".json") and "shards" in path.parts)
        )
        if path.is_file() and is_record:
            found[path.relative_to(store).as_posix()] = path.read_bytes()
    return found


def check_decisions_kept(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    """I2: every decided record still exists, byte for byte."""
    changed = [key for key, data in before.items() if after.get(key) != data]
    assert changed == [], f"decided records changed or vanished: {changed}"


def check(
    root: Path, workspace: Workspace, plan: Callable[[], Plan], *, abandoned: bool = False, collected: bool = False
) -> None:
    """Check everything that can be checked after a run has ended. Reads every byte and rebuilds the index.

    `abandoned`: some runs may have lost their driver with nobody going on with them. Their attempts may be open, and
    leases of a dead owner may wait to run out; without it neither is allowed. `collected`: garbage was, with it the
    checkpoints of stages that are committed.
    """
    _check_artifacts(workspace, collected=collected)
    _check_history(workspace, abandoned=abandoned)
    _check_nothing_left(root, workspace, abandoned=abandoned)
    actions = {stage.id: stage.action for stage in plan().stages}
    assert set(actions.values()) == {"reuse"}, f"I8: everything is made, but the plan says {actions}"
    _check_rebuilt(workspace)


def _check_artifacts(workspace: Workspace, *, collected: bool) -> None:
    """I1: everything committed is complete, byte for byte; every checkpoint to continue from is readable."""
    artifacts = list(workspace.artifacts.all())
    assert artifacts
    for stored in artifacts:
        manifest = stored.manifest
        assert workspace.artifacts.verify(manifest.key) == []
    for shard in workspace.ledger.all():
        assert workspace.ledger.verify(shard.key) == []
    store = workspace.artifacts.store
    for key in stored_keys(store, ARTIFACTS):
        if checkpoint_steps(store, key) and not (collected and workspace.artifacts.find(key)):
            checkpoints = StoredCheckpoints(
                store=store,
                cache=workspace.artifacts.cache,
                key=key,
                attempt=AttemptId(run_id="run", stage_id="stage", epoch=1, name="check"),
            )
            assert checkpoints.latest() is not None, f"I1: no checkpoint of {key} can be read"


def _check_history(workspace: Workspace, *, abandoned: bool) -> None:
    """I3: only one epoch writes at a time, and each attempt ends exactly once."""
    ended = {run.run_id for run in list_runs(workspace.database) if run.state in ENDED}
    assert ended
    for run_id, _ in workspace.records.runs():
        events = workspace.runs.events(run_id)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        epochs = [event.epoch for event in events]
        assert epochs == sorted(epochs), f"I3: epochs {epochs}"
        ends = Counter(
            event.attempt_id
            for event in events
            if event.kind == "attempt_state" and event.fields["to"] in {str(state) for state in TERMINAL}
        )
        begun = {event.attempt_id for event in events if event.kind == "attempt_state"}
        assert max(ends.values(), default=1) == 1, f"I3: ends of attempts {ends}"
        may_be_open = abandoned and run_id not in ended
        assert may_be_open or set(ends) == begun, f"I3: ends of attempts {ends}, begun {begun}"


def _check_nothing_left(root: Path, workspace: Workspace, *, abandoned: bool) -> None:
    """I4: no process of the folder is running, and no lease is held."""
    left = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = " ".join(process.info["cmdline"] or ())
        if str(root) in words and process.pid != psutil.Process().pid and "Agent" not in words:
            left.append(words[:200])
    assert left == [], f"I4: {left}"

    def held(connection: Any) -> list[str]:
        live = select(schema.leases.c.resource, schema.leases.c.owner).where(
            schema.leases.c.owner != "", schema.leases.c.expires_at > schema.database_now()
        )
        return [row.resource for row in connection.execute(live) if not (abandoned and owners.is_gone(row.owner))]

    assert workspace.database.read(held) == [], "I4: leases are still held"


def _check_rebuilt(workspace: Workspace) -> None:
    """I9: the index rebuilt from the store equals the one before."""
    before = _rows(workspace)
    assert rebuild_index(workspace.database, workspace.artifacts).problems == ()
    assert _rows(workspace) == before


def _rows(workspace: Workspace) -> dict[str, list[tuple[Any, ...]]]:
    def work(connection: Any) -> dict[str, list[tuple[Any, ...]]]:
        return {
            table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))]
            for table in TABLES
        }

    return workspace.database.read(work)
