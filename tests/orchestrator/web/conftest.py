"""A made-up workspace with a few runs, and a client of its pages."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from orchestrator.artifact import JSON, ArtifactKey
from orchestrator.artifacts.run_records import RunRecords
from orchestrator.attempt_id import AttemptId
from orchestrator.history.attempts import AttemptIntent, StageRow
from orchestrator.history.events import AttemptState, RunState
from orchestrator.history.leases import Lease
from orchestrator.web.app import create_app
from orchestrator.web.settings import Settings
from orchestrator.workspace import Workspace
from stages import STAGE_KINDS

STAGES = ("raw", "curated", "tokens", "model")
BASE_URL = "http://127.0.0.1:8400"


@dataclass(kw_only=True)
class MadeUp:
    """Makes runs in a workspace as drivers do, without doing the work."""

    workspace: Workspace
    leases: dict[str, Lease] = field(default_factory=dict)

    def start(self, run_id: str, *, recipe: str = "tiny", stages: tuple[str, ...] = STAGES) -> int:
        """A run at work; its epoch."""
        runs = self.workspace.runs
        rows = [
            StageRow(
                stage_id=stage,
                stage_kind="curate",
                fingerprint=fingerprint(recipe, stage),
                action="run",
                reasons=("never made",),
                upstream=stages[number - 1 : number] if number else (),
            )
            for number, stage in enumerate(stages)
        ]
        plan: dict[str, JSON] = {"format": 1, "recipe": recipe, "file": "tiny.yaml",
                                 "stages": [planned(row) for row in rows]}  # fmt: skip
        digest = fingerprint(recipe, "plan")
        RunRecords(self.workspace.store).put_plan(digest, plan)
        runs.create_run(run_id, recipe_name=recipe, plan_digest=digest, stages=rows)
        lease = self.workspace.leases.acquire(f"run:{run_id}", duration_s=3600.0)  # longer than any test
        assert lease is not None
        self.leases[run_id] = lease
        return runs.begin_epoch(run_id, lease)

    def attempt(self, run_id: str, stage: str, *, number: int = 1, recipe: str = "tiny") -> str:
        """An attempt at work; its id."""
        epoch = self.leases[run_id].epoch
        attempt = AttemptId.of(run_id, stage, epoch=epoch, number=number)
        key = ArtifactKey("curate", fingerprint(recipe, stage))
        self.workspace.runs.start_attempt(AttemptIntent(attempt=attempt, key=key, stage_version=1, config={}))
        self._move(attempt.name, run_id, AttemptState.INTENT, AttemptState.RUNNING)
        return attempt.name

    def commit(self, run_id: str, stage: str, **rest: Any) -> None:
        self._move(self.attempt(run_id, stage, **rest), run_id, AttemptState.RUNNING, AttemptState.COMMITTED)

    def fail(self, run_id: str, stage: str, message: str, *, failure_class: str = "user_code", **rest: Any) -> None:
        fields: dict[str, JSON] = {"failure_class": failure_class, "message": message}
        self._move(self.attempt(run_id, stage, **rest), run_id, AttemptState.RUNNING, AttemptState.FAILED, fields)

    def record(self, run_id: str, kind: str, fields: dict[str, JSON], *, stage: str, attempt: str = "") -> None:
        epoch = self.leases[run_id].epoch
        self.workspace.runs.record(run_id, kind, fields, epoch=epoch, stage_id=stage, attempt_id=attempt or None)

    def end(self, run_id: str, state: RunState = RunState.SUCCEEDED, message: str = "") -> None:
        fields: dict[str, JSON] = {"message": message} if message else {}
        epoch = self.leases[run_id].epoch
        self.workspace.runs.transition_run(run_id, RunState.RUNNING, state, epoch=epoch, fields=fields)
        self.workspace.leases.release(self.leases[run_id])

    def _move(
        self,
        attempt: str,
        run_id: str,
        old: AttemptState,
        new: AttemptState,
        fields: dict[str, JSON] | None = None,
    ) -> None:
        epoch = self.leases[run_id].epoch
        self.workspace.runs.transition_attempt(attempt, old, new, epoch=epoch, fields=fields or {})


def planned(row: StageRow) -> dict[str, JSON]:
    return {
        "id": row.stage_id,
        "kind": row.stage_kind,
        "config": {"min_side": 40},
        "inputs": {"raw": list(row.upstream)},
        "resources": {"cpus": 1.0, "gpus": 1.0, "workers": 2},
        "retry": {},
        "gates": {"kept": {"at_least": 10.0, "at_most": None, "severity": "error"}},
        "payload": {"kind": row.stage_kind, "version": 1},
        "fingerprint": row.fingerprint,
        "action": row.action,
        "redo": False,
        "reasons": [{"type": "never_made"}],
        "estimate_s": None,
    }


def fingerprint(recipe: str, name: str) -> str:
    return f"{recipe}{name}".encode().hex().ljust(64, "0")[:64]


@pytest.fixture
def made_up(tmp_path: Path) -> Iterator[MadeUp]:
    with Workspace.open(root=tmp_path / "illume", tracking_url="none") as workspace:
        yield MadeUp(workspace=workspace)


@pytest.fixture
def settings(made_up: MadeUp, tmp_path: Path) -> Settings:
    root = tmp_path / "illume"
    return Settings(
        open=lambda: Workspace.open(root=root, tracking_url="none", create=False),
        kinds=STAGE_KINDS,
        folder=root / "web",
    )


ClientOf = Callable[..., TestClient]


@pytest.fixture
def client_of(settings: Settings) -> Iterator[ClientOf]:
    """A client of a service with changed settings; `address`: that it comes from."""
    opened: list[TestClient] = []

    def make(*, address: str = "127.0.0.1", base_url: str = BASE_URL, **changes: Any) -> TestClient:
        client = TestClient(
            create_app(replace(settings, **changes)),
            base_url=base_url,
            client=(address, 50_000),
            follow_redirects=False,
            raise_server_exceptions=True,
        )
        client.__enter__()
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def client(client_of: ClientOf) -> TestClient:
    return client_of()
