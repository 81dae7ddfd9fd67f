"""Keeps the tables of the current schema version, with rows of two runs, for the tests of the next one.

`python tests/orchestrator/history/database/keep_schema.py` writes `schema_<version>.json` beside this file.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateIndex, CreateTable

from orchestrator.artifact import ArtifactKey
from orchestrator.attempt_id import AttemptId
from orchestrator.history.attempts import AttemptIntent, StageRow
from orchestrator.history.database.database import Database
from orchestrator.history.database.known_store import remember_store
from orchestrator.history.database.migrations import SCHEMA_VERSION
from orchestrator.history.database.schema import metadata
from orchestrator.history.events import AttemptState, RunState
from orchestrator.history.leases import Leases
from orchestrator.history.run_store import RunStore
from orchestrator.store.store_identity import ExpectedStore

FINGERPRINTS = {"raw": "a" * 64, "curated": "b" * 64}


def write_runs(database: Database) -> None:
    """Two runs: `r1` has failed; `r2` is at work, and its second stage waits."""
    remember_store(database, ExpectedStore(store_id="0123456789abcdef"))
    store = RunStore(database)
    rows = [
        StageRow(stage_id=name, stage_kind="draw", fingerprint=FINGERPRINTS[name], action="run")
        for name in FINGERPRINTS
    ]
    for run_id in ("r1", "r2"):
        store.create_run(run_id, recipe_name="shapes", plan_digest="d" * 64, stages=rows)
        lease = Leases(database).acquire(f"run:{run_id}", duration_s=1e9)
        assert lease is not None
        epoch = store.begin_epoch(run_id, lease)
        attempt = AttemptId(run_id=run_id, stage_id="raw", epoch=epoch, name=f"{run_id}-raw-1-1")
        key = ArtifactKey("draw", FINGERPRINTS["raw"])
        store.start_attempt(AttemptIntent(attempt=attempt, key=key, stage_version=1, config={"scenes": 8}))
        store.transition_attempt(attempt.name, AttemptState.INTENT, AttemptState.RUNNING, epoch=epoch)
        tracker = store.telemetry.tracker(attempt)
        tracker.log_metrics({"loss": 0.5}, step=1)
        tracker.progress(3, 8, "scenes")
        store.telemetry.flush()
        if run_id == "r1":
            mistake = {"failure_class": "user_code", "message": "a mistake"}
            store.transition_attempt(
                attempt.name, AttemptState.RUNNING, AttemptState.FAILED, epoch=epoch, fields=mistake
            )
            store.transition_run(run_id, RunState.RUNNING, RunState.FAILED, epoch=epoch)
        else:
            store.record(run_id, "waiting", {"for": "process 4711 on host7"}, epoch=epoch, stage_id="curated")
    store.close()


def statements(dialect: Dialect) -> list[str]:
    found = []
    for table in metadata.sorted_tables:
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        made = [CreateTable(table), *(CreateIndex(index) for index in indexes)]
        found += [" ".join(str(item.compile(dialect=dialect)).split()) for item in made]
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(str(Path(folder) / "index.db"))
        write_runs(database)

        def read(connection: Connection) -> dict[str, list[dict[str, Any]]]:
            return {
                table.name: [dict(row._mapping) for row in connection.execute(select(table))]
                for table in metadata.sorted_tables
            }

        kept = {"sqlite": statements(sqlite.dialect()), "postgresql": statements(postgresql.dialect())}
        kept |= {"rows": database.read(read)}
    path = Path(__file__).with_name(f"schema_{SCHEMA_VERSION}.json")
    path.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
