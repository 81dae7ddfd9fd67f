"""Budgets and the cost of runs, from attempts on record."""

import json
from pathlib import Path

import pytest
from sqlalchemy import Connection, update

from orchestrator.history.database.schema import attempts, events
from orchestrator.queue.claims import stop_reason
from orchestrator.queue.entries import open_entries
from orchestrator.queue.records import Budget, Limits
from orchestrator.queue.rows import add_record
from orchestrator.scheduler.budgets import BudgetWatcher, findings
from orchestrator.times import iso_time
from orchestrator.workspace import Workspace
from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume

illume = test_cli.illume
NOW = 1_800_000_000.0


def spend(workspace: Workspace, run_id: str, *, hours: float, gpus: float) -> None:
    """Let the attempts of a run have taken hours and accelerators."""

    def work(connection: Connection) -> None:
        times = {"started_at": NOW - hours * 3600, "ended_at": NOW}
        connection.execute(update(attempts).where(attempts.c.run_id == run_id).values(times))
        for row in connection.execute(
            events.select().where(events.c.run_id == run_id, events.c.kind == "attempt_state")
        ):
            fields = json.loads(row.fields)
            if "resources" in fields:
                fields["resources"]["gpus"] = gpus
                of_event = (events.c.run_id == run_id) & (events.c.sequence == row.sequence)
                connection.execute(update(events).where(of_event).values(fields=json.dumps(fields)))

    workspace.database.write(work)


@pytest.fixture
def failed(illume: Illume, tmp_path: Path) -> str:
    """A run that was submitted, failed at its second stage, and is in the queue again."""
    fault = tmp_path / "fault"
    override = ("--set", f"stages.loud.config.fault={fault}")
    run_id: str = illume("submit", "words.yaml", *override, "--budget", "gpu_hours=10", "--json").data["run_id"]
    fault.write_text("interrupt")
    illume("run", "words.yaml", *override)
    return run_id


def test_a_run_is_warned_about_and_stops_at_its_budget(illume: Illume, tmp_path: Path, failed: str) -> None:
    told: list[str] = []
    with Workspace.open(root=tmp_path / ".illume", tracking_url="none") as workspace:
        for hours, word in ((1.0, ""), (4.2, "warning"), (5.5, "spent")):
            spend(workspace, failed, hours=hours, gpus=1.0)
            told.clear()
            server = BudgetWatcher(notify=lambda _workspace, occasion, _text: told.append(occasion))
            held = server.look(workspace, NOW)
            assert [occasion.split(":")[0] for occasion in told] == ([f"budget {word}"] if word else [])
            assert list(held) == ([failed] if word == "spent" else [])
        assert held[failed] == f"the budget of run {failed} is spent: 11 of 10 GPU hours"
        assert stop_reason(workspace.database, failed) == "", "it is not at work"


def test_budgets_of_a_month_are_of_a_user_or_of_everybody(illume: Illume, tmp_path: Path, failed: str) -> None:
    with Workspace.open(root=tmp_path / ".illume", tracking_url="none") as workspace:
        spend(workspace, failed, hours=2.0, gpus=2.0)
        for who in ("user:root", "user:eve", "all"):
            budget = Budget(at=iso_time(NOW), limits=Limits(gpu_hours=16.0))
            add_record(workspace.store, workspace.database, "budgets", who, budget)
        entries = open_entries(workspace.database)
        person = entries[0].submission.person
        shares = {found.name: found.share for found in findings(workspace.database, entries, NOW)}
        month = "in 2027-01"
        assert shares[f"everybody {month}"] == pytest.approx(0.5)
        assert shares[f"user eve {month}"] == 0.0
        assert shares.get(f"user {person} {month}", 0.5) == pytest.approx(0.5)


def test_the_cost_of_a_run_says_what_is_unknown(illume: Illume, tmp_path: Path, failed: str) -> None:
    with Workspace.open(root=tmp_path / ".illume", tracking_url="none") as workspace:
        spend(workspace, failed, hours=2.0, gpus=1.0)
    cost = illume("status", failed, "--cost", "--json").data
    assert [stage["stage"] for stage in cost["stages"]] == ["said", "loud"]
    assert cost["total"]["spent"]["gpu_hours"] == pytest.approx(4.0)
    assert cost["total"]["spent"]["money"] is None
    assert cost["total"]["attempts"] == 2
    assert "unknown" in illume("status", failed, "--cost").out


def test_budgets_are_set_listed_and_lifted(illume: Illume) -> None:
    assert illume("budget", "set", "user:ada", "gpu_hours=5", "money=7").code == 0
    assert illume("budget", "list", "--json").data["budgets"] == [{"who": "user:ada", "gpu_hours": 5.0, "money": 7.0}]
    assert "user:ada: 5 GPU hours, 7 in money a month" in illume("budget", "list").out
    illume("budget", "lift", "user:ada")
    assert illume("budget", "list", "--json").data["budgets"] == []
    assert illume("budget", "set", "ada", "gpu_hours=5").code == 2
    assert illume("budget", "set", "user:ada", "gpu_hours=x").code == 2
