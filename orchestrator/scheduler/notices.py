"""Notices to people through `apprise`: once for each occasion, with the cause and the command to type.

Rule: a channel that fails delays nothing; notices are sent in a thread of their own, tried three times, and given up.
"""

import hashlib
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from orchestrator.errors import RecipeError
from orchestrator.failures.failure_class import FailureClass
from orchestrator.history.changes import read_changes
from orchestrator.history.database.schema import events, runs, stages
from orchestrator.history.events import AttemptState, EventKind, RunState
from orchestrator.installation.extras import require_extra
from orchestrator.queue.records import Notice
from orchestrator.queue.rows import FIRST, add_record
from orchestrator.redaction.masking import mask_text, remember_secret
from orchestrator.times import iso_time
from orchestrator.workspace import Workspace

TRIES, PAUSE_S = 3, 5.0
SPIKE = "loss_spike"  # the event of a training whose loss left its band
LOOK_S = 10.0
BACK_S = 3600.0  # how far a server that starts looks back; what was notified before is on record

log = logging.getLogger(__name__)
Send = Callable[[str, str], bool]  # title, text; False: it was not delivered


@dataclass(kw_only=True)
class Notices:
    """Sends notices and remembers them in the store. A context of one server."""

    send: Send
    pause_s: float = PAUSE_S
    _waiting: "queue.SimpleQueue[tuple[str, str]]" = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        threading.Thread(target=self._deliver, name="notices", daemon=True).start()

    def notify(self, workspace: Workspace, occasion: str, text: str) -> None:
        """Send a notice unless this occasion was notified before, by any server."""
        subject = hashlib.sha256(occasion.encode()).hexdigest()[:32]
        notice = Notice(at=iso_time(time.time()), text=mask_text(f"{occasion}\n{text}")[:4000])
        if add_record(workspace.store, workspace.database, "notices", subject, notice, number=FIRST):
            self._waiting.put((f"illume: {occasion}", text))

    def _deliver(self) -> None:
        while True:
            title, text = self._waiting.get()
            for _ in range(TRIES):
                try:
                    if self.send(title, text):
                        break
                    problem = "a channel refused it"
                except Exception as error:  # noqa: BLE001 - whatever a channel does, work goes on
                    problem = mask_text(str(error))
                time.sleep(self.pause_s)
            else:
                log.warning("notice %r: not delivered: %s", title, problem)


@dataclass(kw_only=True)
class EventWatcher:
    """Finds what people want to hear of: failed runs, refused gates, spikes, long waits, takedowns."""

    notices: Notices
    waits_longer_s: float
    _looked_at: float = float("-inf")
    _since: float | None = None

    def look(self, workspace: Workspace, now: float) -> dict[str, str]:
        if now - self._looked_at < LOOK_S:
            return {}
        self._looked_at = now
        since = now - BACK_S if self._since is None else self._since
        for occasion, text in (*self._events(workspace, since), *self._waits(workspace, now), *_takedowns(workspace)):
            self.notices.notify(workspace, occasion, text)
        self._since = now - 2 * LOOK_S  # events of one moment may be seen at different ones
        return {}

    def _events(self, workspace: Workspace, since: float) -> Iterator[tuple[str, str]]:
        wanted = (str(EventKind.RUN_STATE), str(EventKind.ATTEMPT_STATE), SPIKE)
        query = select(events).where(events.c.time >= since, events.c.kind.in_(wanted)).order_by(events.c.time)
        for row in workspace.database.read(lambda connection: connection.execute(query).all()):
            yield from _occasion(row)

    def _waits(self, workspace: Workspace, now: float) -> Iterator[tuple[str, str]]:
        query = (
            select(stages.c.run_id, stages.c.stage_id, stages.c.waiting_for, stages.c.waiting_since)
            .join(runs, runs.c.run_id == stages.c.run_id)
            .where(runs.c.state == RunState.RUNNING, stages.c.waiting_for != "")
            .where(stages.c.waiting_since < now - self.waits_longer_s)
        )
        for row in workspace.database.read(lambda connection: connection.execute(query).all()):
            occasion = f"run {row.run_id}: {row.stage_id} waits since {iso_time(row.waiting_since)}"
            yield occasion, f"It waits for {row.waiting_for}.\nillume queue"


def _occasion(row: Any) -> Iterator[tuple[str, str]]:

    fields = json.loads(row.fields)
    message = str(fields.get("message", ""))
    if row.kind == EventKind.RUN_STATE and fields.get("to") == RunState.FAILED:
        yield f"run {row.run_id} failed (event {row.sequence})", f"{_cause(message)}\nillume show {row.run_id}"
    elif row.kind == EventKind.ATTEMPT_STATE and fields.get("to") == AttemptState.FAILED and "gates." in message:
        target = f"{row.run_id}:{row.stage_id}"
        yield f"run {target}: a gate refused its output (event {row.sequence})", f"{message}\nillume show {target}"
    elif row.kind == SPIKE or fields.get("failure_class") == FailureClass.NUMERIC:
        target = f"{row.run_id}:{row.stage_id}"
        cause = message or f"at step {fields.get('step', 'unknown')}"
        yield f"run {target}: a loss spiked (event {row.sequence})", f"{cause}\nillume logs {target}"


def _cause(message: str) -> str:
    """The root cause in the message of a failed run: the error below the trace, and what to do."""
    lines = [line.strip() for line in message.splitlines() if line.startswith("    ")]
    ends = [number for number, line in enumerate(lines) if line.startswith("(") and number]
    if not ends:
        return message[:500]
    advice = [line for line in lines[ends[0] :] if line.startswith("What to do")]
    return "\n".join([lines[ends[0] - 1], *advice[:1]])


def _takedowns(workspace: Workspace) -> Iterator[tuple[str, str]]:
    for change in read_changes(workspace.store):
        if change.what == "takedown":
            names = ", ".join(change.subjects)
            yield f"takedown {names} took effect at {change.at}", f"illume takedown receipt {names}"


def log_notice(title: str, text: str) -> bool:
    """Into the log, where no channels are given."""
    log.warning("%s: %s", title, " ".join(text.split()))
    return True


def apprise_of(file: Path) -> Send:
    """A sender to the addresses of apprise in a file, one a line. Addresses are secrets and never shown.

    Raises:
        RecipeError: the file cannot be read, or a line is no address that apprise knows.
        MissingExtraError: apprise is not installed.
    """
    require_extra("notify")
    import apprise

    try:
        lines = [line.strip() for line in file.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"--notify: cannot read {file}: {error}") from error
    channels = apprise.Apprise()
    for number, line in enumerate(lines, start=1):
        if not line or line.startswith("#"):
            continue
        remember_secret(line)
        if not channels.add(line):
            raise RecipeError(f"--notify: {file}:{number}: not an address that apprise knows")
    if not len(channels):
        raise RecipeError(f"--notify: {file}: found no address, expected one of apprise a line")
    return lambda title, text: bool(channels.notify(title=title, body=text))
